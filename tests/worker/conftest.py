"""A service with a worker in this process."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from pgqueue import Database, QueueService, Settings, Task, log

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[[], AbstractAsyncContextManager[None]]

DEADLINE_S = 20.0


@pytest_asyncio.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, settings=Settings(dsn=dsn, heartbeat_s=0.2, grace_s=0.0)) as database:
        yield database


@pytest.fixture
def service(db: Database, monkeypatch: pytest.MonkeyPatch) -> QueueService:
    """A service whose worker looks more often whether anything is left, so that it drains sooner."""
    monkeypatch.setattr("pgqueue.worker.queue_loop.SWEEP_S", 0.05)
    log.configure("warning")
    return QueueService(db)


@pytest.fixture
def serve(service: QueueService) -> Serve:
    """Run the service's worker while a block runs."""

    @contextlib.asynccontextmanager
    async def serving() -> AsyncIterator[None]:
        worker = asyncio.create_task(service.start(handle_signals=False))
        try:
            yield
            assert not worker.done()
        finally:
            worker.cancel()
            await asyncio.wait([worker])
        if not worker.cancelled():
            worker.result()

    return serving


async def ended(task: Task) -> Task:
    """Wait for a task's end, whatever it is."""
    return await task.wait(DEADLINE_S)
