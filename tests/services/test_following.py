"""Progress, waiting and subscriptions: the final event is never lost, whatever becomes of the listener."""

from __future__ import annotations

import asyncio
import contextlib
import cProfile
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from structlog.testing import capture_logs

from pgqueue import (
    Database,
    DatabaseUnavailable,
    QueueService,
    Settings,
    StateService,
    Task,
    TaskNotFound,
    TaskProgress,
    TaskRequest,
    sync,
)
from pgqueue.listen import Hub, Subscription, hub_of
from pgqueue.services import following
from tests.polling import until

if TYPE_CHECKING:
    from tests.services.conftest import Engine

DEADLINE_S = 20.0


def request(**options: Any) -> TaskRequest:  # noqa: ANN401 - any value
    return TaskRequest(task_type="report", **options)


async def followed(engine: Engine, task_id: int) -> bool:
    return bool(engine.value("select exists (select from pgqueue.listeners where task_id = %s)", task_id))


async def listening(db: Database, engine: Engine, task_id: int) -> None:
    """Wait until the follower of a task sleeps until it is told: its fence is clear, and nothing is polled."""
    await until(
        lambda: (
            hub_of(db).is_alive
            and engine.value("select exists (select from pgqueue.listeners where task_id = %s)", task_id)
        )
    )


async def test_wait_for_returns_the_ended_task(service: QueueService, engine: Engine) -> None:
    task = await service.submit_task(request())
    waiting = asyncio.create_task(task.wait(DEADLINE_S))
    await until(lambda: followed(engine, task.task_id))
    engine.complete(task.task_id, {"a": 1})
    ended = await waiting
    assert (ended.status, ended.result_value, ended.attempt) == ("completed", {"a": 1}, 1)
    assert (await ended.wait(0)).status == "completed"


async def test_the_end_comes_by_notification_not_by_polling(
    service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 3600.0)
    task = await service.submit_task(request())
    waiting = asyncio.create_task(task.wait(DEADLINE_S))
    await listening(service.db, engine, task.task_id)
    engine.complete(task.task_id)
    assert (await waiting).status == "completed"


def test_the_end_comes_by_notification_to_a_blocking_caller_too(
    blocking: sync.QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 3600.0)
    task = blocking.submit_task(request())
    ended: list[sync.Task] = []
    thread = threading.Thread(target=lambda: ended.append(task.wait(DEADLINE_S)))
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not engine.value("select exists (select from pgqueue.listeners)"):
        assert time.monotonic() < deadline
    engine.complete(task.task_id, "done")
    thread.join(DEADLINE_S)
    assert [(one.status, one.result_value) for one in ended] == [("completed", "done")]
    assert not engine.value("select exists (select from pgqueue.listeners)")


async def test_a_wait_that_is_too_short_says_how_the_task_stands(
    service: QueueService, blocking: sync.QueueService, engine: Engine
) -> None:
    task = await service.submit_task(request())
    with pytest.raises(TimeoutError, match=rf"task {task.task_id} did not end within 0.05 s; it is pending"):
        await task.wait(0.05)
    engine.claim()
    with pytest.raises(TimeoutError, match="it is running"):
        await asyncio.to_thread(blocking.wait_for, task.task_id, 0.05)
    with pytest.raises(TimeoutError, match="within 0 s"):
        blocking.wait_for(task.task_id, timeout=0)
    await until(lambda: not engine.value("select exists (select from pgqueue.listeners)"))


async def test_progress_is_told_in_order_and_ends_with_the_final_state(
    service: QueueService, state: StateService, engine: Engine
) -> None:
    task = await service.submit_task(request())
    seen: list[TaskProgress] = []
    subscription = await state.subscribe_progress(task.task_id, seen.append)
    attempt = engine.claim()[task.task_id]
    for percent in (10, 20, 30):
        await state.update_progress(task.task_id, percent, f"at {percent}")
        await until(lambda percent=percent: any(p.progress == percent for p in seen))  # type: ignore[misc]
    engine.finish(task.task_id, attempt)
    await subscription.done()
    assert [p.progress for p in seen if p.status == "running" and p.progress] == [10, 20, 30]
    assert (seen[0].status, seen[-1].status, seen[-1].progress, seen[-1].is_final) == (
        "pending",
        "completed",
        100,
        True,
    )
    assert [p async for p in task.progress()] == [seen[-1]]


