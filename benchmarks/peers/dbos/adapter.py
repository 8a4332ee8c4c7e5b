"""dbos: workflows of one queue, enqueued by its client; at its best it polls often and runs many at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from dbos import DBOS, DBOSClient

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from benchmarks.meter import Meter


class Dbos(Adapter):
    """One workflow."""

    def _launch(self, meter: Meter | None = None) -> None:
        DBOS(config={"name": "noop", "system_database_url": self.dsn, "log_level": "ERROR", "application_version": "1"})

        @DBOS.workflow(name="noop")
        async def noop(payload: dict[str, Any]) -> None:
            if meter:
                meter.mark(payload.get("t"))

        DBOS.launch()

    async def install(self) -> None:
        """Apply its schema."""
        await asyncio.to_thread(self._launch)
        await asyncio.to_thread(DBOS.destroy)

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker."""
        await asyncio.to_thread(self._launch, meter)
        options = {"polling_interval_sec": 0.05} if profile == "best" else {}
        await DBOS.register_queue_async("noop", **options)
        await asyncio.Event().wait()

    async def open(self, clients: int) -> None:  # noqa: ARG002 - the pool is as it comes
        """Make a client."""
        self.client = DBOSClient(system_database_url=self.dsn)
        self.options: Any = {"workflow_name": "noop", "queue_name": "noop", "app_version": "1"}

    async def submit_one(self, payload: Payload) -> None:
        """Enqueue one."""
        await self.client.enqueue_async(self.options, payload)

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Enqueue all by ten threads: it has no call for many."""
        for first in range(0, len(payloads), 10):
            await asyncio.gather(*[self.submit_one(payload) for payload in payloads[first : first + 10]])


if __name__ == "__main__":
    run(Dbos)
