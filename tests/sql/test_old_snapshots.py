"""Under an old snapshot the entries of all that is gone stay, and nobody may have to walk past them again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.sql.test_plans import buffers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Sql

AN_HOUR_AGO = (
    "insert into pgqueue.tasks (task_type, run_at) values ('a', pgqueue._now() - interval '1 hour') returning id"
)


def sweep(sql: Sql, dear: str = "0") -> None:
    """Look where the lanes begin; by default every way there is a long one."""
    sql.rows("select pgqueue._sweep_lanes(%s)", dear)


def floor(sql: Sql) -> float | None:
    """How many seconds ago the tasks of the only lane begin."""
    ages = sql.column("select extract(epoch from pgqueue._now() - due_from)::float8 from pgqueue.lane_floors")
    return max(ages, default=None)


@pytest.mark.usefixtures("clock")
class TestNotes:
    def test_none_where_the_way_is_short(self, sql: Sql) -> None:
        sql.submit()
        sweep(sql, "1 hour")
        assert floor(sql) is None

    def test_the_first_task_that_waits(self, sql: Sql) -> None:
        sql.value(AN_HOUR_AGO)
        sql.submit()
        sweep(sql)
        assert floor(sql) == 3600

    def test_room_for_submits_that_are_open_where_nothing_waits(self, sql: Sql) -> None:
        sql.submit(run_at="2099-01-01 00:00+00")
        sweep(sql)
        assert floor(sql) == 5

    def test_what_runs_does_not_wait(self, sql: Sql) -> None:
        sql.value(AN_HOUR_AGO)
        sql.claim(sql.worker())
        sweep(sql)
        assert floor(sql) == 5

    def test_it_goes_on_from_there_and_starts_anew_after_half_a_minute(self, sql: Sql, clock: Clock) -> None:
        sql.submit(run_at="2099-01-01 00:00+00")
        swept = []
        for _ in range(6):
            sweep(sql)
            assert floor(sql) == 5
            swept.append(
                sql.value("select extract(epoch from pgqueue._now() - swept_at)::float8 from pgqueue.lane_floors")
            )
            clock.advance(10)
        assert swept == [0, 10, 20, 30, 0, 10]

    def test_it_goes_once_the_way_is_short_again(self, sql: Sql, clock: Clock) -> None:
        sql.submit()
        sweep(sql)
        clock.advance(31)
        sweep(sql, "1 hour")
        assert floor(sql) is None

    def test_it_goes_with_its_queue(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('other')")
        sql.rows("select pgqueue.cancel_task(%s)", sql.submit(queue_name="other"))
        sweep(sql)
        assert floor(sql) == 5
        sql.rows("select pgqueue.delete_queue('other')")
        assert floor(sql) is None

    def test_maintenance_takes_them(self, sql: Sql, clock: Clock, connect: Callable[[], Sql]) -> None:
        reader = connect()
        reader.rows("begin isolation level repeatable read")
        reader.rows("select count(*) from pgqueue.tasks")
        sql.rows("insert into pgqueue.tasks (task_type) select 'a' from generate_series(1, 100000)")
        sql.rows("delete from pgqueue.tasks")
        clock.advance(60)
        sql.rows("select pgqueue.maintain()")
        assert floor(sql) == 5
        dear = buffers(sql, "select count(*) from pgqueue.tasks t where t.queue_name = 'default' and t.waits_for = 0")
        worker = sql.worker()
        for query in (
            "select * from pgqueue.queue_stats('default')",
            "select pgqueue._count_waiting('default')",
            "select pgqueue.maintain()",
            f"select * from pgqueue.claim({worker}, 'default', 5, 1)",
        ):
            sql.rows(query)  # which makes its plans
            assert buffers(sql, query) < dear / 10
        reader.rows("commit")


class TestBelieved:
    """A task that comes in below: a submit that was open for long, or one that says so."""

    def late(self, sql: Sql) -> int:
        sql.submit(run_at="2099-01-01 00:00+00")
        sweep(sql)
        late: int = sql.value(AN_HOUR_AGO)
        return late

    def found(self, sql: Sql) -> list[int]:
        return [lease.id for lease in sql.claim(sql.worker(lease=3600), behind=None)]

    def test_neither_claimed_nor_counted_at_once(self, sql: Sql, clock: Clock) -> None:
        self.late(sql)
        assert self.found(sql) == []
        clock.advance(3)
        stats = sql.rows("select pending, pgqueue._now() - counted_at as age from pgqueue.queue_stats('default')")
        assert [(row["pending"], row["age"].total_seconds()) for row in stats] == [(0, 3)]
        assert sql.value("select pgqueue._count_waiting('default')") == 1

    def test_found_when_maintenance_starts_anew(self, sql: Sql, clock: Clock) -> None:
        late = self.late(sql)
        clock.advance(29)
        sweep(sql)
        assert self.found(sql) == []
        clock.advance(2)
        sweep(sql)
        assert sql.value("select pending from pgqueue.queue_stats('default')") == 1
        assert self.found(sql) == [late]

    @pytest.mark.parametrize("seconds", [121, -1])
    def test_found_without_maintenance_once_the_note_is_old_or_of_another_time(
        self, sql: Sql, clock: Clock, seconds: int
    ) -> None:
        late = self.late(sql)
        clock.advance(seconds)
        stats = sql.rows("select pending, counted_at from pgqueue.queue_stats('default')")
        assert stats == [{"pending": 1, "counted_at": None}]
        assert self.found(sql) == [late]

    def test_a_clock_that_was_set_back_starts_anew(self, sql: Sql, clock: Clock) -> None:
        self.late(sql)
        clock.advance(-60)
        sweep(sql)
        assert floor(sql) == 3540

    @pytest.mark.usefixtures("clock")
    def test_a_cursor_of_a_row_below_does_not_hide_the_first_row(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.value(AN_HOUR_AGO)
        first = sql.submit()
        [row] = sql.claim_rows(worker, 1)
        sweep(sql)
        cursor: dict[str, Any] = {"ranks": [row["rank"]], "run_ats": [row["run_at"]], "ids": [first + 1]}
        assert [lease.id for lease in sql.claim(worker, behind="0", **cursor)] == [first]

    @pytest.mark.parametrize("outcome", ["released", "lost"])
    @pytest.mark.usefixtures("clock")
    def test_what_goes_back_to_its_place_lowers_it(self, sql: Sql, outcome: str) -> None:
        early: int = sql.value(AN_HOUR_AGO)
        leases = sql.claim(sql.worker())
        sweep(sql)
        assert floor(sql) == 5
        assert sql.finish(leases, {"outcome": outcome}) == []
        assert floor(sql) == 3600
        assert self.found(sql) == [early]

    def test_one_that_is_retried_later_does_not(self, sql: Sql, clock: Clock) -> None:
        sql.value(AN_HOUR_AGO)
        leases = sql.claim(sql.worker(lease=3600))
        sweep(sql)
        clock.advance(1)
        assert sql.finish(leases, {"outcome": "failed", "delay": 0}) == []
        assert floor(sql) == 6

    @pytest.mark.usefixtures("clock")
    def test_who_gives_back_does_not_wait_for_maintenance(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        sql.value(AN_HOUR_AGO)
        leases = sql.claim(sql.worker())
        sweep(sql)
        other = connect()
        other.rows("begin")
        sweep(other)
        sql.rows("set statement_timeout = '10s'")
        assert sql.finish(leases, {"outcome": "released"}) == []
        other.rows("commit")
        assert floor(sql) == 5

    @pytest.mark.usefixtures("clock")
    def test_what_runs_below_is_counted_once(self, sql: Sql) -> None:
        sql.value(AN_HOUR_AGO)
        sql.claim(sql.worker(), 1)
        sweep(sql)
        sql.submit()
        [stats] = sql.rows("select running, pending, scheduled from pgqueue.queue_stats('default')")
        assert (stats["running"], stats["pending"], stats["scheduled"]) == (1, 1, 0)


def test_a_claim_forgets_earlier_ones_without_passing_those_long_gone(sql: Sql, connect: Callable[[], Sql]) -> None:
    worker = sql.worker()
    reader = connect()
    reader.rows("begin isolation level repeatable read")
    reader.rows("select count(*) from pgqueue.claims")
    sql.rows("insert into pgqueue.claims select %s, n, '{1}', now() from generate_series(1, 20000) n", worker)
    sql.rows("delete from pgqueue.claims")
    sql.rows("analyze pgqueue.claims")
    dear = buffers(sql, "select ids from pgqueue.claims where worker_id = %s order by claim_no", worker)
    for claim_no in (20001, 20002):
        sql.submit()
        assert len(sql.claim(worker, claim_no=claim_no)) == 1
    sql.submit()
    claim = f"select * from pgqueue.claim({worker}, 'default', 5, 20003, p_done => '{{20001,20002}}')"
    assert buffers(sql, claim) < dear / 2
    assert sql.column("select claim_no from pgqueue.claims") == [20003]
