"""A service with a worker in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from pgqueue import Database, QueueService, Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest_asyncio.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(settings=Settings(dsn=dsn, heartbeat_s=0.2, grace_s=0.0)) as database:
        yield database


@pytest.fixture
def service(db: Database, monkeypatch: pytest.MonkeyPatch) -> QueueService:
    """A service whose worker looks more often whether anything is left, so that it drains sooner."""
    monkeypatch.setattr("pgqueue.worker.queue_loop.SWEEP_S", 0.05)
    return QueueService(db)
