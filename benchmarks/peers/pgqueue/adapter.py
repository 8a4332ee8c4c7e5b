"""pgqueue itself, by its public interface; timeouts, cancellation and context of its handlers stay on."""

from __future__ import annotations

import asyncio
import gc
import time
from typing import TYPE_CHECKING, Any

import msgspec

import pgqueue
from benchmarks.peers.adapter import Adapter, Payload, run
from pgqueue import log, schema

if TYPE_CHECKING:
    from benchmarks.meter import Meter

SLOTS = {"best": 2000, "io": 200, "thread": 200, "process": 32, "default": None, "busy": 500}
"""Slots a worker process has in each profile; None is what it comes with."""


class Number(msgspec.Struct):
    """A typed payload."""

    i: int
    t: float | None = None


def spin(milliseconds: float) -> None:
    """Use the processor for so long."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass


def spin_here(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:  # noqa: ARG001 - runs in another process
    """The handler of 1 ms of computation; its end is seen in the database, not by the meter."""
    spin(1.0)


def handle(service: pgqueue.QueueService, meter: Meter | None) -> None:
    """Register one handler a kind of work."""

    async def noop(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:  # noqa: ARG001 - as handlers are called
        if meter:
            meter.mark(payload.get("t"))

    async def io(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:
        await noop(ctx, payload)
        await asyncio.sleep(0.001)

    def thread(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:  # noqa: ARG001
        if meter:
            meter.mark(payload.get("t"))

    async def storm(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:
        await noop(ctx, payload)
        if ctx.attempt == 1:
            raise RuntimeError("the first attempt fails")

    async def progress(ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> None:
        for number in range(payload["reports"]):
            ctx.update_progress(min(number, 100), str(time.time()))
            await asyncio.sleep(payload["every_s"])

    service.register_handler("noop", noop)
    service.register_handler("io", io)
    service.register_handler("thread", thread)
    service.register_handler("process", spin_here, executor="process")
    service.register_handler("storm", storm, retry=pgqueue.Retry.fixed(0))
    service.register_handler("progress", progress)


async def noop_typed(ctx: pgqueue.TaskContext, payload: Number) -> None:
    """A handler with a typed payload."""


class Pgqueue(Adapter):
    """A queue service over the DSN."""

    def __init__(self, dsn: str) -> None:
        """Connects to nothing."""
        super().__init__(dsn)
        log.configure("warning")

    def _service(self, meter: Meter | None, clients: int = 1) -> pgqueue.QueueService:
        settings = pgqueue.Settings(dsn=self.dsn, log_level="warning", pool_max=max(10, clients), grace_s=0.2)
        service = pgqueue.QueueService(pgqueue.Database(settings=settings))
        handle(service, meter)
        return service

    async def install(self) -> None:
        """Apply the schema."""
        await asyncio.to_thread(schema.migrate, self.dsn)

    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker with the slots of the profile; as in pgqueue-worker, the collector passes the imports by."""
        service = self._service(meter)
        slots = SLOTS[profile]
        async with service.db:
            gc.collect()
            gc.freeze()
            await service.start(queues=None if slots is None else {"default": slots}, handle_signals=False)

    async def open(self, clients: int) -> None:
        """Open the pool."""
        self._submitting = self._service(None, clients)
        self._typed = self._submitting.register_handler("noop_typed", noop_typed)
        await self._submitting.db.open()

    async def submit_one(self, payload: Payload) -> None:
        """Submit by submit_task, or by the handler's own typed submit."""
        if self.kind == "typed":
            await self._typed.submit(Number(**payload))
        else:
            await self._submitting.submit_task(self._request(payload))

    async def submit_many(self, payloads: list[Payload]) -> None:
        """Submit by submit_tasks."""
        await self._submitting.submit_tasks([self._request(payload) for payload in payloads])

    def _request(self, payload: Payload) -> pgqueue.TaskRequest:
        return pgqueue.TaskRequest(task_type=self.kind, payload=payload)


if __name__ == "__main__":
    # A process that runs a handler imports it by its module's name.
    from benchmarks.peers.pgqueue import adapter

    run(adapter.Pgqueue)
