"""chancy: the asynchronous executor with many jobs at a time; by default it starts processes and polls."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from chancy import Chancy, Queue, Worker, job

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.meter import Meter

METER: list[Meter] = []


@job(queue="default")
async def noop(*, i: int, t: float | None = None) -> None:  # noqa: ARG001 - the payload
    """Mark the meter; in a process of the default executor there is none, and the database tells."""
    if METER:
        METER[0].mark(t)


class ChancyAdapter(Adapter):
    """One queue."""

    def _app(self) -> Chancy:
        quiet = logging.getLogger("quiet")
        quiet.setLevel(logging.ERROR)
        return Chancy(self.dsn, log=quiet)

    async def install(self) -> None:
        """Apply its schema and declare the queue."""
        async with self._app() as app:
            await app.migrate()
            best = {"concurrency": 500, "executor": Chancy.Executor.Async, "eager_polling": True}
            await app.declare(Queue("default", **best))

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker; the queue's row, not the worker, says how."""
        METER.append(meter)
        os.environ.setdefault("PYTHONPATH", ".")
        async with self._app() as app:
            if profile == "default":
                await app.declare(Queue("default"), upsert=True)
            async with Worker(app, register_signal_handlers=False) as worker:
                await worker.wait_for_shutdown()

    async def open(self, clients: int) -> None:  # noqa: ARG002 - the pool is as it comes
        """Open the pool."""
        self.app = await self._app().__aenter__()

    async def submit_one(self, payload: Payload) -> None:
        """Push one."""
        await self.app.push(noop.job.with_kwargs(**payload))

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Push many."""
        async for _ in self.app.push_many(list(self._jobs(payloads)), batch_size=len(payloads)):
            pass

    def _jobs(self, payloads: Iterable[Payload]) -> Iterable[object]:
        return (noop.job.with_kwargs(**payload) for payload in payloads)


if __name__ == "__main__":
    # Jobs name their function by module: the worker must find the one that it has a meter in.
    from benchmarks.peers.chancy import adapter

    run(adapter.ChancyAdapter)
