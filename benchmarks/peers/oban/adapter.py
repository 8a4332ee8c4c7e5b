"""oban for Python: a queue with a high limit; by default ten at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from oban import Oban, worker
from oban.schema import install
from psycopg_pool import AsyncConnectionPool

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from oban.job import Job

    from benchmarks.meter import Meter

METER: list[Meter] = []


class Noop:
    """The one job."""

    async def process(self, job: Job) -> None:
        """Mark the meter."""
        if METER:
            METER[0].mark(job.args.get("t"))


NOOP: Any = worker(queue="default")(Noop)


class ObanAdapter(Adapter):
    """One queue."""

    async def _pool(self) -> AsyncConnectionPool[Any]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(self.dsn, min_size=2, max_size=10, open=False)
        await pool.open()
        return pool

    async def install(self) -> None:
        """Apply its schema."""
        pool = await self._pool()
        await install(pool)
        await pool.close()

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker."""
        METER.append(meter)
        app = Oban(pool=await self._pool(), queues={"default": 500 if profile == "best" else 10})
        await app.start()
        await asyncio.Event().wait()

    async def open(self, clients: int) -> None:  # noqa: ARG002 - the pool is as it comes
        """Open the pool."""
        self.app = Oban(pool=await self._pool())
        await self.app.start()

    async def submit_one(self, payload: Payload) -> None:
        """Enqueue one."""
        await self.app.enqueue(NOOP.new(payload))

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Enqueue many."""
        await self.app.enqueue_many(*[NOOP.new(payload) for payload in payloads])


if __name__ == "__main__":
    from benchmarks.peers.oban import adapter

    run(adapter.ObanAdapter)
