"""Submitting from Python: single, bulk, typed, in the caller's transaction, with unique keys and limits."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from pgqueue import (
    ConfigurationError,
    Database,
    DuplicateTask,
    InvalidInput,
    Priority,
    QueueFull,
    QueueNotFound,
    QueueService,
    TaskContext,
    TaskNotFound,
    TaskRequest,
    sync,
)

if TYPE_CHECKING:
    from tests.services.conftest import Engine

BULK = 20_000


class Report(msgspec.Struct):
    title: str
    pages: int = 1


@dataclass
class Point:
    x: int
    y: int


def request(**options: Any) -> TaskRequest:  # noqa: ANN401 - any value
    return TaskRequest(task_type="report", **options)


async def test_a_task_comes_back_as_it_was_submitted(service: QueueService) -> None:
    at = datetime.now(UTC) + timedelta(hours=1)
    task = await service.submit_task(
        request(
            queue_name="default",
            priority=Priority.HIGH,
            payload={"text": "héllo ☃ 𝄞", "list": [1, 2.5, None, True, {}], "big": 2**80},
            max_retries=7,
            timeout=60,
            run_at=at,
            unique_key="k",
            user_id="u",
            project_id="p",
            metadata={"from": "test"},
        )
    )
    read = await service.get_task(task.task_id)
    assert task.created
    assert not read.created
    for name in ("task_type", "queue_name", "priority", "payload", "status", "max_retries", "timeout", "run_at"):
        assert getattr(read, name) == getattr(task, name), name
    for name in ("unique_key", "user_id", "project_id", "metadata", "attempt", "created_at"):
        assert getattr(read, name) == getattr(task, name), name
    assert (read.status, read.run_at, read.payload["big"]) == ("pending", at, 2**80)
    assert read.created_at is not None
    assert read.created_at.utcoffset() == timedelta(0)


async def test_structs_and_dataclasses_are_payloads(service: QueueService) -> None:
    struct = await service.submit_task(request(payload=Report("a", 2)))
    plain = await service.submit_task(request(payload=Point(1, 2)))
    assert (await struct.refresh()).payload == {"title": "a", "pages": 2}
    assert (await plain.refresh()).payload == {"x": 1, "y": 2}


async def test_times_are_utc_whatever_zone_the_callers_connection_has(service: QueueService, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, options="-c timezone=Asia/Shanghai") as conn:
        task = await service.submit_task(request(), conn=conn)
        read = await service.get_task(task.task_id, conn=conn)
    assert task.run_at is not None
    assert task.run_at.utcoffset() == timedelta(0)
    assert read.created_at is not None
    assert read.created_at.utcoffset() == timedelta(0)


async def test_a_rolled_back_transaction_leaves_no_task(service: QueueService, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        kept = await service.submit_task(request(), conn=conn)
        await conn.commit()
        lost = await service.submit_task(request(), conn=conn)
        assert (await service.get_task(lost.task_id, conn=conn)).status == "pending"
        bulk = await service.submit_tasks([request(), request()], conn=conn)
        await conn.rollback()
    assert (await kept.refresh()).status == "pending"
    for task in [lost, *bulk]:
        with pytest.raises(TaskNotFound):
            await task.refresh()


async def test_cancel_and_queue_changes_join_the_callers_transaction(service: QueueService, dsn: str) -> None:
    task = await service.submit_task(request())
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        assert await service.cancel_task(task.task_id, "no", conn=conn) == "cancelled"
        await service.create_queue("new", conn=conn)
        await service.pause_queue("default", "because", conn=conn)
        await conn.rollback()
    assert (await task.refresh()).status == "pending"
    assert [(queue.name, queue.paused_at) for queue in await service.list_queues()] == [("default", None)]


def test_a_blocking_transaction_is_joined_too(blocking: sync.QueueService, conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(ZeroDivisionError), conn.transaction():  # noqa: PT012 - the error is the point of the block
        lost = blocking.submit_task(request(), conn=conn)
        raise ZeroDivisionError
    with conn.transaction():
        kept = blocking.submit_task(request(), conn=conn)
    assert kept.refresh().status == "pending"
    with pytest.raises(TaskNotFound):
        blocking.get_task(lost.task_id)


def sqlalchemy_url(dsn: str) -> Any:  # noqa: ANN401 - any value
    return "postgresql+psycopg://", {"connect_args": psycopg.conninfo.conninfo_to_dict(dsn)}


async def test_sqlalchemys_async_connection_and_session_decide(service: QueueService, dsn: str) -> None:
    url, options = sqlalchemy_url(dsn)
    engine = create_async_engine(url, **options)
    async with engine.connect() as conn:
        kept = [await service.submit_task(request(), conn=conn)]
        await conn.commit()
        lost = [await service.submit_task(request(), conn=conn)]
    async with AsyncSession(engine) as session:
        kept.append(await service.submit_task(request(), conn=session))
        await session.commit()
        lost.append(await service.submit_task(request(), conn=session))
        await session.rollback()
    async with engine.begin() as conn:
        kept += await service.submit_tasks([request()], conn=conn)
    await engine.dispose()
    assert {(await task.refresh()).status for task in kept} == {"pending"}
    for task in lost:
        with pytest.raises(TaskNotFound):
            await task.refresh()


def test_sqlalchemys_blocking_connection_and_session_decide(blocking: sync.QueueService, dsn: str) -> None:
    url, options = sqlalchemy_url(dsn)
    engine = create_engine(url, **options)
    with engine.connect() as conn:
        kept = [blocking.submit_task(request(), conn=conn)]
        conn.commit()
        lost = [blocking.submit_task(request(), conn=conn)]
    with Session(engine) as session:
        kept.append(blocking.submit_task(request(), conn=session))
        session.commit()
        lost.append(blocking.submit_task(request(), conn=session))
    engine.dispose()
    assert {task.refresh().status for task in kept} == {"pending"}
    for task in lost:
        with pytest.raises(TaskNotFound):
            task.refresh()


class LikeDjango:
    """What of django.db.connection is used."""

    connection: Any = None

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    def ensure_connection(self) -> None:
        self.connection = self.connection or psycopg.connect(self.dsn)


def test_djangos_connection_decides(blocking: sync.QueueService, dsn: str) -> None:
    django = LikeDjango(dsn)
    task = blocking.submit_task(request(), conn=django)
    with pytest.raises(TaskNotFound):
        blocking.get_task(task.task_id)
    with django.connection:
        django.connection.commit()
    assert task.refresh().status == "pending"


async def test_a_connection_of_the_wrong_kind_is_refused_by_name(
    service: QueueService, blocking: sync.QueueService, conn: psycopg.Connection[Any]
) -> None:
    with pytest.raises(ConfigurationError, match=r"conn=Connection is no psycopg\.AsyncConnection"):
        await service.submit_task(request(), conn=conn)
    with pytest.raises(ConfigurationError, match=r"conn=str is no psycopg\.Connection"):
        blocking.submit_task(request(), conn="postgresql://")


async def test_a_taken_key_returns_raises_or_replaces(service: QueueService, engine: Engine) -> None:
    first = await service.submit_task(request(unique_key="k", payload={"n": 1}))
    again = await service.submit_task(request(unique_key="k", payload={"n": 2}))
    assert (again.task_id, again.created, (await first.refresh()).payload) == (first.task_id, False, {"n": 1})
    with pytest.raises(DuplicateTask) as caught:
        await service.submit_task(request(unique_key="k", on_conflict="raise"))
    assert caught.value.detail["task_id"] == first.task_id
    replaced = await service.submit_task(request(unique_key="k", payload={"n": 3}, on_conflict="replace"))
    assert (replaced.task_id, replaced.created, (await first.refresh()).payload) == (first.task_id, False, {"n": 3})
    other = await service.submit_task(TaskRequest(task_type="other", unique_key="k"))
    assert other.created
    engine.run("select pgqueue.cancel_task(%s)", other.task_id)
    engine.complete(first.task_id)
    free = await service.submit_task(request(unique_key="k"))
    assert free.created
    assert free.task_id != first.task_id


async def test_keys_in_bulk_tell_who_was_first(service: QueueService) -> None:
    live = await service.submit_task(request(unique_key="b"))
    keys = ["a", "b", "a", None]
    tasks = await service.submit_tasks([request(unique_key=key) for key in keys])
    assert [task.created for task in tasks] == [True, False, False, True]
    assert tasks[1].task_id == live.task_id
    assert tasks[2].task_id == tasks[0].task_id


async def test_keys_of_several_chunks_are_taken_in_one_order(
    service: QueueService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two transactions that hold each other's keys would deadlock; sorted over their chunks they wait in turn."""
    monkeypatch.setattr("pgqueue.services.shared.CHUNK_TASKS", 2)
    keys = [f"{letter}{number}" for letter in "aBc" for number in range(10)]
    orders = [keys, keys[::-1], keys[1::2] + keys[::2], keys[15:] + keys[:15]]
    made = await asyncio.gather(
        *(service.submit_tasks([request(unique_key=key, payload={"k": key}) for key in order]) for order in orders * 3)
    )
    ids = {task.unique_key: task.task_id for task in made[0]}
    for order, tasks in zip(orders * 3, made, strict=True):
        assert [task.task_id for task in tasks] == [ids[key] for key in order]
    assert (await service.list_tasks())[1] == len(keys)


