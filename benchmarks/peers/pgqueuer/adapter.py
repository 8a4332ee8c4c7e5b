"""pgqueuer: asyncpg, uvloop and a large batch are what its documents recommend for throughput."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from pgqueuer.models import Job

    from benchmarks.meter import Meter


class Pgqueuer(Adapter):
    """One entrypoint."""

    async def _driver(self) -> AsyncpgDriver:
        (folder,) = parse_qs(urlsplit(self.dsn).query)["host"]
        return AsyncpgDriver(await asyncpg.connect(self.dsn, host=folder))

    async def install(self) -> None:
        """Apply its schema."""
        await Queries(await self._driver()).install()

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker."""
        worker = PgQueuer(await self._driver())

        @worker.entrypoint("noop")
        async def noop(job: Job) -> None:
            meter.mark(json.loads(job.payload or b"{}").get("t"))

        await worker.run(**({"batch_size": 1000} if profile == "best" else {}))

    async def open(self, clients: int) -> None:  # noqa: ARG002 - one connection
        """Connect."""
        self.queries = Queries(await self._driver())

    async def submit_one(self, payload: Payload) -> None:
        """Enqueue one."""
        await self.queries.enqueue("noop", json.dumps(payload).encode())

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Enqueue a list."""
        count = len(payloads)
        await self.queries.enqueue(["noop"] * count, [json.dumps(p).encode() for p in payloads], [0] * count)


if __name__ == "__main__":
    if sys.argv[3:4] != ["default"]:
        uvloop.install()
    run(Pgqueuer)
