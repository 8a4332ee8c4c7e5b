"""Progress, results and logs: what a running task says of itself, and who may still say it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Lease, Sql

PROGRESS = "select pgqueue.update_progress(%s, %s, p_attempt => %s)"
RESULT = "select pgqueue.set_task_result(%s, %s, %s)"
ENDS: list[dict[str, object] | None] = [
    None,
    {"outcome": "failed", "permanent": True},
    {"outcome": "failed", "delay": 0},
    {"outcome": "released"},
    {"outcome": "lost"},
    {"outcome": "cancelled"},
]


def start(sql: Sql) -> Lease:
    sql.submit()
    [lease] = sql.claim(sql.worker())
    return lease


def progress(sql: Sql, task_id: int) -> dict[str, Any]:
    [row] = sql.rows("select * from pgqueue.get_progress(%s)", task_id)
    return row


def report(sql: Sql, *reports: dict[str, Any]) -> list[int]:
    lost: list[int] = sql.value("select pgqueue.report_progress(%s)", Jsonb(reports))
    return lost


def log(sql: Sql, *lines: dict[str, Any]) -> int:
    return int(sql.value("select pgqueue.write_logs(%s)", Jsonb(lines)))


def line(lease: Lease, message: object = "hello", **fields: object) -> dict[str, Any]:
    return {"task_id": lease.id, "attempt": lease.attempt, "level": "info", "message": message, **fields}


class TestProgress:
    def test_the_last_report_is_what_is_read(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.update_progress(%s, 10, 'a', 's1', 1, 4)", lease.id)
        clock.advance(2)
        sql.rows("select pgqueue.update_progress(%s, 50, 'b', 's2', 2, 4)", lease.id)
        assert progress(sql, lease.id) == {
            "task_id": lease.id,
            "status": "running",
            "progress": 50,
            "message": "b",
            "step": "s2",
            "completed_steps": 2,
            "total_steps": 4,
            "updated_at": sql.now(),
        }

    def test_a_task_that_never_reported_is_at_nought(self, sql: Sql) -> None:
        assert progress(sql, start(sql).id)["progress"] == 0

    def test_a_completed_task_is_at_a_hundred_a_failed_one_where_it_stopped(self, sql: Sql) -> None:
        done, broken = start(sql), start(sql)
        for lease in (done, broken):
            sql.rows("select pgqueue.update_progress(%s, 40, 'so far')", lease.id)
        sql.finish([done])
        sql.finish([broken], {"outcome": "failed", "permanent": True})
        assert (progress(sql, done.id)["progress"], progress(sql, done.id)["message"]) == (100, "so far")
        assert (progress(sql, broken.id)["progress"], progress(sql, broken.id)["status"]) == (40, "failed")

    def test_there_is_no_such_task(self, sql: Sql) -> None:
        sql.refuses("QU102", "select * from pgqueue.get_progress(4711)")
        sql.refuses("QU102", PROGRESS, 4711, 1, None)
        sql.refuses("QU102", PROGRESS, 4711, 1, 1)

    @pytest.mark.parametrize("percent", [-1, 101, None])
    def test_it_is_a_percentage(self, sql: Sql, percent: int | None) -> None:
        sql.refuses("23514" if percent is not None else "23502", PROGRESS, start(sql).id, percent, None)

    @pytest.mark.parametrize(("done", "total"), [(5, 4), (-1, 4)])
    def test_no_more_steps_are_done_than_there_are(self, sql: Sql, done: int, total: int) -> None:
        lease = start(sql)
        sql.refuses("23514", "select pgqueue.update_progress(%s, 1, 'm', 's', %s, %s)", lease.id, done, total)

    def test_long_texts_are_cut(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.update_progress(%s, 1, repeat('m', 10000), repeat('s', 10000))", lease.id)
        row = progress(sql, lease.id)
        assert (len(row["message"]), len(row["step"])) == (4000, 1000)

    def test_a_task_that_waits_has_nothing_to_report(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.refuses("QU201", PROGRESS, task_id, 1, None)


class TestTheLease:
    @pytest.mark.parametrize("end", ENDS)
    def test_after_its_end_an_attempt_writes_nothing(self, sql: Sql, end: dict[str, object] | None) -> None:
        """Not even where the task is pending again and the attempt number still the same."""
        lease = start(sql)
        sql.finish([lease], end)
        error = sql.refuses("QU301", PROGRESS, lease.id, 10, lease.attempt)
        assert json.loads(error.diag.message_detail or "")["status"] == sql.status(lease.id)
        sql.refuses("QU301", RESULT, lease.id, "1", lease.attempt)
        assert report(sql, {"task_id": lease.id, "attempt": lease.attempt, "progress": 10}) == [lease.id]
        assert log(sql, line(lease)) == 0
        assert sql.rows("select * from pgqueue.task_progress") == []
        assert sql.rows("select * from pgqueue.task_logs") == []
        assert sql.task(lease.id)["result"] is None

    def test_while_the_next_attempt_runs_the_old_one_writes_nothing(self, sql: Sql) -> None:
        old = start(sql)
        sql.finish([old], {"outcome": "released"})
        [new] = sql.claim(sql.worker())
        sql.refuses("QU301", PROGRESS, old.id, 10, old.attempt)
        sql.refuses("QU301", RESULT, old.id, "1", old.attempt)
        sql.rows(PROGRESS, new.id, 20, new.attempt)
        assert progress(sql, new.id)["progress"] == 20

    def test_reports_of_an_old_attempt_beside_those_of_the_running_one_are_left_out(self, sql: Sql) -> None:
        old = start(sql)
        sql.finish([old], {"outcome": "released"})
        [new] = sql.claim(sql.worker())
        report(
            sql,
            {"task_id": new.id, "attempt": new.attempt, "progress": 20},
            {"task_id": old.id, "attempt": old.attempt, "progress": 90},
        )
        assert progress(sql, new.id)["progress"] == 20
        report(sql, {"task_id": old.id, "attempt": old.attempt, "progress": 95})
        assert progress(sql, new.id)["progress"] == 20
        assert log(sql, line(old, "old"), line(new, "new")) == 1
        assert sql.column("select message from pgqueue.get_logs(%s)", new.id) == ["new"]

    def test_without_an_attempt_whichever_runs_is_meant(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows(PROGRESS, lease.id, 30, None)
        assert progress(sql, lease.id)["progress"] == 30

    def test_an_attempt_cannot_end_between_the_test_and_the_write(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        lease = start(sql)
        writer = connect()
        writer.rows("begin")
        writer.rows(PROGRESS, lease.id, 30, lease.attempt)
        assert sql.finish([lease]) == [lease.id]
        waiting = background(sql, lambda s: s.finish([lease], wait=True))
        assert waiting.waits_for() == {writer.pid}
        writer.rows("commit")
        assert waiting.result() == []
        assert sql.task(lease.id)["progress"]["progress"] == 30


class TestBatches:
    def test_many_reports_in_one_call(self, sql: Sql) -> None:
        leases = [start(sql) for _ in range(3)]
        sql.finish(leases[1:2])
        reports = [
            {"task_id": lease.id, "attempt": lease.attempt, "progress": 10 * n, "message": f"m{n}", "step": "s"}
            for n, lease in enumerate(leases)
        ]
        assert report(sql, *reports) == [leases[1].id]
        assert progress(sql, leases[0].id)["progress"] == 0
        assert (progress(sql, leases[2].id)["progress"], progress(sql, leases[2].id)["message"]) == (20, "m2")

    def test_the_last_of_several_reports_of_a_task_counts(self, sql: Sql) -> None:
        lease = start(sql)
        assert report(sql, *({"task_id": lease.id, "attempt": 1, "progress": p} for p in (10, 60, 40))) == []
        assert progress(sql, lease.id)["progress"] == 40

    def test_an_application_that_holds_a_task_delays_nobody_elses_reports(
        self, sql: Sql, connect: Callable[[], Sql]
    ) -> None:
        held, free = start(sql), start(sql)
        application = connect()
        application.rows("begin")
        application.rows("select pgqueue.cancel_task(%s)", held.id)
        sql.rows("set statement_timeout = '10s'")
        both = [{"task_id": lease.id, "attempt": lease.attempt, "progress": 70} for lease in (held, free)]
        assert report(sql, *both) == []
        assert log(sql, line(held), line(free)) == 2
        assert progress(sql, free.id)["progress"] == 70

    def test_none_is_none(self, sql: Sql) -> None:
        assert report(sql) == []
        assert log(sql) == 0


class TestResults:
    def test_it_may_be_stored_before_the_end_and_after_it(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows(RESULT, lease.id, '{"half": 1}', lease.attempt)
        assert sql.task(lease.id)["result"] == {"half": 1}
        sql.finish([lease])
        assert sql.task(lease.id)["result"] == {"half": 1}
        sql.rows(RESULT, lease.id, '"by hand"', None)
        assert sql.task(lease.id)["result"] == "by hand"

    def test_what_the_handler_returns_replaces_it(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows(RESULT, lease.id, "1", None)
        sql.finish([lease], results=[2])
        assert sql.task(lease.id)["result"] == 2

    def test_it_survives_a_retry(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows(RESULT, lease.id, "1", None)
        sql.finish([lease], {"outcome": "failed"})
        assert sql.task(lease.id)["result"] == 1

    def test_there_is_no_such_task(self, sql: Sql) -> None:
        sql.refuses("QU102", RESULT, 4711, "1", None)
        sql.refuses("QU102", RESULT, 4711, "1", 1)


class TestLogs:
    def test_lines_are_kept_in_order_with_their_attempt(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00:10+00")
        lease = start(sql)
        lines = [line(lease, f"m{n}", ago=5 - n, fields={"n": n}) for n in range(4)]
        assert log(sql, *lines) == 4
        rows = sql.rows("select * from pgqueue.get_logs(%s)", lease.id)
        assert [row["message"] for row in rows] == ["m0", "m1", "m2", "m3"]
        assert [row["fields"] for row in rows] == [{"n": n} for n in range(4)]
        assert {row["attempt"] for row in rows} == {1}
        assert (sql.now() - rows[0]["logged_at"]).total_seconds() == 5

    def test_they_can_be_followed(self, sql: Sql) -> None:
        lease = start(sql)
        log(sql, line(lease, "a"), line(lease, "b"))
        first = sql.rows("select * from pgqueue.get_logs(%s, 0, 1)", lease.id)
        assert [row["message"] for row in first] == ["a"]
        rest = sql.column("select message from pgqueue.get_logs(%s, %s)", lease.id, first[-1]["id"])
        assert rest == ["b"]

    def test_a_line_of_before_midnight_does_not_miss_its_day(self, sql: Sql, clock: Clock) -> None:
        clock.set("2031-05-01 00:00:01+00")
        lease = start(sql)
        sql.rows("drop table if exists pgqueue.task_logs_20310430")
        assert log(sql, line(lease, ago=3600)) == 1
        day = sql.value("select (logged_at at time zone 'UTC')::date::text from pgqueue.task_logs")
        assert day == "2031-05-01"

    @pytest.mark.parametrize(("bad", "sqlstate"), [({"level": "loud"}, "23514"), ({"ago": -1}, "QU001")])
    def test_bad_lines_are_refused(self, sql: Sql, bad: dict[str, Any], sqlstate: str) -> None:
        lease = start(sql)
        sql.refuses(sqlstate, "select pgqueue.write_logs(%s)", Jsonb([line(lease, **bad)]))

    def test_a_huge_message_is_cut(self, sql: Sql) -> None:
        lease = start(sql)
        log(sql, line(lease, "x" * 100_000))
        assert sql.value("select length(message) from pgqueue.task_logs") == 65536