async def test_of_32_callers_racing_on_a_key_one_task_is_left(service: QueueService, dsn: str) -> None:
    gate = asyncio.Event()

    async def call(number: int) -> int | None:
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            await gate.wait()
            task = await service.submit_task(request(unique_key="race"), conn=conn)
            if number % 2:
                await conn.rollback()
                return None
            await conn.commit()
            return task.task_id

    callers = [asyncio.create_task(call(number)) for number in range(32)]
    gate.set()
    told = [task_id for task_id in await asyncio.gather(*callers) if task_id is not None]
    tasks, total = await service.list_tasks()
    assert (len(told), total) == (16, 1)
    assert set(told) == {tasks[0].task_id}


async def test_bulk_of_20000_comes_in_order_and_whole(service: QueueService) -> None:
    tasks = await service.submit_tasks(request(payload={"n": n}) for n in range(BULK))
    assert len(tasks) == BULK
    ids = [task.task_id for task in tasks]
    assert ids == sorted(set(ids))
    for n in (0, 4_999, 5_000, BULK - 1):
        assert (await tasks[n].refresh()).payload == {"n": n}
    assert (await service.get_queue_stats("default")).pending >= 10_000


def test_bulk_blocks_too_and_large_payloads_are_split(blocking: sync.QueueService) -> None:
    tasks = blocking.submit_tasks(request(payload={"n": n, "text": "x" * 900_000}) for n in range(20))
    assert [task.refresh().payload["n"] for task in tasks] == list(range(20))
    assert blocking.submit_tasks([]) == []


