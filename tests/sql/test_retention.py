"""How long history is kept: by queue and status, in whole days where that is possible and in small batches else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from tests.sql.conftest import Clock, Lease, Sql

DAY = 86_400
KEEP = ("30 days", "30 days", "30 days")
TABLES = ("finished_tasks", "attempts", "task_logs")


def start(sql: Sql, **options: Any) -> Lease:  # noqa: ANN401 - those of submit
    sql.submit(**options)
    [lease] = sql.claim(sql.worker(lease=1_000_000), 1, options.get("queue_name", "default"))
    sql.rows(
        "select pgqueue.write_logs(jsonb_build_array(jsonb_build_object("
        "'task_id', %s::bigint, 'attempt', 1, 'level', 'info', 'message', 'm')))",
        lease.id,
    )
    return lease


def complete(sql: Sql, **options: Any) -> int:  # noqa: ANN401 - those of submit
    lease = start(sql, **options)
    sql.finish([lease])
    return lease.id


def fail(sql: Sql, **options: Any) -> int:  # noqa: ANN401 - those of submit
    lease = start(sql, **options)
    sql.finish([lease], {"outcome": "failed", "permanent": True})
    return lease.id


def begin(sql: Sql, *keep: str, every: str = "0") -> dict[str, Any] | None:
    rows = sql.rows("select * from pgqueue.begin_retention(%s, %s, %s, %s)", *(keep or KEEP), every)
    return rows[0] if rows else None


def expire(sql: Sql, *keep: str, limit: int = 1000) -> int:
    """One pass over the days, without dropping any; returns how many tasks went."""
    plan = begin(sql, *keep)
    assert plan is not None
    removed = 0
    skipped = 0
    for day in plan["days"]:
        after = -1
        while after is not None:
            row = sql.row(
                "select * from pgqueue.expire(%s, %s, %s, %s, %s, true, %s)", day, after, *(keep or KEEP), limit
            )
            removed, skipped, after = removed + row["removed"], skipped + row["skipped"], row["last_id"]
    if not skipped:
        sql.rows("select pgqueue.end_retention(%s)", plan["started_at"])
    return removed


def kept(sql: Sql) -> list[int]:
    return sql.column("select id from pgqueue.all_tasks order by id")


def names(sql: Sql, before: datetime | str) -> list[str]:
    """Which days of the years that these tests live in would go."""
    return sql.column(
        "select partition_name from pgqueue._partitions_before(%s) where partition_name ~ '_20[23]0....$'", before
    )


class TestExpire:
    def test_each_status_is_kept_for_its_own_time(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        done, failed, cancelled = complete(sql), fail(sql), sql.submit()
        sql.rows("select pgqueue.cancel_task(%s)", cancelled)
        keep = ("1 day", "3 days", "2 days")
        clock.advance(DAY - 1)
        assert expire(sql, *keep) == 0
        clock.advance(2)
        assert expire(sql, *keep) == 1
        assert kept(sql) == [failed, cancelled]
        clock.advance(DAY)
        assert expire(sql, *keep) == 1
        assert kept(sql) == [failed]
        assert sql.column("select task_id from pgqueue.executions") == [failed]
        assert sql.column("select task_id from pgqueue.task_logs") == [failed]
        assert done < failed

    def test_a_queue_has_its_own_times(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.rows("select pgqueue.create_queue('short', p_keep_completed => '1 hour')")
        sql.rows("select pgqueue.create_queue('long', p_keep_completed => '1000 years')")
        short, long, plain = (complete(sql, queue_name=name) for name in ("short", "long", "default"))
        failed = fail(sql, queue_name="short")
        clock.advance(3601)
        assert expire(sql) == 1
        assert kept(sql) == [long, plain, failed]
        clock.advance(31 * DAY)
        assert begin(sql)["drop_before"].year == 1030  # type: ignore[index]  # there is a plan
        assert expire(sql) == 2
        assert kept(sql) == [long]
        assert short < long

    def test_a_change_of_a_queue_is_heeded_though_a_pass_was_complete(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        complete(sql)
        clock.advance(9 * DAY)
        assert expire(sql) == 0
        sql.rows("select pgqueue.create_queue('default', p_keep_completed => '1 day')")
        assert begin(sql, every="10 minutes") is not None
        assert expire(sql) == 1

    def test_a_change_of_the_settings_is_too(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        complete(sql)
        clock.advance(9 * DAY)
        assert expire(sql) == 0
        assert expire(sql, "2 days", "2 days", "2 days") == 0, "the whole day is one to drop, not to delete"
        assert expire(sql, "2 days", "30 days", "2 days") == 1

    def test_only_days_in_which_something_fell_due_are_looked_at(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        keep = ("1 day", "30 days", "30 days")
        for _ in range(10):
            complete(sql)
            clock.advance(DAY)
            sql.rows("select pgqueue._make_partitions(1)")
        clock.advance(1)
        assert expire(sql, *keep) == 10
        plan = begin(sql, *keep)
        assert plan is not None
        assert [str(day) for day in plan["days"]] == ["2030-01-10"]

    def test_a_batch_is_as_large_as_it_is_told_and_goes_on_where_it_was(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        for _ in range(7):
            complete(sql)
        clock.advance(2 * DAY)
        row = sql.row("select * from pgqueue.expire('2030-01-01', 0, '1 day', '1 day', '1 day', true, 3)")
        assert (row["removed"], row["skipped"]) == (3, 0)
        assert expire(sql, "1 day", "9 days", "9 days", limit=2) == 4

    def test_what_is_being_retried_is_passed_over(self, sql: Sql, clock: Clock, connect: Callable[[], Sql]) -> None:
        clock.set("2030-01-01 12:00+00")
        retried, other = fail(sql), fail(sql)
        clock.advance(2 * DAY)
        holder = connect()
        holder.rows("begin")
        holder.rows("select pgqueue.retry_task(%s)", retried)
        assert expire(sql, "9 days", "1 day", "9 days") == 1
        assert sql.value("select completed_at from pgqueue.retention") is None
        holder.rows("rollback")
        assert kept(sql) == [retried]
        assert expire(sql, "9 days", "1 day", "9 days") == 1
        assert other > retried

    def test_a_live_task_keeps_its_attempts_and_logs(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        task_id = fail(sql)
        clock.advance(40 * DAY)
        sql.fold()
        sql.rows("select pgqueue.retry_task(%s)", task_id)
        assert sql.value("select pgqueue.cleanup('1 day')") == 0
        assert sql.outcomes(task_id) == ["failed"]
        assert names(sql, "2030-01-02 00:00+00") == ["finished_tasks_20300101"]

    def test_but_not_for_ever(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.rows("select pgqueue._make_partitions(0)")
        task_id = fail(sql)
        sql.rows("select pgqueue.retry_task(%s)", task_id)
        clock.advance(59 * DAY)
        sql.fold()
        assert names(sql, "2030-01-30 12:00+00") == ["finished_tasks_20300101"]
        clock.advance(3 * DAY)
        assert names(sql, "2030-02-02 12:00+00") == [
            "attempts_20300101",
            "task_logs_20300101",
            "finished_tasks_20300101",
        ]

    def test_one_session_at_a_time_and_not_too_often(self, sql: Sql, clock: Clock, connect: Callable[[], Sql]) -> None:
        clock.set("2030-01-01 12:00+00")
        first = connect()
        first.rows("begin")
        assert begin(first, every="10 minutes") is not None
        assert begin(sql, every="10 minutes") is None
        first.rows("commit")
        assert begin(sql, every="10 minutes") is None
        clock.advance(601)
        assert begin(sql, every="10 minutes") is not None


class TestDropping:
    def days(self, sql: Sql, clock: Clock, count: int = 3) -> None:
        clock.set("2020-01-01 12:00+00")
        for _ in range(count):
            sql.rows("select pgqueue._make_partitions(0)")
            complete(sql)
            clock.advance(DAY)
        sql.rows("select pgqueue._make_partitions(0)")
        complete(sql)
        sql.fold()

    def left(self, sql: Sql) -> list[str]:
        return sql.column(
            "select relname from pg_class where relname ~ '_20200101$' and relkind in ('r', 'p') order by 1"
        )

    def test_by_a_function_for_those_who_do_not_own_the_tables(self, sql: Sql, clock: Clock) -> None:
        self.days(sql, clock)
        sql.rows("set role pgqueue_admin")
        sql.refuses("42501", "drop table pgqueue.finished_tasks_20200101")
        assert sql.value("select pgqueue._drop_days('{finished_tasks_20200101}')") == 1
        assert sql.value("select pgqueue._drop_days('{attempts_20200101}')") == 0
        sql.rows("reset role")
        assert self.left(sql) == ["task_logs_20200101"]

    def test_several_go_at_once_or_none_does(self, sql: Sql, clock: Clock, connect: Callable[[], Sql]) -> None:
        self.days(sql, clock)
        days = ["finished_tasks_20200101", "finished_tasks_20200102"]
        reader = connect()
        for day in days:
            sql.rows(f"alter table pgqueue.finished_tasks detach partition pgqueue.{day} concurrently")
        reader.rows("begin")
        reader.rows(f"select from pgqueue.{days[1]}")
        sql.refuses("55P03", "select pgqueue._drop_days(%s)", days)
        assert sql.value("select count(*) from pgqueue.finished_tasks_20200101") == 1
        reader.rows("commit")
        assert sql.value("select pgqueue._drop_days(%s)", days) == 2

    def test_a_day_that_statistics_have_not_counted_stays(self, sql: Sql, clock: Clock) -> None:
        clock.set("2020-01-01 12:00+00")
        sql.rows("select pgqueue._make_partitions(0)")
        complete(sql)
        clock.advance(3 * DAY)
        day = "finished_tasks_20200101"
        assert day not in names(sql, "2020-01-04 00:00+00")
        assert sql.value("select pgqueue._drop_days(array[%s])", day) == 0
        sql.fold()
        assert day in names(sql, "2020-01-04 00:00+00")
        assert sql.value("select pgqueue._drop_days(array[%s])", day) == 1

    def test_the_function_drops_no_day_that_is_not_over_and_no_other_table(self, sql: Sql, clock: Clock) -> None:
        self.days(sql, clock)
        today = "finished_tasks_20200104"
        for name in (today, "tasks", "queues", "finished_tasks", "x; drop table pgqueue.tasks"):
            assert sql.value("select pgqueue._drop_days(array[%s])", name) == 0
        assert sql.value("select count(*) from pgqueue.finished_tasks") == 4
        assert sql.value("select to_regclass('pgqueue.' || %s) is not null", today) is True

    def test_the_function_gives_up_soon_and_leaves_the_day_whole(
        self, sql: Sql, clock: Clock, connect: Callable[[], Sql]
    ) -> None:
        self.days(sql, clock)
        reader = connect()
        reader.rows("begin")
        reader.rows("select count(*) from pgqueue.finished_tasks")
        sql.refuses("55P03", "select pgqueue._drop_days('{finished_tasks_20200101}')")
        reader.rows("commit")
        assert sql.value("select pgqueue._drop_days('{finished_tasks_20200101}')") == 1

    def test_a_day_that_is_on_its_way_out_comes_first_and_can_be_finalized_or_dropped(
        self, sql: Sql, clock: Clock, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        self.days(sql, clock)
        reader = connect()
        reader.rows("begin isolation level repeatable read")
        reader.rows("select count(*) from pgqueue.finished_tasks")
        detaching = connect()
        waiting = background(
            detaching,
            lambda s: s.rows(
                "alter table pgqueue.finished_tasks detach partition pgqueue.finished_tasks_20200102 concurrently"
            ),
        )
        assert waiting.waits_for()
        waiting.give_up()
        reader.rows("commit")
        first = sql.rows("select * from pgqueue._partitions_before('2020-01-04 00:00+00')")[0]
        assert (first["partition_name"], first["is_detaching"]) == ("finished_tasks_20200102", True)
        assert sql.value("select pgqueue._drop_days('{finished_tasks_20200102}')") == 1
        assert "finished_tasks_20200102" not in names(sql, "2020-01-04 00:00+00")

    def test_nothing_dead_is_left_behind(self, sql: Sql, clock: Clock) -> None:
        self.days(sql, clock)
        found = sql.rows("select * from pgqueue._partitions_before('2020-01-04 00:00+00')")
        for row in found:
            sql.rows(row["detach"])
        assert sql.value("select pgqueue._drop_days(%s)", [row["partition_name"] for row in found]) == 3
        assert sql.value("select count(*) from pgqueue.finished_tasks") == 1
        sql.rows("select pg_stat_clear_snapshot()")
        assert sql.value("select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables where relname ~ '_2020'") == 0

    def test_health_tells_how_many_days_are_overdue(self, sql: Sql, clock: Clock) -> None:
        self.days(sql, clock)
        begin(sql)
        assert sql.value("select overdue_days from pgqueue.health") == 0
        clock.advance(31 * DAY)
        assert sql.value("select overdue_days from pgqueue.health") == 3


@pytest.mark.parametrize("keep", ["-1 day", "1001 years"])
def test_a_time_of_nonsense_is_refused(sql: Sql, keep: str) -> None:
    error = sql.refuses("23514", "select pgqueue.create_queue('q', p_keep_failed => %s)", keep)
    assert error.diag.constraint_name == "queues_keep"
