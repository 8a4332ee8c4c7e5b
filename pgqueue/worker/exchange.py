"""One round trip: what ended goes out, what is due comes in.

finish and claim travel in one statement. Whatever goes wrong with it, the worker settles again without
the claim, attempt by attempt, and at last without the result that cannot be written; finishing is
idempotent per lease, so repeating it is safe.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pgqueue import calls, telemetry
from pgqueue.database import Database, translated
from pgqueue.worker.reports import NOTHING, Batch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import psycopg

    from pgqueue.worker.attempts import Attempt

__all__ = ["Claim", "Lines", "finish_parameters", "round_trip", "settle"]

Row = tuple[Any, ...]
Claim = tuple[Any, ...]
"""Parameters of pgqueue.claim."""


class Lines:
    """A few dedicated connections, opened again when they break."""

    def __init__(self, database: Database, size: int) -> None:
        """Connections are opened when first taken."""
        self._database = database
        self._free: asyncio.LifoQueue[psycopg.AsyncConnection[Row] | None] = asyncio.LifoQueue()
        for _ in range(size):
            self._free.put_nowait(None)

    @contextlib.asynccontextmanager
    async def take(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """Lend a connection; one that an error leaves in doubt is closed."""
        conn = await self._free.get()
        try:
            if conn is None or conn.closed:
                conn = await self._database.connect()
            yield conn
        except BaseException:
            if conn is not None:
                await conn.close()
            conn = None
            raise
        finally:
            self._free.put_nowait(conn)

    async def close(self) -> None:
        """Close those that are free."""
        while not self._free.empty():
            conn = self._free.get_nowait()
            if conn is not None:
                await conn.close()


async def round_trip(
    conn: psycopg.AsyncConnection[Row], ended: Sequence[Attempt], reports: Batch, claim: Claim | None
) -> tuple[list[int], list[Row]]:
    """Finish what ended and claim anew; return the ids left unsettled and the rows claimed."""
    if telemetry.tracing is not None:
        for span in (attempt.span for attempt in ended if attempt.span is not None):
            span.settle()
    with translated():
        if reports is not NOTHING:
            await _write(conn, reports)
        if claim is None:
            cursor = await conn.execute(calls.FINISH, (*finish_parameters(ended), False))
            return (await cursor.fetchall())[0][0], []
        if not ended:
            cursor = await conn.execute(calls.CLAIM, claim)
            return [], await cursor.fetchall()
        cursor = await conn.execute(calls.EXCHANGE, (*finish_parameters(ended), *claim))
        rows = await cursor.fetchall()
    return rows[0][-1] or [], rows if rows[0][0] is not None else []


async def settle(conn: psycopg.AsyncConnection[Row], attempt: Attempt, reports: Batch) -> bool:
    """Finish one attempt, waiting for whoever holds its row; False if its lease is lost."""
    with translated():
        async with conn.transaction():
            await _write(conn, reports)
            cursor = await conn.execute(calls.FINISH, (*finish_parameters([attempt]), True))
            row = await cursor.fetchone()
    return row is not None and not row[0]


async def _write(conn: psycopg.AsyncConnection[Row], reports: Batch) -> None:
    progress, lines = reports.progress_json(), reports.lines_json()
    if progress is not None:
        await conn.execute(calls.REPORT_PROGRESS, (progress,))
    if lines is not None:
        await conn.execute(calls.WRITE_LOGS, (lines,))


def finish_parameters(
    ended: Sequence[Attempt],
) -> tuple[str, str, str, list[str | None] | None, list[str | None] | None]:
    """Arrays as PostgreSQL reads them, built by hand because this is the hottest path."""
    contexts = [attempt.ctx.row for attempt in ended]
    ids = "{" + ",".join([str(row[0]) for row in contexts]) + "}"
    attempts = "{" + ",".join([str(row[1]) for row in contexts]) + "}"
    elapsed = "{" + ",".join([str(attempt.elapsed_us) for attempt in ended]) + "}"
    results = [attempt.result for attempt in ended]
    failures = [attempt.failure for attempt in ended]
    return (
        ids,
        attempts,
        elapsed,
        results if any(results) else None,
        failures if any(failures) else None,
    )