def test_a_blocking_subscription_ends_with_the_final_state(
    blocking: sync.QueueService, sync_db: sync.Database, engine: Engine
) -> None:
    state = sync.StateService(sync_db)
    task = blocking.submit_task(request())
    seen: list[TaskProgress] = []

    def callback(progress: TaskProgress) -> None:
        seen.append(progress)
        raise ZeroDivisionError

    with capture_logs() as logs:
        subscription = state.subscribe_progress(task.task_id, callback)
        attempt = engine.claim()[task.task_id]
        state.update_progress(task.task_id, 50, "half")
        engine.finish(task.task_id, attempt, result={"x": 1})
        subscription.done()
    assert (seen[-1].status, seen[-1].progress) == ("completed", 100)
    assert "a progress callback failed" in {entry["event"] for entry in logs}


async def test_async_callbacks_are_awaited_and_failing_ones_do_not_end_the_subscription(
    service: QueueService, state: StateService, engine: Engine
) -> None:
    task = await service.submit_task(request())
    seen: list[str] = []

    async def callback(progress: TaskProgress) -> None:
        await asyncio.sleep(0)
        seen.append(progress.status)
        raise ZeroDivisionError

    with capture_logs() as logs:
        subscription = await state.subscribe_progress(task.task_id, callback)
        engine.complete(task.task_id)
        await subscription.done()
    assert seen[-1] == "completed"
    assert "a progress callback failed" in {entry["event"] for entry in logs}


async def test_unsubscribing_ends_delivery(service: QueueService, state: StateService, engine: Engine) -> None:
    task = await service.submit_task(request())
    seen: list[TaskProgress] = []
    one = await state.subscribe_progress(task.task_id, seen.append)
    await state.subscribe_progress(task.task_id, seen.append)
    await state.unsubscribe_progress(one)
    await state.unsubscribe_progress(task.task_id)
    await state.unsubscribe_progress(task.task_id)
    await until(lambda: not engine.value("select exists (select from pgqueue.listeners)"))
    count = len(seen)
    engine.complete(task.task_id)
    assert (await task.wait(DEADLINE_S)).status == "completed"
    assert len(seen) == count


def test_unsubscribing_a_blocking_one_ends_its_thread(
    blocking: sync.QueueService, sync_db: sync.Database, engine: Engine
) -> None:
    state = sync.StateService(sync_db)
    task = blocking.submit_task(request())
    first = state.subscribe_progress(task.task_id, lambda _progress: None)
    second = state.subscribe_progress(task.task_id, lambda _progress: None)
    state.unsubscribe_progress(first)
    assert not first.is_running
    state.unsubscribe_progress(task.task_id)
    assert not second.is_running
    assert not engine.value("select exists (select from pgqueue.listeners)")


async def test_one_who_leaves_does_not_silence_the_others(
    service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 3600.0)
    task = await service.submit_task(request())
    waiting = asyncio.create_task(task.wait(DEADLINE_S))
    await listening(service.db, engine, task.task_id)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await task.wait(0.001)
    engine.complete(task.task_id)
    assert (await waiting).status == "completed"


@pytest.mark.parametrize("mode", ["async", "poll", "blocking"])
async def test_no_final_event_is_lost_whatever_the_order(  # noqa: PLR0913, PLR0917 - fixtures
    service: QueueService,
    blocking: sync.QueueService,
    engine: Engine,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
) -> None:
    """Ends come before, while and after followers register, some in transactions that began long before."""
    if mode != "poll":
        monkeypatch.setattr(following, "LOOK_S", 3600.0)
    chance = random.Random(mode)  # noqa: S311 - chance
    database = Database(dsn, settings=Settings(dsn=dsn, pooler=True)) if mode == "poll" else service.db
    waiter = QueueService(database)
    tasks = await service.submit_tasks(request() for _ in range(60 if mode == "blocking" else 200))
    attempts = engine.claim(len(tasks))
    ending = "select pgqueue.finish(%s::bigint[], %s::int[], '{1}', null, null, true)"

    async def end(task: Task) -> None:
        await asyncio.sleep(chance.random() * 0.3)
        if chance.random() < 0.5:
            engine.run(ending, [task.task_id], [attempts[task.task_id]])
            return
        async with gate, await psycopg.AsyncConnection.connect(dsn) as conn:
            await conn.execute("select pgqueue.fence()")
            await conn.execute(ending, ([task.task_id], [attempts[task.task_id]]))
            await asyncio.sleep(chance.random() * 0.2)
            await conn.commit()

    async def wait(task: Task) -> str:
        await asyncio.sleep(chance.random() * 0.3)
        if mode == "blocking":
            return (await asyncio.to_thread(blocking.wait_for, task.task_id, DEADLINE_S)).status
        return (await waiter.wait_for(task.task_id, DEADLINE_S)).status

    gate = asyncio.Semaphore(20)
    try:
        async with asyncio.TaskGroup() as group:
            waits = [group.create_task(wait(task)) for task in tasks]
            for task in tasks:
                group.create_task(end(task))
    finally:
        if mode == "poll":
            await database.close()
    assert {one.result() for one in waits} == {"completed"}


