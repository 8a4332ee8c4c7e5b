"""The floor below pgqueue's worker: a psycopg loop over the same claim and finish functions, which runs nothing.

It reads its rows as the worker does, marks the meter for each, and sends each outcome; so what the worker takes
longer is the price of handlers, timeouts, cancellation and context.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg

from benchmarks.peers.adapter import run
from benchmarks.peers.pgqueue.adapter import Pgqueue
from pgqueue import calls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.meter import Meter

BATCH = 500


class Bare(Pgqueue):
    """Installed and submitted to as pgqueue."""

    async def work(self, profile: str, meter: Meter) -> None:  # noqa: ARG002 - there is but one
        """Claim and finish until nothing is left, then wait to be stopped."""
        options = "-c timezone=UTC"
        async with await psycopg.AsyncConnection.connect(
            self.dsn, autocommit=True, prepare_threshold=0, options=options
        ) as conn:
            answer = await conn.execute("select pgqueue.register_worker('bare', 1, array['default'])")
            (worker_id,) = await answer.fetchone() or (0,)
            await drain(conn, worker_id, meter)
        await asyncio.Event().wait()


async def drain(conn: psycopg.AsyncConnection[Any], worker_id: int, meter: Meter) -> None:
    """Exchange one batch after another; each claim begins where the last one ended."""
    rows: list[tuple[Any, ...]] = []
    cursor = ("{}", "{}", "{}")
    decode = msgspec.json.Decoder(dict[str, Any]).decode
    claim_no = 0
    while rows or claim_no == 0:
        claim_no += 1
        ended = (array(row[0] for row in rows), array(row[1] for row in rows), array(1000 for _ in rows), None, None)
        claim = (worker_id, "default", BATCH, claim_no, *cursor, "0", array([claim_no - 1]))
        answer = await conn.execute(calls.EXCHANGE, (*ended, *claim))
        rows = [row for row in await answer.fetchall() if row[0] is not None]
        for row in rows:
            meter.mark(decode(row[5]).get("t"))
        if rows:
            cursor = (array([rows[-1][2]]), array([rows[-1][3]]), array([rows[-1][0]]))


def array(values: Iterable[object]) -> str:
    """Write an array as the worker does."""
    return calls.array(map(str, values))


if __name__ == "__main__":
    run(Bare)
