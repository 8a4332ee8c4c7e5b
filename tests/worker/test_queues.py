"""Slots, several queues, pauses and live changes."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import ConfigurationError, Database, QueueService, Settings, TaskContext, TaskRequest
from tests.polling import until

if TYPE_CHECKING:
    from tests.worker.conftest import Serve


class Gate:
    """Handlers wait here; it counts who is inside."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.open = asyncio.Event()

    async def handle(self, ctx: TaskContext) -> None:
        self.inside[ctx.queue_name] += 1
        self.most[ctx.queue_name] = max(self.most[ctx.queue_name], self.inside[ctx.queue_name])
        await self.open.wait()
        self.inside[ctx.queue_name] -= 1


@pytest.fixture
def gate(service: QueueService) -> Gate:
    made = Gate()
    service.register_handler("gated", made.handle)
    return made


async def fill(service: QueueService, queue_name: str, count: int) -> list[Any]:
    return await service.submit_tasks(TaskRequest(task_type="gated", queue_name=queue_name) for _ in range(count))


async def test_each_queue_has_its_own_slots(service: QueueService, serve: Serve, gate: Gate) -> None:
    service.register_queue("small", concurrency=2)
    service.register_queue("large", concurrency=7)
    async with serve():
        await until(lambda: exists(service, "large"))
        tasks = await fill(service, "small", 20) + await fill(service, "large", 20)
        await until(lambda: gate.inside == {"small": 2, "large": 7})
        gate.open.set()
        assert {(await task.wait(20)).status for task in tasks} == {"completed"}
    assert gate.most == {"small": 2, "large": 7}


async def exists(service: QueueService, name: str) -> bool:
    return name in {queue.name for queue in await service.list_queues()}


async def test_higher_priority_runs_first(service: QueueService) -> None:
    ran: list[int] = []

    async def note(ctx: TaskContext) -> None:
        ran.append(ctx.priority)

    service.register_handler("note", note)
    service.register_queue("default", concurrency=1)
    await service.submit_tasks(TaskRequest(task_type="note", priority=p) for p in (1, 20, 5, -3, 10, 20))
    await service.drain()
    assert ran == [20, 20, 10, 5, 1, -3]


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(
    service: QueueService, serve: Serve, gate: Gate
) -> None:
    gate.open.set()
    await service.create_queue("other")
    service.register_queue("default")
    service.register_queue("other")
    await service.pause_queue("default", "maintenance")
    async with serve():
        paused = await fill(service, "default", 3)
        running = await fill(service, "other", 3)
        assert {(await task.wait(20)).status for task in running} == {"completed"}
        assert {(await task.refresh()).status for task in paused} == {"pending"}
        assert "paused" in await service.why_waiting(paused[0].task_id)
        await service.resume_queue("default")
        assert {(await task.wait(20)).status for task in paused} == {"completed"}


async def test_concurrency_changes_while_the_worker_runs(service: QueueService, serve: Serve, gate: Gate) -> None:
    await service.create_queue("default", concurrency=1)
    async with serve():
        tasks = await fill(service, "default", 10)
        await until(lambda: gate.inside["default"] == 1)
        await service.create_queue("default", concurrency=4)
        await until(lambda: gate.inside["default"] == 4)
        gate.open.set()
        assert {(await task.wait(20)).status for task in tasks} == {"completed"}
    assert gate.most["default"] == 4


async def test_a_stopped_worker_releases_what_runs_at_no_cost(service: QueueService, serve: Serve, gate: Gate) -> None:
    async with serve():
        [task] = await fill(service, "default", 1)
        await until(lambda: gate.inside["default"] == 1)
    released = await task.refresh()
    assert (released.status, released.failures, released.crashes) == ("pending", 0, 0)
    assert [e.outcome for e in await service.get_executions(task.task_id)] == ["released"]
    gate.open.set()
    await service.drain()
    assert (await task.refresh()).status == "completed"
    assert {worker.running for worker in await service.list_workers()} <= {0}