async def test_behind_a_transaction_pooler_everything_polls_and_says_so(dsn: str, engine: Engine) -> None:
    settings = Settings(dsn=dsn, pooler=True)
    with capture_logs() as logs:
        async with Database(dsn, settings=settings) as database:
            service = QueueService(database)
            task = await service.submit_task(request())
            waiting = asyncio.create_task(task.wait(DEADLINE_S))
            await until(lambda: followed(engine, task.task_id))
            assert not hub_of(database).is_alive
            engine.complete(task.task_id)
            assert (await waiting).status == "completed"
    assert any("transaction pooler" in entry["event"] for entry in logs)
    with sync.Database(dsn, settings=settings) as sync_database:
        blocking = sync.QueueService(sync_database)
        task_too = blocking.submit_task(request())
        thread = threading.Thread(target=engine.complete, args=(task_too.task_id,))
        thread.start()
        assert task_too.wait(DEADLINE_S).status == "completed"
        thread.join()


def kill_listeners(engine: Engine) -> int:
    """End the connections that listen; return how many."""
    sql = (
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and query like 'listen %' and pid <> pg_backend_pid()"
    )
    return int(engine.value(sql))


async def test_the_hub_comes_back_and_whoever_waits_looks_again(
    service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 3600.0)
    hub = hub_of(service.db)
    again: list[int] = []
    tasks = await service.submit_tasks(request() for _ in range(10))
    waits = [asyncio.create_task(task.wait(DEADLINE_S)) for task in tasks]
    await until(lambda: hub.is_alive and engine.value("select count(*) from pgqueue.listeners") == 10)
    hub.on_reconnect(lambda: again.append(hub.generation))
    generation = hub.generation
    with capture_logs() as logs:
        attempts = engine.claim()
        for count, task in enumerate(tasks, 1):
            assert kill_listeners(engine) == 1
            engine.finish(task.task_id, attempts[task.task_id])
            await until(lambda count=count: hub.is_alive and hub.generation >= generation + count)  # type: ignore[misc]
    assert {(await wait).status for wait in waits} == {"completed"}
    assert again
    assert sum("listener is cut off" in entry["event"] for entry in logs) >= len(tasks)


