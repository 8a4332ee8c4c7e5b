"""Figures are exact: whatever is finished, retried, removed and folded in whatever order, they equal a count.

The tests keep a record of their own of what ended; rollups, rows and departures must add up to it.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from pgqueue.schema import sql_root
from tests.sql.test_plans import Plans

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Sql

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
QUEUES = ("default", "mail")
TYPES = ("a", "b")
ENDED = """
select id, queue_name, task_type, status, finished_at, run_at, created_at, started_at
from pgqueue.finished_tasks where id = %s
"""
FOLD = "select isfinite(pgqueue._fold_statistics())"
OF_ALL = """
select * from pgqueue.task_rollups where step like 'all%%' and finished <> 0 order by step, bucket, status
"""
WINDOW = "select * from pgqueue.task_statistics(%s, %s)"
TOLERANCE = 1.1**0.5 - 1 + 1e-9


class End(NamedTuple):
    """How a task ended, as it was when it did."""

    id: int
    queue_name: str
    task_type: str
    status: str
    finished_at: datetime
    run_us: int | None
    wait_us: int | None


def end_of(sql: Sql, task_id: int) -> End:
    row = sql.row(ENDED, task_id)
    run = wait = None
    if row["started_at"] is not None:
        run = max((row["finished_at"] - row["started_at"]) // timedelta(microseconds=1), 0)
        wait = max((row["started_at"] - max(row["run_at"], row["created_at"])) // timedelta(microseconds=1), 0)
    return End(task_id, row["queue_name"], row["task_type"], row["status"], row["finished_at"], run, wait)


def fold(sql: Sql, times: int = 2) -> None:
    """As maintenance does: one call raises the floor, the next one folds up to it."""
    for _ in range(times):
        sql.rows(FOLD)


class History:
    """Does things to tasks, and remembers how each of them ended."""

    def __init__(self, sql: Sql, clock: Clock, seed: int) -> None:
        self.sql = sql
        self.clock = clock
        self.random = random.Random(seed)  # noqa: S311 - choices that can be repeated
        self.ends: dict[int, End] = {}
        self.removed: list[End] = []
        self.clock.set(str(NOON))
        self.worker = sql.worker(*QUEUES, lease=10**7)
        sql.rows("select pgqueue.create_queue('mail', p_max_crashes => 1)")

    def submit(self) -> int:
        return self.sql.submit(self.random.choice(TYPES), queue_name=self.random.choice(QUEUES), max_retries=0)

    def work(self) -> None:
        """Submit, claim and finish some in all the ways there are."""
        for _ in range(self.random.randint(1, 4)):
            self.submit()
        self.clock.advance(self.random.expovariate(1))
        leases = [lease for queue in QUEUES for lease in self.sql.claim(self.worker, queue=queue)]
        self.clock.advance(self.random.expovariate(1 / 5))
        outcomes = [None, None, {"outcome": "failed"}, {"outcome": "cancelled"}, {"outcome": "snoozed"}]
        self.sql.finish(leases, failures=[self.random.choice(outcomes) for _ in leases])
        self.note(lease.id for lease in leases)

    def note(self, ids: Any) -> None:  # noqa: ANN401 - any numbers
        for task_id in ids:
            if self.sql.rows(ENDED, task_id):
                self.ends[task_id] = end_of(self.sql, task_id)

    def cancel(self) -> None:
        task_id = self.submit()
        self.sql.rows("select pgqueue.cancel_task(%s)", task_id)
        self.note([task_id])

    def lose_a_worker(self) -> None:
        """A task of a queue that takes one crash for poison ends by rescue."""
        self.sql.submit(queue_name="mail", priority=99)
        silent = self.sql.worker("mail", lease=1)
        [lease] = self.sql.claim(silent, 1, "mail")
        self.clock.advance(2)
        self.sql.rows("select * from pgqueue.rescue()")
        self.note([lease.id])

    def retry(self) -> None:
        again = [end.id for end in self.ends.values() if end.status != "completed"]
        if again:
            task_id = self.random.choice(again)
            self.sql.rows("select pgqueue.retry_task(%s)", task_id)
            del self.ends[task_id]

    def clean(self) -> None:
        seconds = self.random.choice([30, 300, 3000])
        before = self.sql.now() - timedelta(seconds=seconds)
        gone = [end for end in self.ends.values() if end.finished_at < before]
        assert self.sql.value("select pgqueue.cleanup(make_interval(secs => %s))", seconds) == len(gone)
        for end in gone:
            self.removed.append(self.ends.pop(end.id))

    def fold(self) -> None:
        fold(self.sql, 1)

    def wait(self) -> None:
        self.clock.advance(self.random.choice([-40, -5, 1, 10, 70, 400, 5000, 90_000]))

    def step(self) -> None:
        self.random.choice(
            [self.work, self.work, self.work, self.cancel, self.lose_a_worker, self.retry, self.clean]
            + [self.fold] * 6
            + [self.wait] * 3
        )()

    def counted(self) -> list[End]:
        return [*self.ends.values(), *self.removed]

    def check_everything(self) -> None:
        """All that ever ended; queues; what is kept."""
        check_window(self.sql, self.counted(), None, None)
        for queue in QUEUES:
            stats = self.sql.row("select * from pgqueue.queue_stats(%s)", queue)
            expected = Counter(end.status for end in self.counted() if end.queue_name == queue)
            assert {name: stats[name] for name in ("completed", "failed", "cancelled")} == {
                name: expected[name] for name in ("completed", "failed", "cancelled")
            }
        for filters in ({"status": "failed"}, {"status": "completed", "queue_name": "mail"}, {"task_type": "a"}):
            answer = self.sql.call("count_tasks", **filters)[0]
            listed = self.sql.value(
                "select count(*) from pgqueue.all_tasks where " + " and ".join(f"{name} = %s" for name in filters),
                *filters.values(),
            )
            assert answer == {"total": listed, "is_capped": False}, filters

    def check_some_windows(self) -> None:
        """Windows of whole minutes: those are exact whatever was removed."""
        now = self.sql.now()
        for _ in range(3):
            start = NOON + (now - NOON) * self.random.random()
            end = start + (now - start) * self.random.random()
            start, end = (at.replace(second=0, microsecond=0) for at in (start, end))
            if start >= now - timedelta(days=8):
                check_window(self.sql, self.counted(), start, end)


def nearest(values: list[int], part: float) -> float:
    return sorted(values)[math.ceil(part * len(values)) - 1] / 1000


def check_window(sql: Sql, ends: list[End], start: datetime | None, end: datetime | None) -> None:
    """The figures of a window equal those of the ends in it."""
    within = [e for e in ends if (start is None or e.finished_at >= start) and (end is None or e.finished_at < end)]
    stats = sql.row(WINDOW, start or "-infinity", end or "infinity")
    counts = Counter(e.status for e in within)
    assert {name: stats[name] for name in ("completed", "failed", "cancelled")} == {
        name: counts[name] for name in ("completed", "failed", "cancelled")
    }, (start, end)
    assert stats["total"] == len(within) + stats["pending"] + stats["running"]
    runs = [e.run_us for e in within if e.run_us is not None]
    if runs:
        assert stats["avg_duration_ms"] == pytest.approx(sum(runs) / len(runs) / 1000, rel=1e-12)
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            assert stats[f"{name}_duration_ms"] == pytest.approx(nearest(runs, part), rel=TOLERANCE, abs=0.001)


class TestExactness:
    @pytest.mark.parametrize("seed", range(4))
    def test_whatever_happens_in_whatever_order(self, sql: Sql, clock: Clock, seed: int, *, long: bool) -> None:
        history = History(sql, clock, seed)
        for nr in range(600 if long else 120):
            history.step()
            if nr % 4 == 0:
                history.check_everything()
                history.check_some_windows()
        clock.advance(3600)
        sql.fold()
        history.check_everything()
        assert (
            sql.value("select count(*) from pgqueue.finished_tasks where finished_at >= pgqueue._folded_before()") == 0
        )
        assert sql.value("select count(*) from pgqueue.task_departures") == 0
        assert history.removed
        assert len(history.counted()) > 50

    @pytest.mark.parametrize("folds", [0, 2])
    def test_a_window_may_cut_minutes_whose_rows_are_kept(self, sql: Sql, clock: Clock, folds: int) -> None:
        history = History(sql, clock, 5)
        for _ in range(40):
            history.work()
        fold(sql, folds)
        assert sql.value("select isfinite(pgqueue._folded_before())") == bool(folds)
        ends = sorted(end.finished_at for end in history.counted())
        for start, end in zip(ends[::3], ends[5::3], strict=False):
            check_window(sql, history.counted(), start, end)
            check_window(sql, history.counted(), start + timedelta(microseconds=1), end + timedelta(microseconds=1))

    def test_a_minute_that_is_cut_counts_whole_where_its_rows_were_removed(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00:10+00")
        finish_one(sql)
        clock.advance(40)
        finish_one(sql)
        clock.advance(100)
        sql.fold()
        cut = ("2030-01-01 12:00:30+00", "2030-01-01 12:00:55+00")
        assert sql.row(WINDOW, *cut)["completed"] == 1
        sql.rows("select pgqueue.cleanup('0')")
        assert sql.row(WINDOW, *cut)["completed"] == 2
        assert sql.row(WINDOW, "2030-01-01 11:59+00", "2030-01-01 12:00+00")["completed"] == 0
        assert sql.row(WINDOW, "2030-01-01 12:01+00", "2030-01-01 12:02+00")["completed"] == 0

    def test_what_retention_took_still_counts(self, sql: Sql, clock: Clock) -> None:
        finish_one(sql)
        clock.advance(100)
        fold(sql)
        finish_one(sql)
        clock.advance(100)
        assert sql.value("select pgqueue.cleanup('0')") == 2
        for _ in range(3):
            assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 2
            assert sql.call("count_tasks") == [{"total": 0, "is_capped": False}]
            fold(sql, 1)

    def test_days_that_were_dropped_count_but_are_not_listed(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        finish_one(sql)
        clock.set("2030-01-03 12:00+00")
        finish_one(sql)
        sql.fold()
        sql.rows("drop table pgqueue.finished_tasks_20300101")
        assert sql.call("count_tasks") == [{"total": 1, "is_capped": False}]
        assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 2
        assert sql.row(WINDOW, "2030-01-01 00:00+00", "2030-01-02 00:00+00")["completed"] == 1

    def test_minutes_are_thinned_after_eight_days_and_hours_after_four_hundred(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:10+00")
        finish_one(sql)
        clock.set("2030-01-20 12:00+00")
        finish_one(sql)
        clock.advance(1)
        sql.fold()
        assert kept_steps(sql) == {"minute": 1, "hour": 2, "day": 2, "total": 1} | {
            "all_minute": 1,
            "all_hour": 2,
            "all_day": 2,
        }
        assert sql.row(WINDOW, "2030-01-01 12:05+00", "2030-01-01 12:15+00")["completed"] == 1
        assert sql.row(WINDOW, "2030-01-01 12:15+00", "2030-01-01 12:25+00")["completed"] == 0
        sql.rows("drop table pgqueue.finished_tasks_20300101")
        assert sql.row(WINDOW, "2030-01-01 12:15+00", "2030-01-01 12:25+00")["completed"] == 1
        assert sql.row(WINDOW, "2030-01-01 13:00+00", "2030-01-02 00:00+00")["completed"] == 0
        clock.set("2031-03-20 12:00+00")
        sql.fold()
        assert kept_steps(sql) == {"day": 2, "all_day": 2, "total": 1}

    def test_a_retry_of_long_ago_is_taken_out_of_the_days(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:10+00")
        task_id = finish_one(sql, {"outcome": "failed", "permanent": True})
        clock.set("2030-02-20 12:00+00")
        sql.fold()
        sql.rows("select pgqueue.retry_task(%s)", task_id)
        for _ in range(3):
            assert sql.row(WINDOW, "-infinity", "infinity")["failed"] == 0
            assert sql.row("select * from pgqueue.queue_stats('default')")["failed"] == 0
            clock.advance(10)
            fold(sql, 1)
        assert sql.value("select count(*) from pgqueue.task_departures") == 0


def test_an_upgrade_sums_up_what_is_kept_as_folding_does(sql: Sql, clock: Clock) -> None:
    history = History(sql, clock, 9)
    for nr in range(60):
        history.work()
        clock.advance(300 if nr % 20 else 40_000)
    sql.fold()
    folded = sql.rows(OF_ALL)
    assert {row["step"] for row in folded} == {"all_minute", "all_hour", "all_day"}
    sql.rows("delete from pgqueue.task_rollups where step like 'all%%'")
    upgrade = (sql_root() / "structure" / "0013_rollups_of_all.sql").read_text()
    sql.rows(upgrade[upgrade.index("with summed") :])
    assert sql.rows(OF_ALL) == folded


def kept_steps(sql: Sql) -> dict[str, int]:
    rows = sql.rows("select step, count(*) as n from pgqueue.task_rollups where finished > 0 group by step")
    return {row["step"]: row["n"] for row in rows}


def finish_one(sql: Sql, failure: dict[str, object] | None = None) -> int:
    task_id = sql.submit(priority=50)
    sql.finish(sql.claim(sql.worker(lease=10**7), 1), failure)
    return task_id


class TestLateCommits:
    """A task that ended in a minute may become visible long after that minute."""

    def late(self, sql: Sql, connect: Callable[[], Sql], clock: Clock) -> int:
        """Finish in a transaction that stays open over two minutes of folds; return what is counted at the end."""
        sql.fold()
        sql.submit()
        leases = sql.claim(sql.worker())
        slow = connect()
        slow.rows("begin")
        assert slow.finish(leases) == []
        for _ in range(3):
            clock.advance(60)
            fold(sql)
        slow.rows("commit")
        seen = []
        for _ in range(4):
            seen.append(sql.row("select * from pgqueue.queue_stats('default')")["completed"])
            seen.append(sql.row(WINDOW, "-infinity", "infinity")["completed"])
            clock.advance(60)
            fold(sql)
        [counted] = set(seen)
        return int(counted)

    def test_it_is_neither_lost_nor_counted_twice(self, sql: Sql, connect: Callable[[], Sql], clock: Clock) -> None:
        assert self.late(sql, connect, clock) == 1

    def test_without_the_fence_it_would_be_lost(self, sql: Sql, connect: Callable[[], Sql], clock: Clock) -> None:
        change(
            sql,
            "_fold_statistics()",
            "pgqueue._is_past(v_state.fence, 'pgqueue.finished_tasks')",
            "v_state.fence is not null",
        )
        assert self.late(sql, connect, clock) == 0

    def mark_moves(self, sql: Sql, clock: Clock) -> bool:
        """Whether two folds get past what happened before them."""
        before = sql.now()
        for _ in range(2):
            clock.advance(60)
            fold(sql)
        return bool(sql.value("select pgqueue._folded_before() > %s", before))

    def test_it_is_waited_for_from_when_it_knows_its_time(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        sql.fold()
        slow = connect()
        slow.rows("begin")
        slow.value("select pgqueue._finish_time()")
        assert not self.mark_moves(sql, clock)
        slow.rows("rollback")
        assert self.mark_moves(sql, clock)

    def test_without_its_lock_it_would_not(self, sql: Sql, connect: Callable[[], Sql], clock: Clock) -> None:
        change(sql, "_finish_time()", "lock table only pgqueue.finished_tasks in row exclusive mode;", "")
        sql.fold()
        slow = connect()
        slow.rows("begin")
        slow.value("select pgqueue._finish_time()")
        assert self.mark_moves(sql, clock)

    @pytest.mark.parametrize(
        "work",
        [
            "select pg_current_xact_id()",
            "select count(*), pg_current_xact_id() from pgqueue.all_tasks",
            "insert into pgqueue.tasks (task_type) values ('a')",
        ],
    )
    def test_an_open_transaction_that_ended_no_task_does_not_hold_it_up(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock, work: str
    ) -> None:
        sql.fold()
        worker = sql.worker(lease=10**7)
        slow = connect()
        slow.rows("begin isolation level repeatable read")
        slow.rows(work)
        assert self.mark_moves(sql, clock)
        slow.submit()
        slow.finish(slow.claim(worker, 1))
        slow.rows("commit")
        sql.fold()
        assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 1
        assert sql.row(WINDOW, "-infinity", "infinity")["completed"] == 1

    def test_a_clock_that_is_set_back_loses_nothing(self, sql: Sql, clock: Clock) -> None:
        sql.fold()
        mark = sql.value("select pgqueue._folded_before()")
        clock.advance(-600)
        task_id = finish_one(sql)
        cancelled = sql.submit()
        sql.rows("select pgqueue.cancel_task(%s)", cancelled)
        assert sql.task(task_id)["finished_at"] >= mark
        stats = sql.row(WINDOW, "-infinity", "infinity")
        assert (stats["completed"], stats["cancelled"]) == (1, 1)
        clock.advance(700)
        sql.fold()
        stats = sql.row(WINDOW, "-infinity", "infinity")
        assert (stats["completed"], stats["cancelled"]) == (1, 1)

    def test_without_the_floor_it_would(self, sql: Sql, clock: Clock) -> None:
        change(sql, "_finish_time()", "pgqueue._finish_floor()", "'-infinity'")
        sql.fold()
        clock.advance(-600)
        finish_one(sql)
        assert sql.row(WINDOW, "-infinity", "infinity")["completed"] == 0

    def test_a_clock_that_was_years_ahead_is_forgotten(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        finish_one(sql)
        sql.fold()
        clock.set("2039-01-01 12:00+00")
        finish_one(sql)
        sql.fold()
        clock.set("2030-01-01 13:00+00")
        finish_one(sql)
        for _ in range(4):
            fold(sql, 1)
            assert sql.row(WINDOW, "2030-01-01 00:00+00", "2030-01-02 00:00+00")["completed"] == 2
            assert sql.row(WINDOW, "-infinity", "infinity")["completed"] == 3
            assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 3
            clock.advance(60)
        assert sql.value("select pgqueue._folded_before() < '2030-01-02'") is True

    def test_a_fence_of_another_server_is_taken_anew(self, sql: Sql, clock: Clock) -> None:
        fold(sql, 1)
        sql.rows("update pgqueue.statistics_state set fence = '99999999999'")
        clock.advance(60)
        sql.fold()

    def test_readers_do_not_hold_it_up_and_writers_show_in_health(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        reader, writer = connect(), connect()
        reader.rows("begin isolation level repeatable read")
        reader.rows("select count(*) from pgqueue.all_tasks")
        sql.fold()
        clock.advance(60)
        sql.fold()
        assert sql.value("select statistics_lag from pgqueue.health") == timedelta(0)
        sql.submit(priority=99)
        lease = sql.claim(sql.worker(lease=10**7))
        writer.rows("begin")
        writer.finish(lease)
        clock.advance(60)
        fold(sql)
        finish_one(sql)
        clock.advance(60)
        fold(sql)
        assert sql.value("select statistics_lag from pgqueue.health") >= timedelta(seconds=60)
        assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 1
        writer.rows("commit")
        sql.fold()
        assert sql.value("select statistics_lag from pgqueue.health") == timedelta(0)
        assert sql.row("select * from pgqueue.queue_stats('default')")["completed"] == 2

    def test_in_a_transaction_that_has_written_nothing_is_fenced(self, sql: Sql) -> None:
        sql.rows("begin")
        sql.submit()
        fold(sql)
        sql.rows("commit")
        assert sql.row("select fence, folding_before from pgqueue.statistics_state") == {
            "fence": None,
            "folding_before": None,
        }


def change(sql: Sql, function: str, old: str, new: str) -> None:
    """Replace a piece of a function's source."""
    source = sql.value(f"select pg_get_functiondef('pgqueue.{function}'::regprocedure)")
    assert source.count(old) >= 1
    sql.rows(source.replace(old, new).replace("%", "%%"))


