"""An idle worker sleeps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqueue import Database, QueueService, Settings, TaskContext, TaskRequest
from pgqueue.worker.queue_loop import QueueLoop
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest


async def test_an_idle_worker_looks_a_few_times_and_then_sleeps(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a dear last sweep too: the next one is awaited, not looked for in a circle."""
    monkeypatch.setattr("pgqueue.worker.queue_loop.CHEAP_S", 0.0)
    looks: list[str] = []
    sleeps = asyncio.Event()
    look: Callable[[QueueLoop], Awaitable[None]] = QueueLoop._look
    wait_until: Callable[[QueueLoop, float | None], Awaitable[None]] = QueueLoop._wait_until

    async def counted(loop: QueueLoop) -> None:
        looks.append(loop.name)
        await look(loop)

    async def noted(loop: QueueLoop, due_in: float | None) -> None:
        sleeps.set()
        await wait_until(loop, due_in)

    monkeypatch.setattr(QueueLoop, "_look", counted)
    monkeypatch.setattr(QueueLoop, "_wait_until", noted)

    async def nothing(ctx: TaskContext) -> None:
        """Does nothing."""

    async with Database(dsn, settings=Settings(dsn=dsn, poll_s=3600)) as db:
        service = QueueService(db)
        service.register_handler("nothing", nothing)
        worker = asyncio.create_task(service.start(handle_signals=False))
        task = await service.submit_task(TaskRequest(task_type="nothing"))
        await task.wait(20)
        await until(sleeps.is_set)
        looks.clear()
        for _ in range(200):
            await service.list_queues()
        assert len(looks) < 20
        last = await service.submit_task(TaskRequest(task_type="nothing"))
        assert (await last.wait(20)).status == "completed"
        worker.cancel()
        await asyncio.wait([worker])
