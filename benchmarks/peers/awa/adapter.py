"""Awa: a worker in Rust that calls Python; one queue with many workers."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import awa

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from benchmarks.meter import Meter


@dataclass
class Noop:
    """The payload."""

    i: int
    t: float | None = None


class Awa(Adapter):
    """One kind of job."""

    async def install(self) -> None:
        """Apply its schema."""
        client = awa.AsyncClient(self.dsn)
        await client.migrate()
        await client.close()

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker."""
        client = awa.AsyncClient(self.dsn)

        @client.task(Noop, kind="noop")
        async def noop(job: awa.Job[Noop]) -> None:
            meter.mark(job.args.t)

        if profile == "best":
            await client.start([("default", 128)], poll_interval_ms=20)
        else:
            await client.start()
        await asyncio.Event().wait()

    async def open(self, clients: int) -> None:  # noqa: ARG002 - the pool is as it comes
        """Make a client."""
        self.client = awa.AsyncClient(self.dsn)

    async def submit_one(self, payload: Payload) -> None:
        """Insert one."""
        await self.client.insert(Noop(**payload), kind="noop")

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Insert many by COPY."""
        await self.client.insert_many_copy([asdict(Noop(**payload)) for payload in payloads], kind="noop")


if __name__ == "__main__":
    run(Awa)