class TestFoldsAndDepartures:
    """A row leaves while it is folded: whoever commits first, it is counted right."""

    @pytest.mark.parametrize("kind", ["retry", "cleanup"])
    @pytest.mark.parametrize("first", ["fold", "departure"])
    def test_both_orders(self, sql: Sql, connect: Callable[[], Sql], clock: Clock, kind: str, first: str) -> None:
        failed = finish_one(sql, {"outcome": "failed", "permanent": True})
        clock.advance(100)
        fold(sql, 1)
        statement = {"retry": f"select pgqueue.retry_task({failed})", "cleanup": "select pgqueue.cleanup('0')"}[kind]
        other = connect()
        begins, ends = (FOLD, statement) if first == "fold" else (statement, FOLD)
        other.rows("begin")
        other.rows(begins)
        sql.rows(ends)
        expected = 0 if kind == "retry" else 1
        assert self.counted(sql) == (1 if (first, kind) == ("departure", "retry") else expected)
        other.rows("commit")
        for _ in range(3):
            assert self.counted(sql) == expected
            clock.advance(100)
            fold(sql)
        assert sql.value("select count(*) from pgqueue.task_departures") == 0

    def counted(self, sql: Sql) -> int:
        failed = sql.row(WINDOW, "-infinity", "infinity")["failed"]
        assert sql.row("select * from pgqueue.queue_stats('default')")["failed"] == failed
        return int(failed)

    def test_one_at_a_time(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        other = connect()
        other.rows("begin")
        other.rows(FOLD)
        assert sql.value(FOLD) is None
        other.rows("rollback")
        assert sql.value(FOLD) is not None

    def test_maintenance_folds(self, sql: Sql, clock: Clock) -> None:
        finish_one(sql)
        clock.advance(60)
        sql.rows("select pgqueue.maintain()")
        sql.rows("select pgqueue.maintain()")
        assert sql.value("select sum(finished) from pgqueue.task_rollups where step = 'total'") == 1
        assert sql.value("select pgqueue._now() - folded_before from pgqueue.statistics_state") == timedelta(0)

    def test_a_vacuum_at_work_does_not_hold_maintenance_up(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        sql.rows("select pgqueue.maintain()")
        day = sql.value("select pgqueue._partition_name('finished_tasks', (pgqueue._now() at time zone 'UTC')::date)")
        other = connect()
        other.rows("begin")
        other.rows(f"lock table pgqueue.{day} in share update exclusive mode")
        assert sql.value("select pgqueue.maintain()") is True


class TestSeries:
    SERIES = "select * from pgqueue.task_series(%s, %s, %s)"

    @pytest.mark.parametrize("step", ["minute", "hour", "day"])
    @pytest.mark.parametrize("folds", [0, 2])
    def test_it_equals_a_count_by_step_queue_and_type(self, sql: Sql, clock: Clock, step: str, folds: int) -> None:
        history = History(sql, clock, 7)
        for nr in range(60):
            history.work()
            clock.advance(300 if nr % 20 else 40_000)
        if folds:
            sql.fold()
            history.work()
        ends = history.counted()
        start, end = NOON + timedelta(minutes=7, seconds=3), sql.now()
        rows = sql.rows(
            "select * from pgqueue.task_series(%s, %s, %s, p_by => '{queue_name,task_type}')", start, end, step
        )
        found = {
            (row["bucket"], row["queue_name"], row["task_type"], name): row[name]
            for row in rows
            for name in ("completed", "failed", "cancelled")
            if row[name]
        }
        zero: dict[str, dict[str, Any]] = {
            "minute": {"second": 0},
            "hour": {"minute": 0, "second": 0},
            "day": {"hour": 0, "minute": 0, "second": 0},
        }
        expected = Counter(
            (e.finished_at.replace(microsecond=0, **zero[step]), e.queue_name, e.task_type, e.status)
            for e in ends
            if start <= e.finished_at < end
        )
        assert found == dict(expected)
        together = {
            (row["bucket"], name): row[name]
            for row in sql.rows(self.SERIES, start, end, step)
            for name in ("completed", "failed", "cancelled")
            if row[name]
        }
        summed: Counter[tuple[datetime, str]] = Counter()
        for (bucket, _, _, status), count in expected.items():
            summed[bucket, status] += count
        assert together == dict(summed)

    def test_gaps_are_zeros_and_times_are_told(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.submit()
        clock.advance(3)
        lease = sql.claim(sql.worker())
        clock.advance(120)
        sql.finish(lease, elapsed_us=[2_000_000])
        rows = sql.rows(self.SERIES, "2030-01-01 12:00:30+00", "2030-01-01 12:04+00", "minute")
        assert [row["total"] for row in rows] == [0, 0, 1, 0]
        assert [row["bucket"].minute for row in rows] == [0, 1, 2, 3]
        assert rows[0]["p50_duration_ms"] == rows[0]["p50_wait_ms"] == 0
        assert rows[2]["avg_duration_ms"] == 2000
        assert rows[2]["p99_duration_ms"] == pytest.approx(2000, rel=0.05)
        assert rows[2]["avg_wait_ms"] == 121_000
        assert rows[2]["p50_wait_ms"] == pytest.approx(121_000, rel=0.05)
        assert (rows[2]["queue_name"], rows[2]["task_type"]) == (None, None)

    def test_it_takes_one_queue_or_type(self, sql: Sql, clock: Clock) -> None:
        history = History(sql, clock, 8)
        for _ in range(10):
            history.work()
        window = (NOON, sql.now() + timedelta(seconds=1), "day")
        for name in ("queue_name", "task_type"):
            value = {"queue_name": "mail", "task_type": "a"}[name]
            rows = sql.rows(f"select * from pgqueue.task_series(%s, %s, %s, p_{name} => %s)", *window, value)
            assert sum(row["total"] for row in rows) == sum(getattr(end, name) == value for end in history.counted())

    @pytest.mark.parametrize(
        "arguments",
        [
            ("2030-01-01", "2030-01-02", "week"),
            ("2030-01-01", "2030-01-02", None),
            ("2030-01-02", "2030-01-01", "day"),
            ("2030-01-01", "2030-01-09", "minute"),
            ("-infinity", "infinity", "day"),
            (None, "2030-01-01", "day"),
        ],
    )
    def test_nonsense_is_refused(self, sql: Sql, arguments: tuple[str | None, ...]) -> None:
        sql.refuses("QU001", self.SERIES, *arguments)

    def test_a_series_cannot_be_split_by_anything(self, sql: Sql) -> None:
        sql.refuses("QU001", "select * from pgqueue.task_series(now(), now(), 'day', p_by => '{status}')")

    def test_what_is_thinned_is_refused(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-20 12:00+00")
        sql.fold()
        clock.advance(60)
        sql.fold()
        error = sql.refuses("QU001", self.SERIES, "2030-01-01", "2030-01-02", "minute")
        assert "longer step" in str(error.diag.message_hint)
        assert len(sql.rows(self.SERIES, "2030-01-01", "2030-01-02", "hour")) >= 24


class TestLists:
    def fill(self, sql: Sql, count: int) -> None:
        """Finished tasks of one type, one of another at the very beginning."""
        sql.rows(
            "insert into pgqueue.finished_tasks (id, task_type, queue_name, priority, payload, status, max_retries,"
            " run_at, attempt, failures, crashes, created_at, started_at, finished_at)"
            " select n, case n when 5 then 'rare' else 'usual' end, 'default', 5, '{}', 'completed', 3,"
            " at, 1, 0, 0, at, at, at"
            " from generate_series(1, %s) n,"
            " lateral (select clock_timestamp() - interval '1 second' + n * interval '1 microsecond' as at) s",
            count,
        )
        sql.rows("select setval('pgqueue.tasks_id_seq', %s)", count)

    def test_a_search_ends_and_says_where(self, sql: Sql) -> None:
        self.fill(sql, 25_000)
        before: int | None = None
        found: list[int] = []
        searches = 0
        while searches == 0 or before is not None:
            found += [row["id"] for row in sql.call("list_tasks", task_type="rare", before_id=before)]
            before = sql.value("select pgqueue.list_cursor(p_task_type => 'rare', p_before_id => %s)", before)
            searches += 1
        assert (found, searches) == ([5], 9)

    def test_a_search_over_live_and_finished_loses_nothing(self, sql: Sql) -> None:
        self.fill(sql, 15_000)
        sql.rows(
            "insert into pgqueue.tasks (task_type) select case when n % 3000 = 0 then 'rare' else 'usual' end"
            " from generate_series(1, 12000) n"
        )
        expected = sql.column("select id from pgqueue.all_tasks where task_type = 'rare' order by id desc")
        assert len(expected) == 5
        before: int | None = None
        found: list[int] = []
        while True:
            page = [row["id"] for row in sql.call("list_tasks", task_type="rare", limit=2, before_id=before)]
            found += page
            cursor = sql.value("select pgqueue.list_cursor(p_task_type => 'rare', p_before_id => %s)", before)
            before = page[-1] if len(page) == 2 else cursor
            if before is None:
                break
        assert found == expected

    def test_a_search_over_several_queues_loses_nothing(self, sql: Sql) -> None:
        """One is searched to its end at once, another stops early: what lies below is not told before it is sure."""
        for name in ("sparse", "theirs"):
            sql.rows("select pgqueue.create_queue(%s)", name)
        sql.rows(
            "insert into pgqueue.tasks (task_type, queue_name)"
            " select case when n % 4500 = 0 or n % 100 = 1 then 'rare' else 'usual' end,"
            " case when n % 100 = 1 then 'sparse' when n % 100 = 2 then 'theirs' else 'default' end"
            " from generate_series(1, 12000) n"
        )
        wanted = "from pgqueue.tasks where task_type = 'rare' and queue_name in ('default', 'sparse')"
        expected = sql.column(f"select id {wanted} order by id desc")
        assert len(expected) == 122
        queues, before = ["default", "sparse", "sparse"], None
        found: list[int] = []
        while True:
            page = sql.call("list_tasks_in", queue_names=queues, task_type="rare", limit=50, before_id=before)
            found += [row["id"] for row in page]
            cursor = sql.call("list_cursor_in", queue_names=queues, task_type="rare", before_id=before)
            before = page[-1]["id"] if len(page) == 50 else cursor[0]["list_cursor_in"]
            if before is None:
                break
        assert found == expected

    def test_a_short_queue_is_found_behind_a_long_one(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('short')")
        first = sql.submit(queue_name="short")
        sql.rows("insert into pgqueue.tasks (task_type) select 'a' from generate_series(1, 11000)")
        assert [row["id"] for row in sql.call("list_tasks", queue_name="short")] == [first]
        assert sql.call("count_tasks", queue_name="short") == [{"total": 1, "is_capped": False}]
        assert sql.call("count_tasks", queue_name="default") == [{"total": 10_000, "is_capped": True}]
        sql.rows("select pgqueue.maintain()")
        assert sql.call("count_tasks", queue_name="default") == [{"total": 11_000, "is_capped": True}]
        stats = sql.row("select * from pgqueue.queue_stats('default')")
        assert (stats["pending"], stats["counted_at"] is not None) == (11_000, True)

    def test_due_and_scheduled_are_counted_apart(self, sql: Sql) -> None:
        sql.rows(
            "insert into pgqueue.tasks (task_type, priority, run_at)"
            " select 'a', n % 3, clock_timestamp() + case when n % 2 = 0 then interval '1 day' else '0' end"
            " from generate_series(1, 20500) n"
        )
        sql.rows("select pgqueue.maintain()")
        stats = sql.row("select * from pgqueue.queue_stats('default')")
        assert (stats["pending"], stats["scheduled"], stats["queue_size"]) == (10_250, 10_250, 20_500)
        shown = sql.row("select * from pgqueue.queue_overview")
        assert (shown["pending"], shown["scheduled"], shown["blocked"], shown["waiting"]) == (10_250, 10_250, 0, 20_500)
        assert shown["counted_at"] == stats["counted_at"] is not None

    def test_windows_of_creation_start_where_they_begin(self, sql: Sql, clock: Clock) -> None:
        self.fill(sql, 12_000)
        clock.set("2031-01-01 00:00+00")
        sql.rows(
            "insert into pgqueue.tasks (task_type, created_at) select 'a', '2031-01-01 00:00+00'::timestamptz"
            " + n * interval '1 minute' from generate_series(1, 30000) n"
        )
        window = {"created_from": "2031-01-03 00:00+00", "created_to": "2031-01-03 00:20+00"}
        rows = sql.call("list_tasks", limit=30, **window)
        assert len(rows) == 20
        assert sql.call("count_tasks", **window) == [{"total": 20, "is_capped": False}]

    @pytest.mark.parametrize(
        "query",
        [
            "select * from pgqueue.list_tasks(p_limit => null)",
            "select * from pgqueue.list_tasks(p_offset => null)",
            "select * from pgqueue.list_tasks(p_offset => 9999)",
            "select * from pgqueue.get_logs(1, 0, -1)",
            "select * from pgqueue.get_logs(1, 0, null)",
            "select * from pgqueue.get_retryable_tasks(-1)",
            "select * from pgqueue.get_retryable_tasks(null)",
            "select * from pgqueue.count_tasks(p_most => 0)",
        ],
    )
    def test_limits_that_make_no_sense_are_refused(self, sql: Sql, query: str) -> None:
        sql.refuses("QU001", query)

    def test_the_last_row_that_pages_reach(self, sql: Sql) -> None:
        assert sql.call("list_tasks", limit=1, offset=9999) == []


READS = (
    "select * from pgqueue.task_statistics(now() - interval '3 days', now())",
    "select * from pgqueue.task_series(now() - interval '3 days', now(), 'hour', p_by => '{queue_name}')",
    "select * from pgqueue.queue_stats('default')",
    "select * from pgqueue.queue_overview",
    "select * from pgqueue.list_tasks()",
    "select * from pgqueue.list_tasks(p_queue_name => 'nope')",
    "select * from pgqueue.list_tasks(p_status => 'completed')",
    "select * from pgqueue.list_tasks(p_status => 'failed')",
    "select * from pgqueue.list_tasks(p_status => 'running')",
    "select * from pgqueue.list_tasks(p_user_id => 'nobody')",
    "select * from pgqueue.list_tasks(p_project_id => 'none')",
    "select * from pgqueue.list_tasks(p_parent_id => 1)",
    "select * from pgqueue.list_tasks(p_task_type => 'none')",
    "select * from pgqueue.list_tasks(p_created_from => now() - interval '1 hour', p_created_to => now())",
    "select * from pgqueue.list_tasks(p_before_id => 1000)",
    "select pgqueue.list_cursor(p_task_type => 'none')",
    "select * from pgqueue.count_tasks()",
    "select * from pgqueue.count_tasks(p_status => 'completed')",
    "select * from pgqueue.count_tasks(p_task_type => 'a')",
    "select * from pgqueue.count_tasks(p_user_id => 'nobody')",
    "select * from pgqueue.count_tasks(p_parent_id => 1)",
    "select * from pgqueue.get_retryable_tasks()",
    "select pgqueue._fold_statistics()",
)


@pytest.mark.parametrize("query", READS)
def test_no_read_goes_through_all_of_history(sql: Sql, query: str) -> None:
    sql.rows(
        "insert into pgqueue.finished_tasks (id, task_type, queue_name, priority, payload, status, max_retries,"
        " run_at, attempt, failures, crashes, created_at, started_at, finished_at)"
        " select n, 'a', 'default', 5, '{}', 'completed', 3, now(), 1, 0, 0, now(), now(), now() - interval '1 minute'"
        " from generate_series(1, 5000) n where (now() at time zone 'UTC')::time > '00:01'"
    )
    sql.rows("insert into pgqueue.tasks (task_type) select 'a' from generate_series(1, 3000)")
    sql.rows("analyze pgqueue.finished_tasks")
    sql.rows("analyze pgqueue.tasks")
    fold(sql, 3)
    plans = Plans(sql)
    for _ in range(7):
        sql.rows(query)
    big = {name for name in plans.sequential() if name.startswith(("finished_tasks", "tasks", "task_rollups"))}
    assert big == set(), query


PACES = {
    "even": "n * interval '1 second'",
    "all at once": "interval '1 second'",
    "a rush after a pause": "n * interval '1 second' + (n > 4000)::int * interval '300 days'",
    "ever faster": "interval '1 day' * ln(n)",
    "ever slower": "interval '1 ms' * n * n",
}
SOME_ENDLESS = """
update pgqueue.tasks t set created_at = case when t.id = m.first then '-infinity' else 'infinity' end::timestamptz
from (select min(id) as first, max(id) as last from pgqueue.tasks) m
where t.id in (m.first, m.last)
"""
CREATED = "select id from pgqueue.tasks where created_at >= %s and created_at < %s order by id desc limit 100"
LISTED = "select id from pgqueue.list_tasks(p_created_from => %s, p_created_to => %s, p_limit => 100)"


@pytest.mark.parametrize("pace", PACES)
def test_a_window_of_creation_holds_what_was_created_in_it(sql: Sql, pace: str) -> None:
    """However unevenly ids came, and also where the first and the last moment are infinite."""
    sql.rows(
        "insert into pgqueue.tasks (task_type, created_at)"
        f" select 'a', timestamptz '2030-01-01 00:00+00' + {PACES[pace]} from generate_series(1, 5000) n"
    )
    moments = sql.column("select created_at from pgqueue.tasks order by id")
    chosen = random.Random(pace)  # noqa: S311 - repeatable
    for nr in range(40):
        if nr == 20:
            sql.rows(SOME_ENDLESS)
        window = sorted(chosen.choices(moments, k=2))
        assert sql.column(LISTED, *window) == sql.column(CREATED, *window)
    assert len(sql.column(LISTED, "-infinity", "infinity")) == 100