async def test_a_bad_task_in_bulk_is_named_and_none_is_submitted(service: QueueService) -> None:
    requests = [request(), request(payload={"deep": [1, float("nan")]}), request()]
    with pytest.raises(InvalidInput, match=r"task 1: payload\.deep\[1\] is nan") as caught:
        await service.submit_tasks(requests)
    assert caught.value.detail["position"] == 1
    for many in (1, 6000):
        with pytest.raises(QueueNotFound):
            await service.submit_tasks([request()] * many + [request(queue_name="nowhere")])
    assert (await service.list_tasks())[1] == 0


async def test_a_bad_task_in_a_late_chunk_leaves_nothing_behind(
    service: QueueService, blocking: sync.QueueService, dsn: str
) -> None:
    requests = [request()] * 6000 + [request(payload=float("nan"))]
    with pytest.raises(InvalidInput, match="task 6000"):
        await service.submit_tasks(requests)
    with pytest.raises(InvalidInput, match="task 6000"):
        blocking.submit_tasks(requests)
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        with pytest.raises(InvalidInput, match="task 6000"):
            await service.submit_tasks(requests, conn=conn)
        await service.submit_task(request(), conn=conn)
    with psycopg.connect(dsn) as blocked:
        with pytest.raises(InvalidInput, match="task 6000"):
            blocking.submit_tasks(requests, conn=blocked)
        blocking.submit_task(request(), conn=blocked)
    assert (await service.list_tasks())[1] == 2


