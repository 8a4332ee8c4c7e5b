"""Quick tasks are claimed ahead of the slots; never at the cost of order, of the slots, or of tasks that wait."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import Database, QueueService, Settings, TaskContext, TaskRequest
from pgqueue.worker.attempts import Attempt
from pgqueue.worker.line import MOST_AHEAD, Line
from pgqueue.worker.session import Session
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

    from tests.worker.conftest import Serve

SLOTS = 3


class Scene:
    """Quick handlers that note their order and how many run at once, and slow ones that wait for a word."""

    def __init__(self, service: QueueService) -> None:
        self.order: list[int] = []
        self.inside = 0
        self.most = 0
        self.go = asyncio.Event()
        self.stuck = 0
        service.register_handler("quick", self.quick)
        service.register_handler("slow", self.slow)

    async def quick(self, ctx: TaskContext) -> None:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.order.append(ctx.task_id)
        await asyncio.sleep(0)
        self.inside -= 1

    async def slow(self, _ctx: TaskContext) -> None:
        self.stuck += 1
        await self.go.wait()


@pytest.fixture
def scene(service: QueueService) -> Scene:
    service.register_queue("default", concurrency=SLOTS)
    return Scene(service)


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[QueueService]:
    """A second worker's service."""
    async with Database(dsn, settings=Settings(dsn=dsn, heartbeat_s=0.2)) as database:
        made = QueueService(database)
        made.register_queue("default", concurrency=SLOTS)
        yield made


async def submit(service: QueueService, task_type: str, count: int) -> list[Any]:
    return await service.submit_tasks(TaskRequest(task_type=task_type) for _ in range(count))


async def test_quick_tasks_need_few_claims_and_keep_slots_and_order(
    service: QueueService, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    most_held: list[int] = []
    original = Session.receive

    def spy(*args: Any) -> list[Attempt]:  # noqa: ANN401 - passed on
        most_held.append(len(args[2]))
        batch: list[Attempt] = original(*args)
        return batch

    monkeypatch.setattr(Session, "receive", spy)
    # Handlers are quick also where the machine gives the processor to somebody else for some milliseconds.
    monkeypatch.setattr("pgqueue.worker.line.AHEAD_S", 1.0)
    tasks = await submit(service, "quick", 2000)
    await service.drain()
    assert scene.order == [task.task_id for task in tasks]
    assert scene.most <= SLOTS
    assert max(most_held) <= SLOTS + MOST_AHEAD
    assert len(most_held) < 2000 / SLOTS / 2, "without claiming ahead it takes one claim for each three tasks"


async def test_what_waits_behind_slow_tasks_is_run_by_another_worker(
    service: QueueService, scene: Scene, serve: Serve, other: QueueService, aconn: psycopg.AsyncConnection
) -> None:
    done = 0

    async def quick(_ctx: TaskContext) -> None:
        nonlocal done
        done += 1

    async def slow(_ctx: TaskContext) -> None:
        raise AssertionError("the first worker has all of them")

    other.register_handler("quick", quick)
    other.register_handler("slow", slow)
    async with serve():
        await submit(service, "quick", 500)
        await until(lambda: len(scene.order) == 500)
        async with aconn.transaction():
            for task_type, count in (("slow", SLOTS), ("quick", 50)):
                await aconn.execute(
                    "insert into pgqueue.tasks (task_type) select %s from generate_series(1, %s)", (task_type, count)
                )
        await until(lambda: scene.stuck == SLOTS)
        second = asyncio.create_task(other.start(handle_signals=False))
        await until(lambda: len(scene.order) + done == 550)
        scene.go.set()
        await until(lambda: ended(service, 503 + 50))
        second.cancel()
        await asyncio.wait([second])
    cursor = await aconn.execute("select max(failures), max(crashes) from pgqueue.finished_tasks")
    assert await cursor.fetchone() == (0, 0)


async def ended(service: QueueService, count: int) -> bool:
    return (await service.get_queue_stats("default")).completed == count


def attempt_of(number: int) -> Attempt:
    row = (number, 1, 0, "", "t", "{}", None, 0, 0, 0, None, None, None, None, None)
    return Attempt(TaskContext(row, "default", None), None, 1, None)  # type: ignore[arg-type] # it is not run


class TestLine:
    def test_nothing_is_claimed_ahead_before_handlers_are_known_to_be_quick(self) -> None:
        assert Line(SLOTS, lambda _batch: None).most == SLOTS

    def test_the_quicker_they_are_the_more_is_claimed_and_a_slow_one_ends_it(self) -> None:
        line = Line(SLOTS, lambda _batch: None)
        for number in range(100):
            line.add([attempt_of(number)])
            line.left(attempt_of(number))
        assert line.most == SLOTS + MOST_AHEAD
        slow = attempt_of(0)
        slow.started_ns -= 10**10
        line.add([slow])
        line.left(slow)
        assert line.most == SLOTS

    def test_many_slots_need_none_of_it(self) -> None:
        line = Line(1000, lambda _batch: None)
        line.add([attempt_of(1)])
        line.left(attempt_of(1))
        assert line.most == 1000

    def test_no_more_run_than_there_are_slots(self) -> None:
        started: list[Attempt] = []
        line = Line(SLOTS, started.extend)
        batch = [attempt_of(number) for number in range(10)]
        line.add(batch)
        assert (started, line.running) == (batch[:3], 3)
        line.left(started[0])
        assert started == batch[:4]
        line.slots = 1
        line.left(started[1])
        line.left(started[2])
        assert (started, line.running) == (batch[:4], 1)
        assert line.take_all() == batch[4:]
