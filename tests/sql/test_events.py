"""Events for those who follow: a JSON array, small enough, and nothing where nobody follows."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Lease, Sql

HUB = "00000000-0000-0000-0000-00000000000a"


@pytest.fixture
def ear(connect: Callable[[], Sql]) -> Sql:
    session = connect()
    session.rows("listen pgqueue_events")
    return session


def start(sql: Sql, **options: object) -> Lease:
    sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker(), queue=str(options.get("queue_name", "default")))
    return lease


def follow(sql: Sql, scope: str, task_id: int = 0, queue: str = "", seconds: int = 60) -> None:
    sql.rows("select pgqueue.follow(%s, %s, %s, %s, %s)", HUB, scope, task_id, queue, seconds)


def events(ear: Sql) -> list[dict[str, Any]]:
    return [event for _, payload in ear.notifications() for event in json.loads(payload)]


def statuses(ear: Sql) -> list[tuple[int, str]]:
    return [(event["task_id"], event["status"]) for event in events(ear)]


def live_through(sql: Sql, **options: object) -> int:
    lease = start(sql, **options)
    sql.rows("select pgqueue.update_progress(%s, 50, 'half')", lease.id)
    sql.finish([lease])
    return lease.id


def test_nobody_follows_so_nothing_is_said(sql: Sql, ear: Sql) -> None:
    live_through(sql)
    assert ear.notifications() == []


def test_a_task_is_followed_to_its_end(sql: Sql, ear: Sql) -> None:
    lease = start(sql)
    other = sql.submit(run_at="2099-01-01 00:00+00")
    follow(sql, "task", lease.id)
    sql.rows("select pgqueue.update_progress(%s, 50, 'half', 's', 1, 2)", lease.id)
    sql.rows("select pgqueue.cancel_task(%s)", other)
    sql.finish([lease])
    assert events(ear) == [
        {
            "kind": "progress",
            "task_id": lease.id,
            "queue_name": "default",
            "progress": 50,
            "message": "half",
            "step": "s",
            "completed_steps": 1,
            "total_steps": 2,
        },
        {
            "kind": "status",
            "task_id": lease.id,
            "status": "completed",
            "attempt": 1,
            "queue_name": "default",
            "task_type": "work",
        },
    ]


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (None, "completed"),
        ({"outcome": "failed", "permanent": True}, "failed"),
        ({"outcome": "failed"}, "pending"),
        ({"outcome": "released"}, "pending"),
        ({"outcome": "cancelled"}, "cancelled"),
    ],
)
def test_every_change_of_status_is_told(sql: Sql, ear: Sql, failure: dict[str, object] | None, status: str) -> None:
    follow(sql, "all")
    lease = start(sql)
    assert statuses(ear) == [(lease.id, "running")]
    sql.finish([lease], failure)
    assert statuses(ear) == [(lease.id, status)]


def test_cancel_retry_and_rescue_are_told(sql: Sql, ear: Sql, clock: Clock) -> None:
    task_id = sql.submit()
    follow(sql, "all", seconds=600)
    sql.rows("select pgqueue.cancel_task(%s)", task_id)
    sql.rows("select pgqueue.retry_task(%s)", task_id)
    sql.claim(sql.worker())
    clock.advance(31)
    sql.rows("select * from pgqueue.rescue()")
    assert statuses(ear) == [(task_id, status) for status in ("cancelled", "pending", "running", "pending")]


def test_a_queue_is_followed_and_no_other(sql: Sql, ear: Sql) -> None:
    sql.rows("select pgqueue.create_queue('other')")
    follow(sql, "queue", queue="other")
    live_through(sql)
    assert events(ear) == []
    task_id = live_through(sql, queue_name="other")
    assert {event["task_id"] for event in events(ear)} == {task_id}


def test_who_does_not_renew_is_forgotten(sql: Sql, ear: Sql, clock: Clock) -> None:
    follow(sql, "all", seconds=60)
    clock.advance(59)
    sql.rows("select pgqueue.keep_following(%s, 60)", HUB)
    clock.advance(59)
    live_through(sql)
    assert events(ear)
    clock.advance(2)
    live_through(sql)
    assert events(ear) == []


def test_unfollowing_one_or_all(sql: Sql, ear: Sql) -> None:
    lease = start(sql)
    follow(sql, "task", lease.id)
    follow(sql, "queue", queue="default")
    sql.rows("select pgqueue.unfollow(%s, 'queue', 0, 'default')", HUB)
    assert sql.column("select scope from pgqueue.listeners") == ["task"]
    sql.rows("select pgqueue.unfollow(%s)", HUB)
    sql.finish([lease])
    assert events(ear) == []


@pytest.mark.parametrize(
    ("scope", "task_id", "queue"),
    [("none", 0, ""), ("task", 0, ""), ("task", 1, "q"), ("queue", 0, ""), ("all", 1, ""), ("queue", 1, "q")],
)
def test_a_scope_that_makes_no_sense_is_refused(sql: Sql, scope: str, task_id: int, queue: str) -> None:
    sql.refuses("23514", "select pgqueue.follow(%s, %s, %s, %s)", HUB, scope, task_id, queue)


def test_many_events_share_messages_and_none_is_too_long(sql: Sql, ear: Sql) -> None:
    follow(sql, "all")
    sql.rows("insert into pgqueue.tasks (task_type) select repeat('t', 200) from generate_series(1, 300)")
    sql.finish(sql.claim(sql.worker(), 300))
    messages = [payload for _, payload in ear.notifications()]
    assert 2 <= len(messages) < 100
    assert max(len(payload.encode()) for payload in messages) < 8000
    told = [(event["task_id"], event["status"]) for payload in messages for event in json.loads(payload)]
    assert sorted(told) == [(n, status) for n in range(1, 301) for status in ("completed", "running")]


@pytest.mark.parametrize("text", ["\\", '"', "\u0001", "😀", "ü"])
def test_the_longest_texts_do_not_break_a_report(sql: Sql, ear: Sql, text: str) -> None:
    """A notification holds less than 8,000 bytes, and JSON makes six of some characters."""
    queue = ("😀" if text == "\u0001" else text) * 200
    sql.rows("select pgqueue.create_queue(%s)", queue)
    follow(sql, "all")
    leases = [start(sql, task_type=queue, queue_name=queue) for _ in range(5)]
    reports = [
        {"task_id": lease.id, "attempt": 1, "progress": 1, "message": text * 4000, "step": text * 1000}
        for lease in leases
    ]
    sql.rows("select pgqueue.report_progress(%s)", Jsonb(reports))
    sql.rows("select pgqueue.update_progress(%s, 2, %s, %s)", leases[0].id, text * 4000, text * 1000)
    sql.finish(leases)
    messages = [payload for _, payload in ear.notifications()]
    assert max(len(payload.encode()) for payload in messages) < 8000
    assert sum(len(json.loads(payload)) for payload in messages) == 5 + 5 + 1 + 5


def test_notify_off_silences_events(sql: Sql, ear: Sql) -> None:
    follow(sql, "all")
    with sql.conn.transaction():
        sql.rows("set local pgqueue.notify = off")
        live_through(sql)
    assert events(ear) == []


def test_a_subscriber_that_follows_and_then_reads_misses_nothing(sql: Sql, connect: Callable[[], Sql]) -> None:
    """Whoever ended the task without seeing the follower has ended when the fence is clear."""
    lease = start(sql)
    subscriber = connect()
    finisher = connect()
    finisher.rows("begin")
    finisher.finish([lease])
    subscriber.rows("listen pgqueue_events")
    subscriber.rows("select pgqueue.follow(%s, 'task', %s)", HUB, lease.id)
    fence = subscriber.value("select pgqueue.fence()")
    assert subscriber.status(lease.id) == "running"
    assert subscriber.value("select pgqueue.is_clear(%s)", fence) is False
    finisher.rows("commit")
    assert subscriber.notifications() == []
    assert subscriber.value("select pgqueue.is_clear(%s)", fence) is True
    assert subscriber.status(lease.id) == "completed"