async def test_what_is_followed_is_registered_again_before_the_hub_is_alive(
    service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash, which empties an unlogged table, or an outage longer than a registration lasts."""
    monkeypatch.setattr(following, "LOOK_S", 3600.0)
    hub = hub_of(service.db)
    task = await service.submit_task(request())
    waiting = asyncio.create_task(task.wait(DEADLINE_S))
    await listening(service.db, engine, task.task_id)
    generation = hub.generation
    engine.run("delete from pgqueue.listeners")
    kill_listeners(engine)
    await until(lambda: hub.is_alive and hub.generation > generation)
    assert await followed(engine, task.task_id)
    engine.complete(task.task_id)
    assert (await waiting).status == "completed"


async def test_an_event_costs_nothing_to_those_who_follow_something_else(service: QueueService, engine: Engine) -> None:
    """Each hears what it follows, in a hub of 1,000 followers as in one of few, and for as many steps."""
    hub = hub_of(service.db)
    await hub.start()
    tasks = await service.submit_tasks(request() for _ in range(1000))
    first = tasks[0].task_id
    async with contextlib.AsyncExitStack() as stack:
        mine, twin = [await stack.enter_async_context(hub.follow("task", first)) for _ in range(2)]
        queue = await stack.enter_async_context(hub.follow("queue", queue_name="default"))
        elsewhere = await stack.enter_async_context(hub.follow("queue", queue_name="other"))
        everything = await stack.enter_async_context(hub.follow("all"))
        hub._dispatch(EVENTS % (first, first))
        few = steps_of(hub, EVENTS % (first, first))
        others = [await stack.enter_async_context(hub.follow("task", task.task_id)) for task in tasks[1:]]
        assert steps_of(hub, EVENTS % (first, first)) == few
        for follower in (mine, twin, queue, everything):
            follower.clear()
        attempts = engine.claim()
        for task in tasks[:2]:
            engine.finish(task.task_id, attempts[task.task_id])
        for follower in (mine, twin):
            assert await statuses(follower, first) == {first}
        second = tasks[1].task_id
        assert await statuses(others[0], second) == {second}
        for follower in (queue, everything):
            assert await statuses(follower, second) == {first, second}
        assert await elsewhere.next(0) is None


EVENTS = """
[{"kind": "status", "task_id": %d, "queue_name": "default", "task_type": "a", "status": "running"},
 {"kind": "progress", "task_id": %d, "queue_name": "default", "task_type": "a", "progress": 5}]
"""


def steps_of(hub: Hub, payload: str) -> int:
    """How many calls it takes to hand out a notification."""
    with cProfile.Profile() as profile:
        hub._dispatch(payload)
    return sum(entry.callcount for entry in profile.getstats())


async def statuses(follower: Subscription, last: int) -> set[int]:
    """Whose ends a follower is told of, up to that of one task."""
    ended: set[int] = set()
    async with asyncio.timeout(DEADLINE_S):
        while last not in ended:
            event = await follower.next(DEADLINE_S)
            if event is not None and event.status == "completed":
                ended.add(event.task_id)
    return ended


def test_a_blocking_waiter_survives_the_loss_of_its_connection(blocking: sync.QueueService, engine: Engine) -> None:
    task = blocking.submit_task(request())
    ended: list[str] = []
    thread = threading.Thread(target=lambda: ended.append(task.wait(DEADLINE_S).status))
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not kill_listeners(engine):
        assert time.monotonic() < deadline
    engine.complete(task.task_id)
    thread.join(DEADLINE_S)
    assert ended == ["completed"]


async def test_a_hub_that_cannot_listen_is_not_alive_and_goes_on_trying(dsn: str, engine: Engine) -> None:
    settings = Settings(dsn=dsn, listen_dsn="host=/nonexistent dbname=x")
    async with Database(dsn, settings=settings) as database:
        hub = hub_of(database)
        await hub.start()
        assert not hub.is_alive
        service = QueueService(database)
        task = await service.submit_task(request())
        waiting = asyncio.create_task(task.wait(DEADLINE_S))
        await until(lambda: followed(engine, task.task_id))
        engine.complete(task.task_id)
        assert (await waiting).status == "completed"
        tries = hub.reconnects
        await until(lambda: hub.reconnects > tries)


async def test_a_listener_that_hears_nothing_of_itself_is_not_alive(
    dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens in another database, as one behind a pooler may: the probe does not come back."""
    monkeypatch.setattr("pgqueue.listen.PROBE_ANSWER_S", 0.2)
    with capture_logs() as logs:
        async with Database(dsn, settings=Settings(dsn=dsn, listen_dsn=empty_dsn)) as database:
            hub = hub_of(database)
            await hub.start()
            assert not hub.is_alive
            await until(lambda: hub.reconnects > 1)
    assert any("LISTEN does not get through" in entry.get("error", "") for entry in logs)


async def test_a_callback_that_fails_is_logged_and_the_next_one_called(db: Database, engine: Engine) -> None:
    heard: list[str] = []

    def broken(_payload: str) -> None:
        raise ZeroDivisionError

    with capture_logs() as logs:
        async with Hub(db) as hub:
            hub.subscribe("pgqueue_wake", broken)
            hub.subscribe("pgqueue_wake", heard.append)
            engine.run("select pg_notify('pgqueue_wake', 'default')")
            await until(lambda: heard == ["default"])
            engine.run("select pg_notify('pgqueue_events', 'no json')")
            hub.unsubscribe("pgqueue_wake", broken)
            engine.run("select pg_notify('pgqueue_wake', 'again')")
            await until(lambda: heard == ["default", "again"])
            assert hub.is_alive
    assert any("callback failed" in entry["event"] for entry in logs)


async def test_closing_the_database_ends_those_who_follow(dsn: str) -> None:
    database = Database(dsn)
    service = QueueService(database)
    task = await service.submit_task(request())
    waiting = asyncio.create_task(task.wait(DEADLINE_S))
    await until(lambda: hub_of(database).is_alive)
    subscription = await StateService(database).subscribe_progress(task.task_id, lambda _progress: None)
    await database.close()
    with pytest.raises(DatabaseUnavailable, match="was closed while"):
        await waiting
    with pytest.raises(DatabaseUnavailable, match="was closed while"):
        await subscription.done()


def test_closing_a_blocking_database_ends_those_who_follow(dsn: str) -> None:
    database = sync.Database(dsn)
    task = sync.QueueService(database).submit_task(request())
    subscription = sync.StateService(database).subscribe_progress(task.task_id, lambda _progress: None)
    database.close()
    with pytest.raises(DatabaseUnavailable, match="was closed while"):
        subscription.done()


async def test_a_task_that_is_cleaned_up_ends_its_subscription_with_an_error(
    service: QueueService, state: StateService, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_S", 0.1)
    task = await service.submit_task(request())
    subscription = await state.subscribe_progress(task.task_id, lambda _progress: None)
    await until(lambda: followed(engine, task.task_id))
    engine.run("delete from pgqueue.tasks")
    with pytest.raises(TaskNotFound):
        await subscription.done()
