"""assert_submitted, drain and travel, on a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import Database, InvalidInput, QueueService, TaskContext, TaskRequest, calls, sync
from pgqueue.testing import assert_submitted, drain, travel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

HOUR = timedelta(hours=1)
SECOND = timedelta(seconds=1)


@pytest.fixture
async def service(dsn: str) -> AsyncIterator[QueueService]:
    async with Database(dsn) as db:
        yield QueueService(db)


def clock_of(conn: psycopg.Connection[Any]) -> datetime:
    row = conn.execute(calls.clock().sql.encode()).fetchone()
    assert row is not None
    moment: datetime = row[0]
    return moment


async def test_what_was_submitted_is_found(service: QueueService, dsn: str) -> None:
    first = await service.submit_task(TaskRequest(task_type="mail", payload={"to": "ann", "copies": [1, 2]}))
    await service.submit_task(TaskRequest(task_type="mail", payload={"to": "bob"}, priority=10, user_id="u1"))
    (found,) = assert_submitted(dsn, "mail", {"copies": [1, 2], "to": "ann"})
    assert found.task_id == first.task_id
    assert_submitted(service.db, "mail", times=2)
    assert_submitted(dsn, "mail", priority=10, user_id="u1", times=1)
    assert_submitted(dsn, "letter", times=0)


async def test_what_was_not_says_what_was(service: QueueService, dsn: str) -> None:
    with pytest.raises(AssertionError, match="no task was submitted at all"):
        assert_submitted(dsn, "mail")
    await service.submit_task(TaskRequest(task_type="mail", payload={"to": "ann"}))
    with pytest.raises(AssertionError) as wrong:
        assert_submitted(dsn, "mail", {"to": "bob"}, queue_name="upload")
    assert "found 0" in str(wrong.value)
    told = "(pending):\n    queue_name is 'default', not 'upload'\n    payload.to is 'ann', not 'bob'"
    assert told in str(wrong.value)
    with pytest.raises(AssertionError, match=r"none of this type.*\n  task 1 'mail'"):
        assert_submitted(dsn, "letter")
    with pytest.raises(AssertionError, match="expected 2 of 'mail'; found 1"):
        assert_submitted(dsn, "mail", times=2)
    with pytest.raises(TypeError, match="no field queue;"):
        assert_submitted(dsn, "mail", queue="upload")


async def test_of_many_those_that_differ_least_come_first_place_by_place(service: QueueService, dsn: str) -> None:
    near = await service.submit_task(TaskRequest(task_type="mail", payload={"to": ["ann", "bob"], "size": {"cm": 3}}))
    await service.submit_task(TaskRequest(task_type="mail", payload={"to": [], "more": None}))
    with pytest.raises(AssertionError) as wrong:
        assert_submitted(dsn, "mail", {"to": ["ann", "eve"], "size": {"cm": 3}})
    _, _, first, difference, _, *others = str(wrong.value).splitlines()
    assert (first, difference) == (f"  task {near.task_id} (pending):", "    payload.to[1] is 'bob', not 'eve'")
    assert [line.strip() for line in others] == [
        "payload.to is [], not ['ann', 'eve']",
        "payload.size is absent, not {'cm': 3}",
        "payload.more is None, not absent",
    ]


def test_an_open_transaction_sees_its_own_tasks(dsn: str, conn: psycopg.Connection[Any]) -> None:
    with sync.Database(dsn) as db, conn.transaction(force_rollback=True):
        sync.QueueService(db).submit_task(TaskRequest(task_type="mail"), conn=conn)
        assert_submitted(conn, "mail")
        assert_submitted(dsn, "mail", times=0)


def test_the_clock_moves_and_comes_back(dsn: str, conn: psycopg.Connection[Any]) -> None:
    before = clock_of(conn)
    with travel(dsn, HOUR) as moment:
        assert HOUR <= clock_of(conn) - before < HOUR + 60 * SECOND
        assert abs(clock_of(conn) - moment) < 60 * SECOND
        with travel(conn, HOUR):
            assert 2 * HOUR <= clock_of(conn) - before < 2 * HOUR + 60 * SECOND
        assert clock_of(conn) - before < HOUR + 60 * SECOND
    assert before < clock_of(conn) < before + 60 * SECOND


def test_the_clock_is_set_to_a_moment_and_goes_on(dsn: str, conn: psycopg.Connection[Any]) -> None:
    with travel(dsn, datetime(2031, 5, 1, tzinfo=UTC)):
        first = clock_of(conn)
        assert first.year == 2031
        assert clock_of(conn) > first


def test_the_clock_comes_back_after_an_error(dsn: str, conn: psycopg.Connection[Any]) -> None:
    definition = "select pg_get_functiondef('pgqueue._now()'::regprocedure)"
    before = conn.execute(definition).fetchone()
    journey = travel(dsn, -HOUR)
    journey.__enter__()
    assert conn.execute(definition).fetchone() != before
    assert not journey.__exit__(KeyError, KeyError(), None)
    assert conn.execute(definition).fetchone() == before


def test_a_moment_needs_a_time_zone(dsn: str) -> None:
    with pytest.raises(InvalidInput, match="no time zone"), travel(dsn, datetime(2031, 5, 1)):  # noqa: DTZ001 - the point
        pass


async def test_a_retry_is_reached_by_travelling(service: QueueService, dsn: str) -> None:
    @service.handler("flaky")
    async def flaky(ctx: TaskContext) -> int:
        if ctx.failures == 0:
            raise ConnectionError("try again")
        return ctx.attempt

    task = await flaky.submit()
    with travel(dsn, -HOUR):
        await drain(service)
        assert (await task.refresh()).attempt == 0
    await drain(service)
    assert (await task.refresh()).failures == 1
    with travel(dsn, HOUR):
        await drain(service)
        assert await task.result(int) == 2


def test_a_blocking_service_drains(dsn: str) -> None:
    with sync.Database(dsn) as db:
        service = sync.QueueService(db)

        @service.handler("double")
        def double(ctx: TaskContext, payload: dict[str, int]) -> int:
            return 2 * payload["number"]

        task = double.submit({"number": 21})
        drain(service)
        assert task.result(int) == 42
