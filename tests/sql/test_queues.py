"""Queues: made, changed, paused, counted, deleted, and why a task waits in one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Lease, Sql


def queue(sql: Sql, name: str = "q") -> dict[str, Any]:
    return sql.row("select * from pgqueue.queues where name = %s", name)


def start(sql: Sql, **options: object) -> Lease:
    sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker(), queue=str(options.get("queue_name", "default")))
    return lease


class TestCreate:
    def test_the_defaults(self, sql: Sql) -> None:
        assert sql.value("select pgqueue.create_queue('q')") == "q"
        row = queue(sql)
        assert (row["concurrency"], row["capacity"], row["max_crashes"], row["paused_at"]) == (5, None, 3, None)

    def test_there_is_a_queue_named_default_from_the_start(self, sql: Sql) -> None:
        assert queue(sql, "default")["concurrency"] == 5

    def test_again_it_changes_what_is_given_and_keeps_the_rest(self, sql: Sql, clock: Clock) -> None:
        sql.rows("select pgqueue.create_queue('q', 7, 100, 2)")
        sql.rows("select pgqueue.pause_queue('q', 'why')")
        clock.advance(10)
        sql.rows("select pgqueue.create_queue('q', p_concurrency => 0)")
        row = queue(sql)
        assert (row["concurrency"], row["capacity"], row["max_crashes"], row["pause_reason"]) == (0, 100, 2, "why")
        assert row["updated_at"] == sql.now()

    def test_a_capacity_of_nought_takes_the_limit_away(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('q', p_capacity => 10)")
        sql.rows("select pgqueue.create_queue('q', p_capacity => 0)")
        assert queue(sql)["capacity"] is None

    def test_workers_are_told_of_a_change_and_of_nothing_else(self, sql: Sql) -> None:
        sql.rows("listen pgqueue_control")
        sql.rows("select pgqueue.create_queue('q', 7)")
        [(_, payload)] = sql.notifications()
        assert json.loads(payload) == {"kind": "queue", "queue_name": "q"}
        sql.rows("select pgqueue.create_queue('q', 7)")
        sql.rows("select pgqueue.create_queue('q')")
        assert sql.notifications() == []
        sql.rows("select pgqueue.create_queue('q', 8)")
        assert len(sql.notifications()) == 1

    def test_a_raised_concurrency_wakes(self, sql: Sql) -> None:
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sql.worker())
        sql.rows("listen pgqueue_wake")
        sql.rows("select pgqueue.create_queue('default', 50)")
        assert sql.notifications() == [("pgqueue_wake", "default")]

    @pytest.mark.parametrize(
        "arguments",
        ["''", "null", "repeat('q', 201)", "E'a\\nb'", "'q', -1", "'q', 100001", "'q', 1, -1", "'q', 1, 1, 0"],
    )
    def test_senseless_settings_are_refused(self, sql: Sql, arguments: str) -> None:
        error = sql.refuses("23502" if arguments == "null" else "23514", f"select pgqueue.create_queue({arguments})")
        assert (error.diag.table_name, error.diag.schema_name) == ("queues", "pgqueue")

    @pytest.mark.parametrize("name", ["ü 'quoted\" \\ %s {}", "q" * 200, "😀" * 200])
    def test_any_readable_name_will_do(self, sql: Sql, name: str) -> None:
        sql.rows("select pgqueue.create_queue(%s)", name)
        sleeper = sql.worker(name)
        sql.rows("select pgqueue.set_wait(%s, %s, false)", sleeper, name)
        sql.rows("listen pgqueue_wake")
        lease = start(sql, queue_name=name)
        assert sql.notifications() == [("pgqueue_wake", name)]
        sql.rows("select pgqueue.pause_queue(%s)", name)
        sql.rows("select pgqueue.resume_queue(%s)", name)
        sql.finish([lease])
        assert sql.row("select * from pgqueue.queue_stats(%s)", name)["completed"] == 1
        sql.rows("select pgqueue.delete_queue(%s)", name)


class TestPause:
    def test_what_runs_goes_on(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.pause_queue('default')")
        assert sql.finish([lease]) == []

    def test_submitting_goes_on(self, sql: Sql) -> None:
        sql.rows("select pgqueue.pause_queue('default')")
        sql.submit()

    def test_pausing_again_keeps_the_moment_and_takes_the_new_reason(self, sql: Sql, clock: Clock) -> None:
        sql.rows("select pgqueue.pause_queue('default', 'first')")
        paused_at = queue(sql, "default")["paused_at"]
        clock.advance(9)
        sql.rows("select pgqueue.pause_queue('default', 'second')")
        sql.rows("select pgqueue.pause_queue('default')")
        row = queue(sql, "default")
        assert (row["paused_at"], row["pause_reason"]) == (paused_at, "second")

    def test_resuming_wakes(self, sql: Sql) -> None:
        sql.submit()
        sql.rows("select pgqueue.pause_queue('default')")
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sql.worker())
        sql.rows("listen pgqueue_wake")
        sql.rows("select pgqueue.resume_queue('default')")
        assert sql.notifications() == [("pgqueue_wake", "default")]

    @pytest.mark.parametrize("verb", ["pause", "resume", "delete"])
    def test_there_is_no_such_queue(self, sql: Sql, verb: str) -> None:
        sql.refuses("QU101", f"select pgqueue.{verb}_queue('nope')")


class TestDelete:
    def test_an_empty_queue_goes_with_all_that_was_noted_of_it(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('q')")
        task_id = sql.submit(queue_name="q")
        sql.rows("select pgqueue.maintain()")
        sql.rows("select pgqueue.cancel_task(%s)", task_id)
        sql.rows("select pgqueue.delete_queue('q')")
        for table in ("queues where name = 'q'", "lanes where queue_name = 'q'", "queue_counts"):
            assert sql.rows(f"select * from pgqueue.{table}") == []
        assert sql.status(task_id) == "cancelled"

    @pytest.mark.parametrize("running", [True, False])
    def test_live_tasks_keep_it(self, sql: Sql, *, running: bool) -> None:
        sql.rows("select pgqueue.create_queue('q')")
        if running:
            start(sql, queue_name="q")
        else:
            sql.submit(queue_name="q")
        error = sql.refuses("QU201", "select pgqueue.delete_queue('q')")
        assert json.loads(error.diag.message_detail or "") == {"queue_name": "q", "live": 1}


class TestStats:
    def test_every_task_is_counted_in_its_place(self, sql: Sql, clock: Clock) -> None:
        sql.rows("select pgqueue.create_queue('other')")
        sql.submit(queue_name="other")
        sql.rows("select pgqueue.create_queue('default', 7, 99)")
        for failure in (None, None, {"outcome": "failed", "permanent": True}, {"outcome": "cancelled"}):
            sql.finish([start(sql)], failure)
        start(sql)
        sql.submit()
        clock.advance(30)
        sql.submit()
        sql.submit(run_at="2099-01-01 00:00+00")
        blocked = sql.submit()
        sql.rows("update pgqueue.tasks set status = 'blocked', waits_for = 1 where id = %s", blocked)
        assert sql.row("select * from pgqueue.queue_stats('default')") == {
            "queue_name": "default",
            "pending": 2,
            "scheduled": 1,
            "blocked": 1,
            "running": 1,
            "completed": 2,
            "failed": 1,
            "cancelled": 1,
            "queue_size": 4,
            "queue_capacity": 99,
            "concurrency": 7,
            "paused": False,
            "oldest_pending_age_s": 30,
            "counted_at": None,
        }

    def test_an_empty_queue_is_all_noughts(self, sql: Sql) -> None:
        stats = sql.row("select * from pgqueue.queue_stats('default')")
        assert stats["pending"] == stats["queue_size"] == stats["oldest_pending_age_s"] == 0

    def test_there_is_no_such_queue(self, sql: Sql) -> None:
        sql.refuses("QU101", "select * from pgqueue.queue_stats('nope')")

    def test_what_waits_is_counted_exactly_up_to_the_bound(self, sql: Sql) -> None:
        sql.rows("insert into pgqueue.tasks (task_type, priority) select 'a', n % 3 from generate_series(1, 50) n")
        blocked = sql.submit()
        sql.rows("update pgqueue.tasks set status = 'blocked', waits_for = 2 where id = %s", blocked)
        sql.claim(sql.worker(), 10)
        assert sql.value("select pgqueue._count_waiting('default')") == 41
        assert sql.value("select pgqueue._count_waiting('default', 20)") == 20
        assert sql.value("select pgqueue._count_waiting('nope')") == 0


class TestStatistics:
    WINDOW = "select * from pgqueue.task_statistics(%s, %s)"

    def test_a_window_counts_what_ended_in_it(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        for n, failure in enumerate([None, None, None, {"outcome": "failed", "permanent": True}]):
            lease = start(sql)
            clock.advance(60)
            sql.finish([lease], failure, elapsed_us=[(n + 1) * 100_000])
        start(sql)
        sql.submit()
        stats = sql.row(self.WINDOW, "2030-01-01 12:00+00", "2030-01-01 13:00+00")
        assert stats == {
            "total": 6,
            "completed": 3,
            "failed": 1,
            "cancelled": 0,
            "pending": 1,
            "running": 1,
            "success_rate": 75,
            "avg_duration_ms": 250,
            "p50_duration_ms": pytest.approx(200, rel=0.05),
            "p95_duration_ms": pytest.approx(400, rel=0.05),
            "p99_duration_ms": pytest.approx(400, rel=0.05),
        }

    def test_its_start_belongs_to_it_and_its_end_does_not(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.finish([start(sql)])
        assert sql.row(self.WINDOW, "2030-01-01 12:00+00", "2030-01-01 12:01+00")["completed"] == 1
        assert sql.row(self.WINDOW, "2030-01-01 11:00+00", "2030-01-01 12:00+00")["completed"] == 0

    def test_a_retry_takes_its_row_out_again(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        lease = start(sql)
        sql.finish([lease], {"outcome": "failed", "permanent": True})
        sql.rows("select pgqueue.retry_task(%s)", lease.id)
        stats = sql.row(self.WINDOW, "2030-01-01 00:00+00", "2030-01-02 00:00+00")
        assert (stats["failed"], stats["pending"], stats["total"]) == (0, 1, 1)

    def test_an_empty_window_divides_by_nothing(self, sql: Sql) -> None:
        stats = sql.row(self.WINDOW, "2030-01-01 00:00+00", "2030-01-01 00:00+00")
        assert set(stats.values()) == {0}

    def test_a_window_cannot_end_before_it_starts(self, sql: Sql) -> None:
        sql.refuses("QU001", self.WINDOW, "2030-01-02 00:00+00", "2030-01-01 00:00+00")


class TestWhyWaiting:
    def why(self, sql: Sql, task_id: int) -> str:
        return str(sql.value("select pgqueue.why_waiting(%s)", task_id))

    def test_its_queue_is_paused(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.rows("select pgqueue.pause_queue('default', 'release day')")
        assert "queue 'default' is paused since" in self.why(sql, task_id)
        assert "release day" in self.why(sql, task_id)

    def test_it_is_not_due(self, sql: Sql) -> None:
        task_id = sql.submit(run_at="2099-01-01 00:00+00")
        assert self.why(sql, task_id).startswith("not due until 2099")

    def test_it_is_not_due_because_it_failed(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": "failed", "error_type": "ValueError", "error_message": "no", "delay": 60})
        assert "retry after: ValueError: no" in self.why(sql, lease.id)

    def test_nobody_works_there(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        assert self.why(sql, task_id) == "no worker serves queue 'default'"
        sql.worker("other")
        assert self.why(sql, task_id) == "no worker serves queue 'default'"
        sql.worker()
        clock.advance(31)
        assert self.why(sql, task_id) == "no worker serves queue 'default'"

    def test_the_workers_have_no_slots(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('default', 0)")
        sql.worker()
        assert "concurrency of 0" in self.why(sql, sql.submit())

    def test_all_slots_are_busy(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('default', 2)")
        last = [sql.submit() for _ in range(4)][-1]
        sql.claim(sql.worker(), 2)
        assert self.why(sql, last) == "no free slot: 2 of 2 are busy, 1 task(s) ahead of it"

    def test_a_task_that_runs_again_takes_one_slot(self, sql: Sql) -> None:
        worker = sql.worker()
        for _ in range(2):
            sql.submit()
        sql.finish(sql.claim(worker, 1), {"outcome": "released"})
        [lease] = sql.claim(worker, 1)
        assert lease.attempt == 2
        [waiting] = sql.column("select id from pgqueue.tasks where status = 'pending'")
        assert self.why(sql, waiting) == "it is due: 0 task(s) ahead of it, 4 of 5 slots free"

    def test_the_slots_are_those_that_the_worker_says(self, sql: Sql) -> None:
        sql.submit()
        last = sql.submit()
        concurrency = '{"default": 1}'
        worker = sql.value("select pgqueue.register_worker('h', 1, '{default}', %s)", concurrency)
        sql.claim(worker, 1)
        assert self.why(sql, last) == "no free slot: 1 of 1 are busy, 0 task(s) ahead of it"

    def test_it_is_due_and_about_to_start(self, sql: Sql) -> None:
        sql.submit(priority=20)
        task_id = sql.submit()
        sql.submit()
        sql.worker()
        assert self.why(sql, task_id) == "it is due: 1 task(s) ahead of it, 5 of 5 slots free"

    def test_it_is_blocked(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.rows("update pgqueue.tasks set status = 'blocked', waits_for = 2")
        assert self.why(sql, task_id) == "blocked by 2 unfinished task(s)"

    def test_it_does_not_wait_at_all(self, sql: Sql) -> None:
        lease = start(sql)
        worker = sql.task(lease.id)["worker_id"]
        assert self.why(sql, lease.id).startswith(f"it does not wait: worker {worker} runs it since")
        sql.finish([lease])
        assert self.why(sql, lease.id) == "it does not wait: it is completed"

    def test_its_queue_is_gone(self, sql: Sql) -> None:
        """Rows that came by restore or replication may name a queue that nobody made."""
        sql.rows("set session_replication_role = replica")
        sql.rows("insert into pgqueue.tasks (task_type, queue_name) values ('a', 'ghost')")
        sql.rows("reset session_replication_role")
        assert "ghost" in self.why(sql, sql.value("select id from pgqueue.tasks"))

    def test_there_is_no_such_task(self, sql: Sql) -> None:
        sql.refuses("QU102", "select pgqueue.why_waiting(4711)")


def test_a_submit_that_outlived_its_queue_brings_it_back(sql: Sql, connect: Callable[[], Sql]) -> None:
    sql.rows("select pgqueue.create_queue('q')")
    late = connect()
    late.rows("begin")
    task_id = late.submit(queue_name="q")
    sql.rows("select pgqueue.delete_queue('q')")
    late.rows("commit")
    assert sql.rows("select from pgqueue.queues where name = 'q'") == []
    sql.rows("select pgqueue.maintain()")
    assert queue(sql)["concurrency"] == 5
    assert [lease.id for lease in sql.claim(sql.worker("q"), queue="q")] == [task_id]
