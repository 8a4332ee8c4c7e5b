"""A server on a real socket over this test's database, and a client of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from pgqueue import Database, PermanentError, QueueService, Settings, TaskContext
from pgqueue.http import Client
from tests.web.conftest import Running, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from pgqueue_web import Server


@pytest_asyncio.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(settings=Settings(dsn=dsn)) as database:
        yield database


@pytest_asyncio.fixture
async def api(db: Database) -> AsyncIterator[Server]:
    """A server in this loop."""
    async with serving(db) as running:
        yield running


@pytest_asyncio.fixture
async def client(api: Server) -> AsyncIterator[Client]:
    async with Client(api.url, settings=Settings()) as made:
        yield made


@pytest.fixture
def run_api(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start the program in a process; what still runs is killed at the end of the test."""
    started: list[Running] = []

    def start(*arguments: str, **variables: str) -> Running:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Running(dsn, folder, arguments, **variables))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


@pytest.fixture
def service(db: Database) -> QueueService:
    """Handlers that greet, refuse and count."""
    made = QueueService(db)

    @made.handler("greet")
    async def greet(ctx: TaskContext, payload: dict[str, Any]) -> str:
        await ctx.update_progress(50, "half")
        await ctx.log("info", "greeting", name=payload["name"])
        return f"Hello, {payload['name']}!"

    @made.handler("refuse", max_retries=0)
    async def refuse(_ctx: TaskContext) -> None:
        raise PermanentError("never")

    return made