async def test_a_full_queue_refuses(service: QueueService, blocking: sync.QueueService) -> None:
    await service.create_queue("small", capacity=2)
    tasks = await service.submit_tasks([request(queue_name="small")] * 2)
    with pytest.raises(QueueFull) as caught:
        await service.submit_task(request(queue_name="small"))
    assert caught.value.detail == {"queue_name": "small", "capacity": 2}
    assert caught.value.hint
    with pytest.raises(QueueFull):
        blocking.submit_tasks([request(queue_name="small")])
    await tasks[0].cancel()
    await service.submit_task(request(queue_name="small"))
    await service.create_queue("small", capacity=0)
    await service.submit_task(request(queue_name="small"))


async def test_run_at_delays_and_the_past_means_now(service: QueueService, engine: Engine) -> None:
    soon = datetime.now(timezone(timedelta(hours=8))) + timedelta(minutes=5)
    later = await service.submit_task(request(run_at=soon))
    past = await service.submit_task(request(run_at=datetime(2001, 1, 1, tzinfo=UTC)))
    assert later.run_at == soon
    assert past.run_at == past.created_at
    assert set(engine.claim()) == {past.task_id}
    assert (await service.get_queue_stats("default")).scheduled == 1
    assert "not due until" in await service.why_waiting(later.task_id)


async def test_a_handler_submits_with_its_own_defaults(service: QueueService) -> None:
    await service.create_queue("reports")

    @service.handler("typed", queue_name="reports", max_retries=9, timeout=30)
    async def typed(ctx: TaskContext, payload: Report) -> None:
        """Never runs here."""

    task = await typed.submit(Report("t"), priority=Priority.URGENT)
    assert (task.queue_name, task.max_retries, task.timeout, task.priority) == ("reports", 9, 30, 20)
    assert (await typed.submit(Report("t"), queue_name="default", max_retries=0)).max_retries == 0


def test_a_handler_of_a_blocking_service_submits_blocking(blocking: sync.QueueService) -> None:
    @blocking.handler("typed", max_retries=9)
    def typed(ctx: TaskContext, payload: Report) -> None:
        """Never runs here."""

    task = typed.submit(Report("t", 3))
    assert isinstance(task, sync.Task)
    assert task.refresh().payload == {"title": "t", "pages": 3}
    assert task.max_retries == 9
    with pytest.raises(ConfigurationError, match="has a handler already"):
        blocking.register_handler("typed", typed.fn)


async def test_a_declared_queue_is_made_by_the_first_submit_that_succeeds(
    service: QueueService, blocking: sync.QueueService, engine: Engine
) -> None:
    service.register_queue("declared", concurrency=3)
    blocking.register_queue("other", concurrency=4)
    engine.run("alter table pgqueue.queues add constraint no_queues check (name = 'default')")
    with pytest.raises(InvalidInput):
        await service.submit_task(request(queue_name="declared"))
    engine.run("alter table pgqueue.queues drop constraint no_queues")
    assert (await service.submit_task(request(queue_name="declared"))).created
    assert len(blocking.submit_tasks([request(queue_name="other"), request()])) == 2
    slots = {queue.name: queue.concurrency for queue in await service.list_queues()}
    assert (slots["declared"], slots["other"]) == (3, 4)


async def test_the_first_operation_opens_the_pool_once_for_many(dsn: str) -> None:
    database = Database(dsn)
    service = QueueService(database)
    tasks = await asyncio.gather(*(service.submit_task(request()) for _ in range(20)))
    assert len({task.task_id for task in tasks}) == 20
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        sql = (
            "select count(*) from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"
        )
        row = await (await conn.execute(sql)).fetchone()
    await database.close()
    assert row is not None
    assert row[0] <= database.settings.pool_max


async def test_a_second_submit_shows_the_first_task_as_it_is(service: QueueService) -> None:
    first = await service.submit_task(TaskRequest(task_type="a", unique_key="k", payload={"n": 1}, priority=9))
    second = await service.submit_task(TaskRequest(task_type="a", unique_key="k", payload={"n": 2}))
    assert (second.task_id, second.created) == (first.task_id, False)
    assert (second.payload, second.priority) == ({"n": 1}, 9)
