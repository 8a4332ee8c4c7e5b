"""Stopping tasks, and starting them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Lease, Sql

CANCEL = "select pgqueue.cancel_task(%s, %s)"
RETRY = "select pgqueue.retry_task(%s)"


def start(sql: Sql, **options: object) -> Lease:
    sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker())
    return lease


def fail(sql: Sql, **options: object) -> int:
    """Submit a task and let it fail for good; return its id."""
    lease = start(sql, **options)
    sql.finish([lease], {"outcome": "failed", "permanent": True, "error_message": "broken"})
    return lease.id


class TestCancel:
    def test_a_pending_task_ends_at_once_with_the_reason(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit(unique_key="k", payload={"a": 1})
        clock.advance(5)
        assert sql.value(CANCEL, task_id, "not needed") == "cancelled"
        task = sql.task(task_id)
        assert (task["status"], task["error"], task["finished_at"]) == ("cancelled", "not needed", sql.now())
        assert (task["started_at"], task["worker_id"], task["attempt"]) == (None, None, 0)
        assert task["payload"] == {"a": 1}
        assert sql.outcomes(task_id) == []
        assert sql.submit(unique_key="k") != task_id

    def test_a_blocked_task_ends_at_once(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.rows("update pgqueue.tasks set status = 'blocked', waits_for = 1")
        assert sql.value(CANCEL, task_id, None) == "cancelled"
        assert sql.status(task_id) == "cancelled"

    def test_a_scheduled_task_and_one_that_waits_for_its_retry_end_at_once(self, sql: Sql) -> None:
        later = sql.submit(run_at="2099-01-01 00:00+00")
        lease = start(sql)
        sql.finish([lease], {"outcome": "failed", "error_message": "first"})
        assert sql.value(CANCEL, later, None) == "cancelled"
        assert sql.value(CANCEL, lease.id, None) == "cancelled"
        assert sql.task(lease.id)["error"] == "first"

    @pytest.mark.usefixtures("clock")
    def test_a_running_task_is_asked_through_its_worker(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = connect()
        ear.rows("listen pgqueue_control")
        lease = start(sql)
        worker = sql.task(lease.id)["worker_id"]
        assert sql.value(CANCEL, lease.id, "enough") == "running"
        [(channel, payload)] = ear.notifications()
        assert channel == "pgqueue_control"
        assert json.loads(payload) == {"kind": "cancel", "worker_id": worker, "task_id": lease.id}
        assert sql.task(lease.id)["cancel_requested_at"] == sql.now()
        [beat] = sql.call("heartbeat", worker_id=worker)
        assert beat["cancel_ids"] == [lease.id]

    def test_asking_again_keeps_the_first_reason_and_moment(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql)
        sql.value(CANCEL, lease.id, "first")
        asked_at = sql.now()
        clock.advance(60)
        sql.value(CANCEL, lease.id, "second")
        assert sql.task(lease.id)["cancel_requested_at"] == asked_at
        sql.finish([lease], {"outcome": "cancelled"})
        assert sql.task(lease.id)["error"] == "first"

    def test_cancelling_what_is_cancelled_changes_nothing(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        sql.value(CANCEL, task_id, "first")
        before = sql.task(task_id)
        clock.advance(60)
        assert sql.value(CANCEL, task_id, "second") == "cancelled"
        assert sql.task(task_id) == before

    @pytest.mark.parametrize("failure", [None, {"outcome": "failed", "permanent": True}])
    def test_what_has_ended_otherwise_cannot_be_cancelled(self, sql: Sql, failure: dict[str, object] | None) -> None:
        lease = start(sql)
        sql.finish([lease], failure)
        error = sql.refuses("QU201", CANCEL, lease.id, None)
        assert error.diag.message_hint

    def test_there_is_no_such_task(self, sql: Sql) -> None:
        error = sql.refuses("QU102", CANCEL, 4711, None)
        assert json.loads(error.diag.message_detail or "") == {"task_id": 4711}

    def test_a_cancelled_task_keeps_its_progress(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.update_progress(%s, 30)", lease.id)
        sql.finish([lease], {"outcome": "released"})
        sql.value(CANCEL, lease.id, None)
        assert sql.task(lease.id)["progress"]["progress"] == 30
        assert sql.rows("select * from pgqueue.task_progress") == []

    def test_notify_off_silences_it(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = connect()
        ear.rows("listen pgqueue_control")
        lease = start(sql)
        with sql.conn.transaction():
            sql.rows("set local pgqueue.notify = off")
            sql.value(CANCEL, lease.id, None)
        assert ear.notifications() == []

    def test_an_open_cancellation_that_rolls_back_leaves_the_task_alone(self, sql: Sql) -> None:
        lease = start(sql)
        with sql.conn.transaction(force_rollback=True):
            sql.value(CANCEL, lease.id, None)
        sql.finish([lease], {"outcome": "released"})
        assert sql.status(lease.id) == "pending"


class TestRetry:
    def test_it_is_the_same_task_anew(self, sql: Sql, clock: Clock) -> None:
        task_id = fail(sql, payload={"a": 1}, priority=10, max_retries=7, timeout=9, user_id="u", project_id="p")
        created_at = sql.task(task_id)["created_at"]
        clock.advance(100)
        assert sql.value(RETRY, task_id) == task_id
        task = sql.task(task_id)
        assert (task["status"], task["attempt"], task["failures"], task["crashes"]) == ("pending", 1, 0, 0)
        assert (task["result"], task["error"], task["cancel_requested_at"]) == (None, None, None)
        assert (task["run_at"], task["created_at"]) == (sql.now(), created_at)
        assert (task["payload"], task["priority"], task["max_retries"], task["timeout"]) == ({"a": 1}, 10, 7, 9)
        assert (task["user_id"], task["project_id"]) == ("u", "p")
        assert sql.value("select count(*) from pgqueue.finished_tasks") == 0
        assert sql.outcomes(task_id) == ["failed"]
        assert sql.claim(sql.worker()) == [(task_id, 2)]

    def test_its_counters_begin_anew(self, sql: Sql) -> None:
        lease = start(sql, max_retries=1)
        for failure in ({"outcome": "lost"}, {"outcome": "failed", "delay": 0}):
            sql.finish([lease], failure)
            [lease] = sql.claim(sql.worker())
        sql.finish([lease], {"outcome": "failed"})
        sql.rows(RETRY, lease.id)
        [lease] = sql.claim(sql.worker())
        sql.finish([lease], {"outcome": "failed", "delay": 0})
        assert sql.task(lease.id)["failures"] == 1
        assert sql.status(lease.id) == "pending"

    def test_a_cancelled_task_can_be_retried(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.rows(CANCEL, task_id, "oops")
        assert sql.value(RETRY, task_id) == task_id
        assert sql.status(task_id) == "pending"

    def test_it_wakes(self, sql: Sql) -> None:
        task_id = fail(sql)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sql.worker())
        sql.rows("listen pgqueue_wake")
        sql.rows(RETRY, task_id)
        assert sql.notifications() == [("pgqueue_wake", "default")]

    def test_a_completed_task_is_not_done_twice(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease])
        sql.refuses("QU201", RETRY, lease.id)

    def test_a_live_task_is_not_started_twice(self, sql: Sql) -> None:
        waiting = sql.submit(run_at="2099-01-01 00:00+00")
        running = start(sql)
        for task_id in (waiting, running.id):
            sql.refuses("QU201", RETRY, task_id)

    def test_there_is_no_such_task(self, sql: Sql) -> None:
        sql.refuses("QU102", RETRY, 4711)

    def test_a_live_task_with_its_key_stands_in_its_way(self, sql: Sql) -> None:
        task_id = fail(sql, unique_key="k")
        rival = sql.submit(unique_key="k")
        error = sql.refuses("QU202", RETRY, task_id)
        assert json.loads(error.diag.message_detail or "")["task_id"] == rival
        assert sql.status(task_id) == "failed"
        sql.rows(CANCEL, rival, None)
        sql.rows(RETRY, task_id)
        sql.refuses("QU202", RETRY, rival)

    def test_a_full_queue_refuses_it(self, sql: Sql) -> None:
        task_id = fail(sql)
        sql.rows("select pgqueue.create_queue('default', p_capacity => 1)")
        sql.submit()
        sql.refuses("QU401", RETRY, task_id)
        assert sql.status(task_id) == "failed"

    def test_a_deleted_queue_refuses_it(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('gone')")
        task_id = sql.submit(queue_name="gone")
        sql.rows(CANCEL, task_id, None)
        sql.rows("select pgqueue.delete_queue('gone')")
        sql.refuses("QU101", RETRY, task_id)

    def test_two_at_once_start_it_once(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        task_id = fail(sql)
        other = connect()
        other.rows("begin")
        other.rows(RETRY, task_id)
        second = background(sql, lambda s: s.refuses("QU201", RETRY, task_id))
        assert second.waits_for() == {other.pid}
        other.rows("commit")
        second.result()
        assert sql.value("select count(*) from pgqueue.all_tasks where id = %s", task_id) == 1

    def test_retryable_are_the_failed_and_cancelled_that_nothing_stands_in_the_way_of(self, sql: Sql) -> None:
        failed = fail(sql)
        cancelled = sql.submit()
        sql.rows(CANCEL, cancelled, None)
        blocked = fail(sql, unique_key="k")
        sql.submit(unique_key="k", run_at="2099-01-01 00:00+00")
        done = start(sql)
        sql.finish([done])
        ids = sql.column("select id from pgqueue.get_retryable_tasks()")
        assert ids == [cancelled, failed]
        assert blocked not in ids
        assert sql.column("select id from pgqueue.get_retryable_tasks(1)") == [cancelled]
        assert sql.column("select id from pgqueue.get_retryable_tasks(9, 'nope')") == []


def test_cancelling_a_task_that_is_being_finished_waits_and_then_refuses(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
) -> None:
    lease = start(sql)
    other = connect()
    other.rows("begin")
    other.finish([lease])
    cancel = background(sql, lambda s: s.refuses("QU201", CANCEL, lease.id, None))
    assert cancel.waits_for() == {other.pid}
    other.rows("commit")
    cancel.result()


def test_cancelling_a_task_that_is_being_put_back_waits_and_ends_it(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
) -> None:
    lease = start(sql)
    other = connect()
    other.rows("begin")
    other.finish([lease], {"outcome": "failed"})
    cancel = background(sql, lambda s: s.value(CANCEL, lease.id, None))
    assert cancel.waits_for() == {other.pid}
    other.rows("commit")
    assert cancel.result() == "cancelled"
    assert sql.status(lease.id) == "cancelled"