async def test_a_drain_goes_on_until_every_queue_is_empty(service: QueueService) -> None:
    """Tasks of one queue submit into the other, back and forth."""

    async def bounce(ctx: TaskContext, payload: int) -> None:
        if payload:
            other = "b" if ctx.queue_name == "a" else "a"
            await service.submit_task(TaskRequest(task_type="bounce", queue_name=other, payload=payload - 1))

    service.register_handler("bounce", bounce, queue_name="a")
    service.register_queue("a")
    service.register_queue("b")
    await service.create_queue("a")
    await service.submit_task(TaskRequest(task_type="bounce", queue_name="a", payload=30))
    await service.drain()
    tasks, total = await service.list_tasks()
    assert (total, {task.status for task in tasks}) == (31, {"completed"})


async def test_an_operator_stops_a_worker(service: QueueService, gate: Gate) -> None:
    gate.open.set()
    worker = asyncio.create_task(service.start(handle_signals=False))
    [task] = await fill(service, "default", 1)
    await task.wait(20)
    [info] = await service.list_workers()
    await service.stop_worker(info.id)
    async with asyncio.timeout(20):
        await worker


async def test_a_paused_worker_ends_what_it_runs_and_takes_nothing_until_it_is_resumed(
    service: QueueService, serve: Serve, gate: Gate
) -> None:
    service.register_queue("default", concurrency=1)
    async with serve():
        running, claimed_ahead = await fill(service, "default", 2)
        await until(lambda: gate.inside["default"] == 1)
        [info] = await service.list_workers()
        await service.pause_worker(info.id, "disk full")
        gate.open.set()
        assert (await running.wait(20)).status == "completed"
        [paused] = await service.list_workers()
        assert (paused.state, paused.pause_reason) == ("paused", "disk full")

        async def is_given_back() -> bool:
            return str((await claimed_ahead.refresh()).status) == "pending"

        await until(is_given_back)
        assert await service.why_waiting(claimed_ahead.task_id) == "all workers of queue 'default' are paused (1)"
        await service.resume_worker(info.id)
        assert (await claimed_ahead.wait(20)).status == "completed"
    assert gate.most["default"] == 1


async def test_a_resumed_worker_looks_at_once(db: Database, gate: Gate) -> None:
    """Long before its next heartbeat or look would be due."""
    patient = Database(db.dsn, settings=Settings(dsn=db.dsn, heartbeat_s=600, poll_s=600, lease_s=2000, grace_s=0))
    service = QueueService(patient)
    service.register_handler("gated", gate.handle)
    gate.open.set()
    worker = asyncio.create_task(service.start(handle_signals=False))
    try:
        [first] = await fill(service, "default", 1)
        await first.wait(20)
        [info] = await service.list_workers()
        await service.pause_worker(info.id)
        [second] = await fill(service, "default", 1)
        await service.resume_worker(info.id)
        assert (await second.wait(20)).status == "completed"
    finally:
        worker.cancel()
        await asyncio.wait([worker])
        await patient.close()


async def test_a_delayed_task_starts_when_it_is_due(service: QueueService, serve: Serve, gate: Gate) -> None:
    gate.open.set()
    async with serve():
        at = datetime.now(UTC) + timedelta(seconds=0.3)
        task = await service.submit_task(TaskRequest(task_type="gated", run_at=at))
        done = await task.wait(20)
    assert done.started_at is not None
    assert done.started_at >= at


async def test_what_cannot_be_a_handler_or_queue_is_refused(service: QueueService) -> None:
    async def wrong(ctx: TaskContext, payload: dict[str, int], more: int) -> None:
        """Takes too much."""

    def plain(ctx: TaskContext) -> None:
        """A plain function."""

    with pytest.raises(ConfigurationError, match="takes 3 parameters"):
        service.register_handler("wrong", wrong)
    with pytest.raises(ConfigurationError, match="cannot run in executor 'async'"):
        service.register_handler("plain", plain, executor="async")
    with pytest.raises(ConfigurationError, match="memory_limit_mb"):
        service.register_handler("plain", plain, memory_limit_mb=5)
    with pytest.raises(ConfigurationError, match="concurrency of -1"):
        service.register_queue("q", -1)
    with pytest.raises(ConfigurationError, match="no queue to serve"):
        await QueueService(service.db).start(handle_signals=False)
