"""How attempts end, and what becomes of their tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.sql.conftest import Clock, Lease, Sql

FAILED = {"outcome": "failed", "error_type": "ValueError", "error_message": "no", "traceback": "line 1"}


def start(sql: Sql, **options: object) -> Lease:
    """Submit a task and claim it."""
    task_id = sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker())
    assert lease.id == task_id
    return lease


def delay_after(sql: Sql, lease: Lease, **failure: object) -> float:
    """Fail the attempt; return how many seconds later the task is due again."""
    assert sql.finish([lease], {"outcome": "failed", **failure}) == []
    seconds: float = sql.value(
        "select extract(epoch from t.run_at - pgqueue._now())::float from pgqueue.tasks t where t.id = %s", lease.id
    )
    return seconds


class TestSuccess:
    def test_the_task_moves_to_the_finished_with_its_result(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql, payload={"a": 1}, user_id="u", metadata={"m": 1}, unique_key="k", timeout=7)
        worker = sql.task(lease.id)["worker_id"]
        clock.advance(3)
        assert sql.finish([lease], results=[{"answer": 42}], elapsed_us=[2_000_000]) == []
        task = sql.task(lease.id)
        assert sql.value("select count(*) from pgqueue.tasks") == 0
        assert (task["status"], task["result"], task["error"], task["worker_id"]) == (
            "completed",
            {"answer": 42},
            None,
            worker,
        )
        assert (task["finished_at"] - task["started_at"]).total_seconds() == 2
        assert task["finished_at"] == sql.now()
        assert (task["payload"], task["user_id"], task["metadata"]) == ({"a": 1}, "u", {"m": 1})
        assert (task["unique_key"], task["timeout"], task["attempt"], task["failures"]) == ("k", 7, 1, 0)

    def test_the_attempt_is_recorded(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql)
        clock.advance(3)
        sql.finish([lease], elapsed_us=[1_500_000])
        [row] = sql.rows("select * from pgqueue.get_executions(%s)", lease.id)
        assert (row["attempt"], row["outcome"], row["error_type"], row["traceback"]) == (1, "completed", None, None)
        assert (row["finished_at"] - row["started_at"]).total_seconds() == 1.5

    def test_without_a_result_what_was_stored_stays(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.set_task_result(%s, '[1]')", lease.id)
        sql.finish([lease])
        assert sql.task(lease.id)["result"] == [1]

    def test_the_last_progress_goes_along(self, sql: Sql) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.update_progress(%s, 40, 'reading', 'parse', 2, 5)", lease.id)
        sql.finish([lease])
        progress = sql.task(lease.id)["progress"]
        del progress["updated_at"]
        assert progress == {
            "progress": 40,
            "message": "reading",
            "step": "parse",
            "completed_steps": 2,
            "total_steps": 5,
        }
        assert sql.rows("select * from pgqueue.task_progress") == []

    def test_it_wins_over_a_cancellation_that_was_asked_for(self, sql: Sql) -> None:
        lease = start(sql)
        assert sql.value("select pgqueue.cancel_task(%s, 'enough')", lease.id) == "running"
        sql.finish([lease])
        task = sql.task(lease.id)
        assert (task["status"], task["error"]) == ("completed", None)


class TestRetries:
    def test_the_default_waits_one_four_and_nine_seconds(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql)
        for n in (1, 2, 3):
            assert delay_after(sql, lease) == n * n
            clock.advance(n * n)
            [lease] = sql.claim(sql.worker())
        sql.finish([lease], FAILED)
        task = sql.task(lease.id)
        assert (task["status"], task["failures"], task["attempt"]) == ("failed", 4, 4)
        assert sql.outcomes(lease.id) == ["failed"] * 4

    @pytest.mark.parametrize("max_retries", [0, 1, 5])
    @pytest.mark.usefixtures("clock")
    def test_max_retries_failures_are_followed_by_another_attempt(self, sql: Sql, max_retries: int) -> None:
        lease = start(sql, max_retries=max_retries)
        for _ in range(max_retries):
            delay_after(sql, lease, delay=0)
            [lease] = sql.claim(sql.worker())
        sql.finish([lease], FAILED)
        assert sql.status(lease.id) == "failed"

    @pytest.mark.parametrize(
        ("retry", "expected"),
        [
            ({"strategy": "fixed", "base": 2.5}, [2.5] * 6),
            ({"strategy": "exponential"}, [1, 2, 4, 8, 16, 32]),
            ({"strategy": "exponential", "base": 3, "cap": 20}, [3, 6, 12, 20, 20, 20]),
            ({"strategy": "quadratic", "base": 2}, [2, 8, 18, 32, 50, 72]),
            ({"strategy": "quadratic", "cap": 10}, [1, 4, 9, 10, 10, 10]),
            ({"base": 0}, [0] * 6),
            ({}, [1, 4, 9, 16, 25, 36]),
        ],
    )
    def test_policies(self, sql: Sql, clock: Clock, retry: dict[str, object], expected: list[float]) -> None:
        lease = start(sql, max_retries=99)
        for seconds in expected:
            assert delay_after(sql, lease, retry=retry) == pytest.approx(seconds)
            clock.advance(seconds)
            [lease] = sql.claim(sql.worker())

    def test_jitter_takes_away_at_most_its_share(self, sql: Sql) -> None:
        retry = '\'{"strategy": "fixed", "base": 100, "jitter": 0.25}\''
        delays = sql.column(
            f"select extract(epoch from pgqueue._retry_delay(1, {retry}))::float from generate_series(1, 500)"
        )
        assert min(delays) >= 75
        assert max(delays) <= 100
        assert max(delays) - min(delays) > 10

    @pytest.mark.parametrize("failures", [1, 50, 10_001, 2**31 - 1])
    @pytest.mark.parametrize("strategy", ["quadratic", "fixed", "exponential"])
    def test_no_number_of_failures_overflows(self, sql: Sql, strategy: str, failures: int) -> None:
        retry = f'{{"strategy": "{strategy}", "base": 1e9, "cap": 1e300}}'
        seconds = sql.value("select extract(epoch from pgqueue._retry_delay(%s, %s))", failures, retry)
        assert 0 < seconds <= 31_536_000

    @pytest.mark.usefixtures("clock")
    def test_a_handler_may_say_when(self, sql: Sql) -> None:
        assert delay_after(sql, start(sql), delay=77, retry={"strategy": "fixed", "base": 1}) == 77

    def test_a_permanent_failure_ends_at_once(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], {**FAILED, "permanent": True})
        task = sql.task(lease.id)
        assert (task["status"], task["failures"], task["error"]) == ("failed", 1, "ValueError: no")

    def test_a_retried_task_shows_its_last_error_and_the_attempt_all_of_it(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], FAILED)
        assert sql.task(lease.id)["error"] == "ValueError: no"
        [row] = sql.rows("select * from pgqueue.get_executions(%s)", lease.id)
        assert (row["error_type"], row["error_message"], row["traceback"]) == ("ValueError", "no", "line 1")

    def test_a_task_that_leaves_running_belongs_to_nobody(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], FAILED)
        task = sql.task(lease.id)
        assert (task["status"], task["worker_id"], task["started_at"]) == ("pending", None, None)

    def test_a_retry_wakes_and_is_seen_after_it_fell_due(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker()
        sql.submit()
        leases = sql.claim(worker)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", worker)
        sql.rows("listen pgqueue_wake")
        sql.finish(leases, FAILED)
        assert sql.notifications() == [("pgqueue_wake", "default")]
        assert sql.claim(worker) == []
        clock.advance(1)
        assert len(sql.claim(worker)) == 1


def test_a_batch_of_retries_looks_for_sleepers_once_a_queue(sql: Sql) -> None:
    for _ in range(10):
        sql.submit()
    leases = sql.claim(sql.worker())
    sql.rows("set track_functions = 'pl'")
    with sql.conn.transaction():
        sql.finish(leases, FAILED)
        calls = sql.value("select calls from pg_stat_xact_user_functions where funcname = '_wake'")
    assert calls == 1


class TestCounters:
    """failures, crashes and neither: what each end of an attempt costs."""

    @pytest.mark.parametrize(
        ("outcome", "failures", "crashes"),
        [("failed", 1, 0), ("timed_out", 1, 0), ("lost", 0, 1), ("released", 0, 0), ("snoozed", 0, 0)],
    )
    def test_each_outcome_counts_in_its_own_place(self, sql: Sql, outcome: str, failures: int, crashes: int) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": outcome})
        task = sql.task(lease.id)
        assert (task["status"], task["failures"], task["crashes"]) == ("pending", failures, crashes)
        assert sql.outcomes(lease.id) == [outcome]

    def test_releases_and_snoozes_never_use_up_the_retries(self, sql: Sql) -> None:
        lease = start(sql, max_retries=0)
        for outcome in ("released", "snoozed") * 10:
            sql.finish([lease], {"outcome": outcome})
            [lease] = sql.claim(sql.worker())
        sql.finish([lease])
        assert sql.status(lease.id) == "completed"

    def test_a_task_that_kills_its_workers_is_failed_as_poison(self, sql: Sql) -> None:
        lease = start(sql, max_retries=99)
        lost = {"outcome": "lost", "error_type": "WorkerLost", "error_message": "gone"}
        for crashes in (1, 2):
            sql.finish([lease], lost)
            assert sql.task(lease.id)["crashes"] == crashes
            [lease] = sql.claim(sql.worker())
        sql.finish([lease], lost)
        task = sql.task(lease.id)
        assert (task["status"], task["crashes"], task["failures"]) == ("failed", 3, 0)
        assert task["error"] == "WorkerLost: gone"

    def test_the_queue_says_how_often_is_too_often(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('default', p_max_crashes => 1)")
        lease = start(sql)
        sql.finish([lease], {"outcome": "lost"})
        assert sql.status(lease.id) == "failed"

    def test_released_and_lost_tasks_keep_their_place_in_line(self, sql: Sql, clock: Clock) -> None:
        first = start(sql)
        clock.advance(1)
        second = sql.submit()
        clock.advance(1)
        for outcome in ("released", "lost"):
            sql.finish([first], {"outcome": outcome})
            [first] = sql.claim(sql.worker(), 1)
            assert first.id < second

    def test_a_snooze_waits_as_long_as_it_says(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": "snoozed", "delay": 60})
        clock.advance(59)
        assert sql.claim(sql.worker()) == []
        clock.advance(1)
        assert sql.claim(sql.worker()) == [(lease.id, 2)]


class TestCancellation:
    @pytest.mark.parametrize("outcome", ["failed", "timed_out", "lost", "released", "snoozed", "cancelled"])
    def test_every_end_but_success_yields_to_it(self, sql: Sql, outcome: str) -> None:
        lease = start(sql)
        sql.rows("select pgqueue.cancel_task(%s, 'enough')", lease.id)
        sql.finish([lease], {"outcome": outcome})
        task = sql.task(lease.id)
        assert (task["status"], task["error"]) == ("cancelled", "enough")
        assert sql.outcomes(lease.id) == [outcome]

    def test_a_handler_may_cancel_its_own_task(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": "cancelled", "error_message": "not needed"})
        task = sql.task(lease.id)
        assert (task["status"], task["error"], task["failures"]) == ("cancelled", "not needed", 0)

    def test_the_last_failure_is_a_failure_all_the_same(self, sql: Sql) -> None:
        lease = start(sql, max_retries=0)
        sql.rows("select pgqueue.cancel_task(%s)", lease.id)
        sql.finish([lease], FAILED)
        assert sql.status(lease.id) == "failed"


class TestTheLease:
    def test_an_old_attempt_settles_nothing(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": "released"})
        [later] = sql.claim(sql.worker())
        assert sql.finish([lease]) == [lease.id]
        assert sql.status(lease.id) == "running"
        assert sql.finish([later]) == []

    def test_the_attempt_alone_is_not_enough_the_task_must_be_running(self, sql: Sql) -> None:
        lease = start(sql)
        sql.finish([lease], {"outcome": "released"})
        assert sql.task(lease.id)["attempt"] == lease.attempt
        assert sql.finish([lease], results=["zombie"]) == [lease.id]
        assert sql.finish([lease], FAILED, wait=True) == [lease.id]
        task = sql.task(lease.id)
        assert (task["status"], task["failures"]) == ("pending", 0)

    def test_a_finished_attempt_finishes_once(self, sql: Sql) -> None:
        lease = start(sql)
        assert sql.finish([lease]) == []
        assert sql.finish([lease]) == [lease.id]
        assert sql.outcomes(lease.id) == ["completed"]

    def test_an_id_that_never_was_is_not_settled(self, sql: Sql) -> None:
        assert sql.finish([(4711, 1)]) == [4711]

    def test_the_others_of_the_batch_are_settled(self, sql: Sql) -> None:
        for _ in range(4):
            sql.submit(max_retries=0)
        leases = sql.claim(sql.worker())
        sql.finish([leases[1]], {"outcome": "released"})
        failures = [None, None, FAILED, {"outcome": "snoozed"}]
        assert sql.finish(leases, failures=failures) == [leases[1].id]
        assert [sql.status(lease.id) for lease in leases] == ["completed", "pending", "failed", "pending"]

    def test_an_old_attempt_beside_the_running_one_changes_nothing(self, sql: Sql) -> None:
        """A worker that never heard whether its first report was heard sends it again beside the next one."""
        old = start(sql)
        sql.finish([old], {"outcome": "failed", "delay": 0})
        [new] = sql.claim(sql.worker())
        for failures in ([FAILED, None], [None, FAILED], [FAILED, {"outcome": "released"}]):
            sql.finish([old, new], failures=failures)
            if failures[1] is None:
                break
        assert sql.outcomes(old.id)[:2] == ["failed", "completed"]
        assert sql.task(old.id)["failures"] == 1
        assert sql.task(old.id)["status"] == "completed"

    def test_the_same_lease_twice_in_a_batch_counts_once(self, sql: Sql) -> None:
        done = start(sql)
        assert sql.finish([done, done]) == []
        again = start(sql)
        assert sql.finish([again, again], FAILED) == []
        assert (sql.outcomes(done.id), sql.outcomes(again.id)) == (["completed"], ["failed"])
        assert sql.task(again.id)["failures"] == 1

    @pytest.mark.parametrize("first_succeeds", [True, False])
    def test_twice_with_different_ends_it_ends_as_it_was_given_first(self, sql: Sql, *, first_succeeds: bool) -> None:
        """Both parts of a finish, that which ends and that which puts back, must take the same one."""
        again = {"outcome": "failed", "delay": 0}
        ends = [None, again] if first_succeeds else [again, None]
        for _ in range(9):
            sql.submit()
        leases = sql.claim(sql.worker())
        assert sql.finish([*leases, *leases], failures=[ends[0]] * 9 + [ends[1]] * 9) == []
        expected = ("completed", ["completed"]) if first_succeeds else ("pending", ["failed"])
        assert {(sql.status(lease.id), *sql.outcomes(lease.id)) for lease in leases} == {(expected[0], *expected[1])}


def test_nothing_to_finish_is_fine(sql: Sql) -> None:
    assert sql.finish([]) == []


def test_a_big_mixed_batch_adds_up(sql: Sql) -> None:
    sql.rows("insert into pgqueue.tasks (task_type) select 'a' from generate_series(1, 600)")
    leases = sql.claim(sql.worker(), 600)
    kinds: list[Any] = [None, FAILED, {"outcome": "snoozed"}, {"outcome": "cancelled"}]
    assert sql.finish(leases, failures=[kinds[n % 4] for n in range(600)]) == []
    counts = sql.rows("select outcome, count(*)::int as n from pgqueue.executions group by 1 order by 1")
    assert {row["outcome"]: row["n"] for row in counts} == {
        "cancelled": 150,
        "completed": 150,
        "failed": 150,
        "snoozed": 150,
    }
    assert sql.value("select count(*) from pgqueue.all_tasks") == 600


class TestPartitions:
    @pytest.mark.parametrize("partition", ["task_logs", "attempts", "finished_tasks"])
    def test_a_finish_that_finds_none_makes_one(self, sql: Sql, partition: str) -> None:
        lease = start(sql)
        day = sql.value("select to_char(pgqueue._now() at time zone 'UTC', 'YYYYMMDD')")
        sql.rows(f"drop table pgqueue.{partition}_{day}")
        assert sql.finish([lease]) == []
        assert sql.status(lease.id) == "completed"

    def test_far_ahead_of_what_was_made(self, sql: Sql, clock: Clock) -> None:
        leases = [start(sql), start(sql)]
        waiting = sql.submit()
        clock.advance(400 * 86400)
        assert sql.finish(leases, failures=[None, FAILED]) == []
        sql.rows("select pgqueue.cancel_task(%s)", waiting)
        assert sql.value("select count(*) from pgqueue.finished_tasks") == 2
        assert sql.value("select count(*) from pgqueue.executions") == 2

    def test_the_first_and_the_last_microsecond_of_a_day(self, sql: Sql, clock: Clock) -> None:
        for moment in ("2031-03-30 00:00:00+00", "2031-03-30 23:59:59.999999+00"):
            clock.set(moment)
            lease = start(sql)
            sql.finish([lease])
            assert sql.value("select count(*) from pgqueue.finished_tasks_20310330 where id = %s", lease.id) == 1

    @pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Midway", "America/Sao_Paulo"])
    def test_whatever_the_time_zone_of_the_session(self, sql: Sql, clock: Clock, zone: str) -> None:
        sql.rows(f"set timezone = '{zone}'")
        clock.set("2031-03-30 00:30:00+00")
        lease = start(sql)
        assert sql.finish([lease]) == []
        assert sql.value("select count(*) from pgqueue.finished_tasks_20310330") == 1
