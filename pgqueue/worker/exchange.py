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

__all__ = ["Answer", "Claim", "Lines", "finish_parameters", "round_trip", "settle"]

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


class Answer:
    """What a round trip brought: the ids left unsettled, and rows that are read when there is time."""

    def __init__(self, cursor: psycopg.AsyncCursor[Row], first: Row | None, last: Row | None) -> None:
        """`first` and `last` are the only rows read so far; both None where nothing was claimed."""
        self.first = first
        self.last = last
        self.count = 0 if first is None else cursor.rowcount
        self.unsettled: Sequence[int] = ()
        self._cursor = cursor

    async def rows(self) -> list[Row]:
        """Read the claimed rows."""
        if self.first is None:
            return []
        if self.count == 1:
            return [self.first]
        await self._cursor.scroll(0, "absolute")
        return await self._cursor.fetchall()


async def round_trip(
    conn: psycopg.AsyncConnection[Row], ended: Sequence[Attempt], reports: Batch, claim: Claim | None
) -> Answer:
    """Finish what ended and claim anew."""
    if telemetry.tracing is not None:
        for span in (attempt.span for attempt in ended if attempt.span is not None):
            span.settle()
    with translated():
        if reports is not NOTHING:
            await _write(conn, reports)
        if claim is None:
            cursor = await conn.execute(calls.FINISH, (*finish_parameters(ended), False))
            answer = Answer(cursor, None, None)
            answer.unsettled = (await cursor.fetchall())[0][0]
        elif not ended:
            answer = await _answer(await conn.execute(calls.CLAIM, claim))
        else:
            answer = await _answer(await conn.execute(calls.EXCHANGE, (*finish_parameters(ended), *claim)))
            first = answer.first or ()
            answer.unsettled = first[-1] or ()
            if first[0] is None:
                answer.first, answer.last, answer.count = None, None, 0
    return answer


async def _answer(cursor: psycopg.AsyncCursor[Row]) -> Answer:
    if not cursor.rowcount:
        return Answer(cursor, None, None)
    first = await cursor.fetchone()
    if cursor.rowcount == 1:
        return Answer(cursor, first, first)
    await cursor.scroll(cursor.rowcount - 1, "absolute")
    return Answer(cursor, first, await cursor.fetchone())


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
    """Return the parameters of FINISH but the last."""
    contexts = [attempt.ctx.row for attempt in ended]
    ids = calls.array([str(row[0]) for row in contexts])
    attempts = calls.array([str(row[1]) for row in contexts])
    elapsed = calls.array([str(attempt.elapsed_us) for attempt in ended])
    results = [attempt.result for attempt in ended]
    failures = [attempt.failure for attempt in ended]
    return (
        ids,
        attempts,
        elapsed,
        results if any(results) else None,
        failures if any(failures) else None,
    )
