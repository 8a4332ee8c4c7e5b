"""Everything works through PgBouncer in transaction mode, with a direct way for LISTEN and without."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest

from pgqueue import (
    BulkFilter,
    Database,
    PermanentError,
    QueueService,
    RetryManager,
    Settings,
    TaskContext,
    TaskRequest,
    log,
    sync,
)
from pgqueue_web import Server
from tests.pooler.conftest import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MANY = 200
DEADLINE_S = 20.0
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


@pytest.fixture(params=["polling", "listening"])
async def service(pooled_dsn: str, dsn: str, request: pytest.FixtureRequest) -> AsyncIterator[QueueService]:
    log.configure("error")
    direct = dsn if request.param == "listening" else None
    settings = Settings(dsn=pooled_dsn, listen_dsn=direct, pooler=True, heartbeat_s=0.5, poll_s=0.2, grace_s=0.0)
    async with Database(pooled_dsn, settings=settings) as database:
        made = QueueService(database)

        @made.handler("double")
        async def double(ctx: TaskContext, payload: dict[str, int]) -> int:
            await ctx.update_progress(50, "half way")
            ctx.log("info", "doubling")
            return payload["n"] * 2

        @made.handler("break")
        async def breaks(_ctx: TaskContext, _payload: dict[str, int]) -> None:
            raise PermanentError("broken")

        yield made


@contextlib.asynccontextmanager
async def serving(service: QueueService) -> AsyncIterator[None]:
    worker = asyncio.create_task(service.start(handle_signals=False))
    try:
        yield
        assert not worker.done()
    finally:
        worker.cancel()
        await asyncio.wait([worker])


async def test_tasks_are_submitted_run_and_followed(service: QueueService) -> None:
    async with serving(service):
        tasks = await service.submit_tasks(TaskRequest(task_type="double", payload={"n": n}) for n in range(MANY))
        assert [await task.result(int, DEADLINE_S) for task in tasks] == [n * 2 for n in range(MANY)]
        task = await service.submit_task(TaskRequest(task_type="double", payload={"n": 4}))
        seen = [progress async for progress in task.progress()]
        assert (seen[-1].status, seen[-1].progress) == ("completed", 100)
        assert (await service.wait_for(task.task_id, timeout=DEADLINE_S)).result_value == 8
        assert [line.message for line in await service.get_logs(task.task_id)] == ["doubling"]


async def test_many_are_retried_cancelled_and_cleaned_up(service: QueueService, dsn: str) -> None:
    manager = RetryManager(service.db)
    async with serving(service):
        tasks = await service.submit_tasks(TaskRequest(task_type="break") for _ in range(20))
        for task in tasks:
            assert (await task.wait(DEADLINE_S)).status == "failed"
    assert (await manager.retry_tasks(BulkFilter(task_type="break"))).done == 20
    assert (await manager.cancel_tasks(BulkFilter(all=True))).done == 20
    age(dsn)
    assert await manager.cleanup_old_tasks(timedelta(days=30)) == 20
    assert (await service.list_tasks())[1] == 0
    assert lock_timeouts(service.db.dsn) == {"0"}


def test_blocking_programs_work_too(pooled_dsn: str, dsn: str) -> None:
    with sync.Database(pooled_dsn, settings=Settings(dsn=pooled_dsn, pooler=True)) as database:
        service, manager = sync.QueueService(database), sync.RetryManager(database)
        tasks = service.submit_tasks(TaskRequest(task_type="double") for _ in range(20))
        assert manager.cancel_tasks(BulkFilter(all=True), reason="not needed").done == 20
        assert service.wait_for(tasks[0].task_id, timeout=DEADLINE_S).error == "not needed"
        age(dsn)
        assert manager.cleanup_old_tasks(timedelta(days=30)) == 20
    assert lock_timeouts(pooled_dsn) == {"0"}


def age(dsn: str) -> None:
    """Move all that ended into a day that is over."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for table in ("finished_tasks", "attempts"):
            made = "select pgqueue._make_partition(%s, 'finished_at', (now() at time zone 'UTC')::date - 40)"
            conn.execute(made, (table,))
            moved = f"update pgqueue.{table} set finished_at = finished_at - interval '40 days'"
            conn.execute(moved.encode())


def lock_timeouts(dsn: str) -> set[Any]:
    """What the connections behind the pooler have: several transactions at once, so that each is seen."""
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(psycopg.connect(dsn, prepare_threshold=None)) for _ in range(2)]
        return {row[0] for conn in conns for row in conn.execute("show lock_timeout").fetchall()}


async def test_statements_of_requests_are_given_up_and_their_connections_go_on(pooled_dsn: str, dsn: str) -> None:
    settings = Settings(dsn=pooled_dsn, listen_dsn=dsn, pooler=True, api_timeout_s=0.3)
    async with Database(settings=settings) as database, served(database) as client:
        with psycopg.connect(dsn) as conn:
            conn.execute("lock table pgqueue.queues")
            for _ in range(2 * CONNECTIONS):
                refused = await client.get("/queues")
                assert (refused.status_code, refused.json()["type"]) == (503, "urn:pgqueue:statement-timeout")
            assert conn.execute(WAITING).fetchone() == (0,)
        for _ in range(2 * CONNECTIONS):
            assert (await client.get("/queues")).status_code == 200


@contextlib.asynccontextmanager
async def served(database: Database) -> AsyncIterator[httpx.AsyncClient]:
    server = Server(database, "127.0.0.1", 0)
    async with server.beside(), httpx.AsyncClient(base_url=f"{server.url}/api/v1", timeout=DEADLINE_S) as client:
        yield client
