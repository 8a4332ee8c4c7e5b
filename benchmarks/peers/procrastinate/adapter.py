"""procrastinate: asynchronous workers; its `concurrency` is all that its documents offer for throughput."""

from __future__ import annotations

from typing import TYPE_CHECKING

import procrastinate

from benchmarks.peers.adapter import Adapter, Payload, run

if TYPE_CHECKING:
    from benchmarks.meter import Meter


class Procrastinate(Adapter):
    """An app with one task."""

    def _app(self, meter: Meter | None = None) -> procrastinate.App:
        app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=self.dsn))

        @app.task(name="noop")
        async def noop(i: int, t: float | None = None) -> None:  # noqa: ARG001 - the payload
            if meter:
                meter.mark(t)

        self.task = noop
        return app

    async def install(self) -> None:
        """Apply its schema."""
        async with self._app().open_async() as app:
            await app.schema_manager.apply_schema_async()

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker."""
        async with self._app(meter).open_async() as app:
            options = {"concurrency": 10} if profile == "best" else {}
            await app.run_worker_async(install_signal_handlers=False, **options)

    async def open(self, clients: int) -> None:  # noqa: ARG002 - the pool is as it comes
        """Open the app."""
        await self._app().open_async()

    async def submit_one(self, payload: Payload) -> None:
        """Defer one."""
        await self.task.defer_async(**payload)

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Defer a batch."""
        await self.task.batch_defer_async(*payloads)


if __name__ == "__main__":
    run(Procrastinate)
