"""The floor below every queue in PostgreSQL: a table, INSERT and NOTIFY, LISTEN, UPDATE … SKIP LOCKED, by psycopg.

It knows neither types nor retries, checks nothing and finishes nothing; what a queue takes longer is the price of
being one.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from benchmarks.meter import Meter

TABLE = "create table floor (id bigint generated always as identity primary key, payload jsonb not null, begun boolean)"
WAITING = "create index on floor (id) where begun is null"
SUBMIT = """with added as (insert into floor (payload) values (%s::jsonb) returning id)
select pg_notify('floor', '') from added"""
BEGIN = """update floor set begun = true
where id = (select id from floor where begun is null order by id limit 1 for update skip locked) returning payload"""


class Floor(Adapter):
    """One connection to submit; one to listen and one to claim."""

    async def install(self) -> None:
        """Make the table."""
        conn = await self._connect()
        await conn.execute(TABLE)
        await conn.execute(WAITING)

    async def work(self, profile: str, meter: Meter) -> None:  # noqa: ARG002 - there is but one
        """Begin what is there, one at a time, then wait to be told of more."""
        claims, listens = await self._connect(), await self._connect()
        await listens.execute("listen floor")
        told = asyncio.Event()

        def hear() -> None:
            listens.pgconn.consume_input()
            while listens.pgconn.notifies():
                told.set()

        asyncio.get_running_loop().add_reader(listens.fileno(), hear)
        while True:
            told.clear()
            while row := await (await claims.execute(BEGIN)).fetchone():
                meter.mark(row[0].get("t"))
            await told.wait()

    async def open(self, clients: int) -> None:  # noqa: ARG002 - one connection
        """Connect."""
        self._submits = await self._connect()

    async def submit_one(self, payload: Payload) -> None:
        """Insert and notify, in one statement."""
        await self._submits.execute(SUBMIT, (json.dumps(payload),))

    async def submit_many(self, payloads: list[Payload]) -> None:
        """One after another."""
        for payload in payloads:
            await self.submit_one(payload)

    async def _connect(self) -> psycopg.AsyncConnection[tuple[Any, ...]]:
        return await psycopg.AsyncConnection.connect(self.dsn, autocommit=True, prepare_threshold=0)


if __name__ == "__main__":
    run(Floor)
