"""What a claim promises."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Sql


def test_the_highest_priority_runs_first_then_the_earliest_due_then_the_lowest_id(sql: Sql, clock: Clock) -> None:
    clock.set("2030-01-01 12:00+00")
    late = sql.submit("late", priority=10, run_at="2030-01-01 12:00:02+00")
    early = sql.submit("early", priority=10, run_at="2030-01-01 12:00:01+00")
    low = sql.submit("low", priority=1)
    twins = [sql.submit("twin", priority=20) for _ in range(2)]
    lowest = sql.submit("lowest", priority=-32768)
    highest = sql.submit("highest", priority=32767)
    clock.advance(3)
    worker = sql.worker()
    assert [lease.id for lease in sql.claim(worker)] == [highest, *twins, early, late, low, lowest]


def test_a_small_claim_takes_the_first_ones(sql: Sql, clock: Clock) -> None:
    ids = [sql.submit(priority=p) for p in (1, 20, 5, 20, 10)]
    worker = sql.worker()
    assert [lease.id for lease in sql.claim(worker, 3)] == [ids[1], ids[3], ids[4]]
    assert [lease.id for lease in sql.claim(worker, 3)] == [ids[2], ids[0]]


def test_what_it_starts_is_running_under_a_new_attempt(sql: Sql, clock: Clock) -> None:
    task_id = sql.submit()
    worker = sql.worker()
    [lease] = sql.claim(worker)
    assert lease == (task_id, 1)
    task = sql.task(task_id)
    assert (task["status"], task["worker_id"], task["started_at"]) == ("running", worker, sql.now())


def test_it_returns_what_a_worker_needs_as_text_that_it_can_read_one_by_one(sql: Sql, clock: Clock) -> None:
    clock.set("2030-01-01 12:00+00")
    sql.rows("set timezone = 'UTC'")
    sql.rows("select pgqueue.submit('a', '{\"n\": 1}', p_timeout => 9, p_user_id => 'u', p_metadata => '[2]')")
    [row] = sql.claim_rows(sql.worker())
    assert row["payload"] == '{"n": 1}'
    assert row["metadata"] == "[2]"
    assert row["run_at"] == "2030-01-01 12:00:00+00"
    assert row["created_at"] is None, "the same moment is not told twice"
    assert (row["timeout"], row["max_retries"], row["failures"], row["crashes"]) == (9, 3, 0, 0)
    assert (row["task_type"], row["rank"], row["user_id"], row["project_id"]) == ("a", -5, "u", None)


def test_a_number_that_python_refuses_travels_as_text(sql: Sql) -> None:
    sql.rows("select pgqueue.submit('a', jsonb_build_object('n', repeat('9', 5001)::numeric))")
    [row] = sql.claim_rows(sql.worker())
    assert len(row["payload"]) > 5001


def test_nothing_starts_before_it_is_due(sql: Sql, clock: Clock) -> None:
    clock.set("2030-01-01 12:00+00")
    task_id = sql.submit(run_at="2030-01-01 12:00:10+00")
    worker = sql.worker()
    clock.advance(9.999)
    assert sql.claim(worker) == []
    clock.advance(0.001)
    assert sql.claim(worker) == [(task_id, 1)]


def test_running_tasks_are_not_given_twice(sql: Sql) -> None:
    sql.submit()
    assert len(sql.claim(sql.worker())) == 1
    assert sql.claim(sql.worker()) == []


def test_two_sessions_share_without_waiting(sql: Sql, connect: Callable[[], Sql]) -> None:
    for _ in range(10):
        sql.submit()
    other = connect()
    sql.rows("begin")
    mine = sql.claim(sql.worker(), 6)
    theirs = other.claim(other.worker(), 6)
    sql.rows("commit")
    assert len(mine) == 6
    assert len(theirs) == 4
    assert not set(mine) & set(theirs)


def test_only_the_queue_that_is_asked_for(sql: Sql) -> None:
    sql.rows("select pgqueue.create_queue('other')")
    sql.submit(queue_name="other")
    assert sql.claim(sql.worker()) == []
    assert len(sql.claim(sql.worker("other"), queue="other")) == 1


def test_a_paused_queue_gives_nothing_until_it_is_resumed(sql: Sql) -> None:
    sql.submit()
    worker = sql.worker()
    sql.rows("select pgqueue.pause_queue('default', 'lunch')")
    assert sql.claim(worker) == []
    sql.rows("select pgqueue.resume_queue('default')")
    assert len(sql.claim(worker)) == 1


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_never_more_than_asked_for(sql: Sql, limit: int) -> None:
    for priority in (1, 5, 10) * 5:
        sql.submit(priority=priority)
    assert len(sql.claim(sql.worker(), limit)) == limit


def test_a_claim_number_is_used_once(sql: Sql) -> None:
    sql.submit()
    sql.submit()
    worker = sql.worker()
    sql.claim(worker, 1, claim_no=7)
    sql.refuses("23505", "select * from pgqueue.claim(%s, 'default', 1, 7)", worker)
    assert sql.value("select count(*) from pgqueue.tasks where status = 'pending'") == 1


def test_each_batch_is_noted_and_forgotten_when_the_worker_says_so(sql: Sql) -> None:
    worker = sql.worker()
    for claim_no in (1, 2):
        sql.submit()
        sql.finish(sql.claim(worker, claim_no=claim_no))
    assert sql.column("select claim_no from pgqueue.claims order by 1") == [1, 2]
    task_id = sql.submit()
    sql.claim(worker, claim_no=3, done=[1, 2])
    assert sql.rows("select claim_no, ids from pgqueue.claims") == [{"claim_no": 3, "ids": [task_id]}]


def test_finished_batches_are_forgotten_even_when_nothing_is_due(sql: Sql) -> None:
    worker = sql.worker()
    sql.submit()
    sql.finish(sql.claim(worker, claim_no=1))
    assert sql.claim(worker, claim_no=2, done=[1]) == []
    assert sql.rows("select * from pgqueue.claims") == []


@pytest.mark.parametrize("worker", [0, 4711])
def test_an_unknown_worker_claims_nothing(sql: Sql, worker: int) -> None:
    sql.submit()
    sql.refuses("QU301", "select * from pgqueue.claim(%s, 'default', 1, 1)", worker)


class TestCursor:
    """The cursor of a lane: the last (run_at, id) that a worker was given."""

    def cursor(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"ranks": [row["rank"]], "run_ats": [row["run_at"]], "ids": [row["id"]]}

    def test_the_next_claim_goes_on_behind_it(self, sql: Sql, clock: Clock) -> None:
        ids = []
        for _ in range(6):
            ids.append(sql.submit())
            clock.advance(1)
        worker = sql.worker()
        first = sql.claim_rows(worker, 2)
        second = sql.claim(worker, 2, behind="0", **self.cursor(first[-1]))
        assert [lease.id for lease in second] == ids[2:4]

    @pytest.mark.usefixtures("clock")
    def test_same_run_at_is_told_apart_by_id(self, sql: Sql) -> None:
        ids = [sql.submit() for _ in range(4)]
        worker = sql.worker()
        first = sql.claim_rows(worker, 2)
        assert [lease.id for lease in sql.claim(worker, 9, behind="0", **self.cursor(first[-1]))] == ids[2:]

    def passed(self, sql: Sql, clock: Clock) -> tuple[int, dict[str, Any], int]:
        """A worker with its cursor at noon, and a task of a tenth of a second before that it has not seen."""
        clock.set("2030-01-01 12:00+00")
        sql.submit()
        worker = sql.worker()
        [row] = sql.claim_rows(worker)
        clock.set("2030-01-01 11:59:59.9+00")
        return worker, self.cursor(row), sql.submit()

    def test_what_was_committed_behind_it_is_seen_by_looking_back_or_sweeping(self, sql: Sql, clock: Clock) -> None:
        worker, cursor, near = self.passed(sql, clock)
        clock.set("2030-01-01 11:00+00")
        far = sql.submit()
        clock.set("2030-01-01 12:00:01+00")
        assert sql.claim(worker, behind="0", **cursor) == []
        assert sql.claim(worker, behind="250 milliseconds", **cursor) == [(near, 1)]
        assert sql.claim(worker, behind=None, **cursor) == [(far, 1)]

    def test_one_that_is_far_behind_the_clock_is_looked_behind_only_by_sweeps(self, sql: Sql, clock: Clock) -> None:
        worker, cursor, near = self.passed(sql, clock)
        clock.set("2030-01-01 12:00:05.1+00")
        later = sql.submit()
        assert sql.claim(worker, 1, behind="250 milliseconds", **cursor) == [(later, 1)]
        assert sql.claim(worker, 1, behind="250 milliseconds", **cursor) == []
        assert sql.claim(worker, 1, behind=None, **cursor) == [(near, 1)]

    @pytest.mark.usefixtures("clock")
    def test_a_lane_without_a_cursor_is_read_from_its_start(self, sql: Sql) -> None:
        sql.submit(priority=5)
        other = sql.submit(priority=1)
        worker = sql.worker()
        [row] = sql.claim_rows(worker, 1)
        assert sql.claim(worker, behind="0", **self.cursor(row)) == [(other, 1)]

    def test_a_sweep_finds_lanes_that_nobody_noted(self, sql: Sql) -> None:
        ids = [sql.submit(priority=priority) for priority in (3, -3, 33)]
        sql.rows("delete from pgqueue.lanes")
        worker = sql.worker()
        assert sql.claim(worker, behind="0") == []
        assert [lease.id for lease in sql.claim(worker, behind=None)] == [ids[2], ids[0], ids[1]]

    def test_rows_that_came_without_triggers_are_found(self, sql: Sql) -> None:
        sql.rows("set session_replication_role = replica")
        sql.rows("insert into pgqueue.tasks (task_type, priority) values ('a', 77)")
        sql.rows("reset session_replication_role")
        assert len(sql.claim(sql.worker())) == 1


def test_doubles_among_the_lanes_do_no_harm(sql: Sql) -> None:
    sql.submit()
    sql.rows("insert into pgqueue.lanes select l.* from pgqueue.lanes l cross join generate_series(1, 3)")
    leases = sql.claim(sql.worker())
    assert len(leases) == 1
    assert sql.column("select ids from pgqueue.claims") == [[leases[0].id]]


def test_attempts_grow_whatever_ends_them(sql: Sql, clock: Clock) -> None:
    task_id = sql.submit(max_retries=99)
    worker = sql.worker()
    attempts = []
    for failure in (
        {"outcome": "failed", "delay": 0},
        {"outcome": "snoozed"},
        {"outcome": "released"},
        {"outcome": "lost"},
        {"outcome": "timed_out", "delay": 0},
    ):
        [lease] = sql.claim(worker)
        attempts.append(lease.attempt)
        assert sql.finish([lease], failure) == []
    [lease] = sql.claim(worker)
    sql.finish([lease], {"outcome": "failed", "permanent": True})
    sql.rows("select pgqueue.retry_task(%s)", task_id)
    [last] = sql.claim(worker)
    attempts += [lease.attempt, last.attempt]
    assert all(later == earlier + 1 for earlier, later in pairwise(attempts))
