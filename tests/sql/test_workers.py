"""Workers: heard, lost, stopped, and what becomes of what they hold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Background, Clock, Sql

    Connect = Callable[[], Sql]
    Start = Callable[[Sql, Callable[[Sql], Any]], Background]


def beat(sql: Sql, worker: int, **options: object) -> dict[str, Any]:
    [row] = sql.call("heartbeat", worker_id=worker, **options)
    return row


def rescue(sql: Sql) -> dict[int, int]:
    """Rescue; return how many tasks each lost worker had."""
    return {row["worker_id"]: row["rescued"] for row in sql.rows("select * from pgqueue.rescue()")}


class TestRescue:
    def test_a_worker_is_lost_after_its_lease_not_before(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        worker = sql.worker(lease=30)
        sql.claim(worker)
        clock.advance(30)
        assert rescue(sql) == {}
        clock.advance(0.001)
        assert rescue(sql) == {worker: 1}
        task = sql.task(task_id)
        assert (task["status"], task["crashes"], task["failures"], task["worker_id"]) == ("pending", 1, 0, None)
        assert sql.outcomes(task_id) == ["lost"]
        assert "was not heard" in task["error"]

    def test_a_heartbeat_renews_the_lease(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker(lease=30)
        for _ in range(5):
            clock.advance(29)
            told = {"is_lost": False, "stop_requested": False, "is_paused": False, "cancel_ids": []}
            assert beat(sql, worker) == told
        assert rescue(sql) == {}

    def test_a_long_task_of_a_heard_worker_is_left_alone(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit(timeout=1)
        worker = sql.worker()
        sql.claim(worker)
        clock.advance(86_400)
        beat(sql, worker)
        assert rescue(sql) == {}
        assert sql.status(task_id) == "running"

    def test_only_its_own_tasks_are_taken(self, sql: Sql, clock: Clock) -> None:
        quiet, heard = sql.worker(), sql.worker()
        ids = [sql.submit() for _ in range(4)]
        sql.claim(quiet, 2)
        sql.claim(heard, 2)
        clock.advance(31)
        beat(sql, heard)
        assert rescue(sql) == {quiet: 2}
        assert [sql.status(task_id) for task_id in ids] == ["pending", "pending", "running", "running"]

    def test_what_it_finished_stays_finished(self, sql: Sql, clock: Clock) -> None:
        ids = [sql.submit(), sql.submit()]
        worker = sql.worker()
        leases = sql.claim(worker)
        sql.finish(leases[:1])
        clock.advance(31)
        assert rescue(sql) == {worker: 1}
        assert [sql.status(task_id) for task_id in ids] == ["completed", "pending"]

    def test_what_another_worker_runs_by_now_stays_with_it(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        first = sql.worker()
        sql.finish(sql.claim(first), {"outcome": "released"})
        second = sql.worker()
        sql.claim(second)
        clock.advance(31)
        beat(sql, second)
        assert rescue(sql) == {first: 0}
        assert (sql.status(task_id), sql.task(task_id)["worker_id"]) == ("running", second)

    def test_a_task_it_runs_again_is_taken_once(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        worker = sql.worker()
        sql.finish(sql.claim(worker), {"outcome": "released"})
        sql.claim(worker)
        clock.advance(31)
        assert rescue(sql) == {worker: 1}
        assert sql.outcomes(task_id) == ["released", "lost"]
        assert sql.task(task_id)["crashes"] == 1

    def test_a_lost_worker_cannot_claim(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker()
        clock.advance(31)
        rescue(sql)
        sql.submit()
        error = sql.refuses("QU301", "select * from pgqueue.claim(%s, 'default', 1, 1)", worker)
        assert json.loads(error.diag.message_detail or "") == {"worker_id": worker}

    def test_a_lost_worker_hears_of_it_and_stays_lost(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker()
        clock.advance(31)
        rescue(sql)
        assert beat(sql, worker)["is_lost"] is True
        assert beat(sql, worker)["is_lost"] is True
        lost = sql.row("select lost_at, heartbeat_at from pgqueue.workers")
        assert lost["lost_at"] == sql.now()
        assert lost["heartbeat_at"] < sql.now()

    def test_a_lost_worker_cannot_finish_what_it_held(self, sql: Sql, clock: Clock) -> None:
        sql.submit()
        worker = sql.worker()
        leases = sql.claim(worker)
        clock.advance(31)
        rescue(sql)
        assert sql.finish(leases) == [leases[0].id]

    def test_a_worker_that_is_late_but_not_yet_rescued_goes_on(self, sql: Sql, clock: Clock) -> None:
        sql.submit()
        worker = sql.worker()
        clock.advance(100)
        assert beat(sql, worker)["is_lost"] is False
        assert rescue(sql) == {}
        assert len(sql.claim(worker)) == 1

    def test_claims_of_a_worker_whose_row_was_deleted_by_hand_are_taken(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.submit()
        [lease] = sql.claim(worker)
        sql.rows("delete from pgqueue.workers where id = %s", worker)
        assert rescue(sql) == {worker: 1}
        assert (sql.status(lease.id), sql.outcomes(lease.id)) == ("pending", ["lost"])
        assert rescue(sql) == {}

    def test_its_row_is_kept_for_an_hour(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker()
        clock.advance(31)
        rescue(sql)
        clock.advance(3600)
        rescue(sql)
        assert sql.column("select id from pgqueue.workers") == [worker]
        clock.advance(0.001)
        rescue(sql)
        assert sql.column("select id from pgqueue.workers") == []

    @pytest.mark.usefixtures("clock")
    def test_a_lost_worker_is_looked_at_again(self, sql: Sql) -> None:
        """Whatever a first rescue left (a restore, a hand-made row) the next one takes."""
        task_id = sql.submit()
        worker = sql.worker()
        sql.claim(worker)
        sql.rows("update pgqueue.workers set lost_at = pgqueue._now()")
        assert rescue(sql) == {worker: 1}
        assert rescue(sql) == {}
        assert sql.status(task_id) == "pending"

    def test_a_task_that_kills_three_workers_is_failed(self, sql: Sql, clock: Clock) -> None:
        poison, neighbour = sql.submit("poison"), sql.submit("good")
        for _ in range(3):
            worker = sql.worker()
            leases = sql.claim(worker)
            sql.finish([lease for lease in leases if lease.id == neighbour])
            clock.advance(31)
            rescue(sql)
        task = sql.task(poison)
        assert (task["status"], task["crashes"]) == ("failed", 3)
        assert sql.status(neighbour) == "completed"

    def test_with_a_cancellation_pending_the_task_ends(self, sql: Sql, clock: Clock) -> None:
        task_id = sql.submit()
        sql.claim(sql.worker())
        sql.rows("select pgqueue.cancel_task(%s)", task_id)
        clock.advance(31)
        rescue(sql)
        assert sql.status(task_id) == "cancelled"

    def test_it_wakes_who_sleeps_where_the_lost_one_attended(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        ear = connect()
        ear.rows("listen pgqueue_wake")
        lost, sleeper = sql.worker(), sql.worker()
        sql.rows("select pgqueue.set_wait(%s, 'default', true)", lost)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sleeper)
        sql.submit()
        assert ear.notifications() == []
        clock.advance(31)
        beat(sql, sleeper)
        rescue(sql)
        assert ear.notifications() == [("pgqueue_wake", "default")]
        assert sql.column("select worker_id from pgqueue.waits") == [sleeper]

    def test_nobody_waits_for_an_application_that_holds_a_task(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        held, free = sql.submit(), sql.submit()
        worker = sql.worker()
        sql.claim(worker)
        clock.advance(31)
        application = connect()
        application.rows("begin")
        application.rows("select pgqueue.cancel_task(%s, 'enough')", held)
        sql.rows("set statement_timeout = '10s'")
        assert rescue(sql) == {worker: 1}
        assert sql.status(free) == "pending"
        application.rows("commit")
        assert rescue(sql) == {worker: 1}
        assert sql.status(held) == "cancelled"
        assert rescue(sql) == {}


class TestHeartbeat:
    def test_claims_that_the_worker_does_not_know_are_released_at_no_cost(self, sql: Sql) -> None:
        lost, known = sql.submit(), sql.submit()
        worker = sql.worker()
        sql.claim(worker, 1, claim_no=1)
        sql.claim(worker, 1, claim_no=2)
        beat(sql, worker, last_claim=2, open_claims=[2])
        task = sql.task(lost)
        assert (task["status"], task["failures"], task["crashes"], task["attempt"]) == ("pending", 0, 0, 1)
        assert sql.outcomes(lost) == ["released"]
        assert sql.status(known) == "running"
        assert sql.column("select claim_no from pgqueue.claims") == [2]

    def test_claims_made_after_the_list_was_made_are_left_alone(self, sql: Sql) -> None:
        task_id = sql.submit()
        worker = sql.worker()
        sql.claim(worker, claim_no=5)
        beat(sql, worker, last_claim=4, open_claims=[])
        assert sql.status(task_id) == "running"

    def test_without_a_list_nothing_is_released(self, sql: Sql) -> None:
        task_id = sql.submit()
        worker = sql.worker()
        sql.claim(worker, claim_no=1)
        beat(sql, worker)
        beat(sql, worker, last_claim=3)
        assert sql.status(task_id) == "running"

    def test_what_the_claim_had_finished_stays_finished(self, sql: Sql) -> None:
        done, open_ = sql.submit(), sql.submit()
        worker = sql.worker()
        leases = sql.claim(worker, claim_no=1)
        sql.finish(leases[:1])
        beat(sql, worker, last_claim=1, open_claims=[])
        assert (sql.status(done), sql.status(open_)) == ("completed", "pending")

    def test_a_task_that_runs_under_a_later_claim_is_left_alone(self, sql: Sql) -> None:
        task_id = sql.submit()
        worker = sql.worker()
        sql.finish(sql.claim(worker, claim_no=1), {"outcome": "released"})
        sql.claim(worker, claim_no=2)
        beat(sql, worker, last_claim=2, open_claims=[2])
        assert sql.status(task_id) == "running"
        assert sql.outcomes(task_id) == ["released"]

    def test_another_workers_claims_are_left_alone(self, sql: Sql) -> None:
        task_id = sql.submit()
        sql.claim(sql.worker(), claim_no=1)
        beat(sql, sql.worker(), last_claim=9, open_claims=[])
        assert sql.status(task_id) == "running"

    def test_released_tasks_wake_a_sleeper(self, sql: Sql) -> None:
        sql.submit()
        worker = sql.worker()
        sql.claim(worker, claim_no=1)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", worker)
        sql.rows("listen pgqueue_wake")
        beat(sql, worker, last_claim=1, open_claims=[])
        assert sql.notifications() == [("pgqueue_wake", "default")]

    def test_it_never_waits_for_an_application_that_holds_a_task(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        held, free = sql.submit(), sql.submit()
        worker = sql.worker()
        sql.claim(worker, claim_no=1)
        application = connect()
        application.rows("begin")
        application.rows("select pgqueue.cancel_task(%s, 'enough')", held)
        sql.rows("set statement_timeout = '10s'")
        beat(sql, worker, last_claim=1, open_claims=[])
        assert sql.status(free) == "pending"
        application.rows("rollback")
        beat(sql, worker, last_claim=1, open_claims=[])
        assert sql.status(held) == "pending"
        assert sql.column("select claim_no from pgqueue.claims") == []

    def test_what_runs_is_counted_from_the_first_claim_that_is_open(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        worker = sql.worker()
        leases = []
        for claim_no in range(1, 6):
            sql.submit()
            leases += sql.claim(worker, claim_no=claim_no)

        def first_and_running() -> tuple[int, int]:
            first = sql.value("select claims_from from pgqueue.workers")
            return first, sql.row("select * from pgqueue.queue_stats('default')")["running"]

        assert first_and_running() == (0, 5)
        sql.finish(leases[:2])
        beat(sql, worker, last_claim=5, open_claims=[5, 3, 4])
        assert first_and_running() == (1, 3)  # it tells of those it was not told to delete
        beat(sql, worker, last_claim=5, open_claims=[5, 3, 4])
        assert first_and_running() == (3, 3)
        beat(sql, worker)
        assert first_and_running() == (3, 3)
        application = connect()
        application.rows("begin")
        application.rows("select pgqueue.cancel_task(%s, 'enough')", leases[3].id)
        for _ in range(2):
            beat(sql, worker, last_claim=6, open_claims=[])
            assert first_and_running()[1] == 1  # the fourth, whose row is held
        application.rows("rollback")
        beat(sql, worker, last_claim=6, open_claims=[])
        beat(sql, worker, last_claim=6, open_claims=[])
        assert first_and_running() == (7, 0)

    def test_it_keeps_the_workers_status(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.rows("select * from pgqueue.heartbeat(%s, p_status => '{\"slots\": 3}')", worker)
        beat(sql, worker)
        assert sql.value("select status from pgqueue.workers") == {"slots": 3}

    def test_it_brings_the_order_to_stop(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.rows("select pgqueue.request_stop(%s)", worker)
        assert beat(sql, worker)["stop_requested"] is True

    def test_an_unknown_worker_is_lost(self, sql: Sql) -> None:
        assert beat(sql, 4711)["is_lost"] is True


class TestStop:
    def test_what_it_holds_is_released_without_cost(self, sql: Sql) -> None:
        ids = [sql.submit(max_retries=0) for _ in range(3)]
        worker = sql.worker()
        leases = sql.claim(worker)
        sql.finish(leases[:1])
        assert sql.value("select pgqueue.stop_worker(%s)", worker) == 2
        assert [sql.status(task_id) for task_id in ids] == ["completed", "pending", "pending"]
        task = sql.task(ids[1])
        assert (task["failures"], task["crashes"], task["attempt"]) == (0, 0, 1)
        assert sql.outcomes(ids[1]) == ["released"]

    def test_nothing_of_it_remains(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.submit()
        sql.claim(worker)
        sql.rows("select pgqueue.set_wait(%s, 'default', true)", worker)
        sql.rows("select pgqueue.stop_worker(%s)", worker)
        for table in ("workers", "claims", "waits"):
            assert sql.rows(f"select * from pgqueue.{table}") == []

    def test_with_a_cancellation_pending_the_task_ends(self, sql: Sql) -> None:
        task_id = sql.submit()
        worker = sql.worker()
        sql.claim(worker)
        sql.rows("select pgqueue.cancel_task(%s)", task_id)
        sql.rows("select pgqueue.stop_worker(%s)", worker)
        assert sql.status(task_id) == "cancelled"

    @pytest.mark.parametrize("attending", [True, False])
    def test_whoever_sleeps_takes_over(self, sql: Sql, *, attending: bool) -> None:
        """An attendant that stops does not keep its own tasks, or others', from those who sleep."""
        stopping, sleeper = sql.worker(), sql.worker()
        sql.submit()
        sql.claim(stopping)
        sql.rows("select pgqueue.set_wait(%s, 'default', %s)", stopping, attending)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sleeper)
        sql.rows("listen pgqueue_wake")
        sql.rows("select pgqueue.stop_worker(%s)", stopping)
        assert sql.notifications() == [("pgqueue_wake", "default")]

    def test_an_attendant_without_tasks_wakes_the_sleepers_too(self, sql: Sql) -> None:
        stopping, sleeper = sql.worker(), sql.worker()
        sql.rows("select pgqueue.set_wait(%s, 'default', true)", stopping)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sleeper)
        sql.submit()
        sql.rows("listen pgqueue_wake")
        sql.rows("select pgqueue.stop_worker(%s)", stopping)
        assert sql.notifications() == [("pgqueue_wake", "default")]

    def test_stopping_twice_or_somebody_unknown_is_no_error(self, sql: Sql) -> None:
        worker = sql.worker()
        assert sql.value("select pgqueue.stop_worker(%s)", worker) == 0
        assert sql.value("select pgqueue.stop_worker(%s)", worker) == 0

    def test_an_operator_cannot_stop_what_is_not_there(self, sql: Sql) -> None:
        error = sql.refuses("QU106", "select pgqueue.request_stop(4711)")
        assert error.diag.message_hint

    def test_an_operators_order_is_told_at_once(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.rows("listen pgqueue_control")
        sql.rows("select pgqueue.request_stop(%s)", worker)
        [(channel, payload)] = sql.notifications()
        assert (channel, json.loads(payload)) == ("pgqueue_control", {"kind": "stop", "worker_id": worker})


class TestPause:
    def test_a_paused_worker_claims_nothing_ends_what_it_runs_and_goes_on(self, sql: Sql) -> None:
        first, second = sql.submit(), sql.submit()
        worker = sql.worker()
        leases = sql.claim(worker, 1)
        sql.rows("select pgqueue.pause_worker(%s)", worker)
        assert sql.claim(worker) == []
        assert sql.finish(leases) == []
        assert (sql.status(first), sql.status(second)) == ("completed", "pending")
        sql.rows("select pgqueue.resume_worker(%s)", worker)
        assert [lease.id for lease in sql.claim(worker)] == [second]

    def test_others_have_its_tasks(self, sql: Sql) -> None:
        task_id = sql.submit()
        paused, other = sql.worker(), sql.worker()
        sql.rows("select pgqueue.pause_worker(%s)", paused)
        assert sql.claim(paused) == []
        assert [lease.id for lease in sql.claim(other)] == [task_id]

    def test_a_pause_waits_for_a_claim_under_way(self, sql: Sql, connect: Connect, background: Start) -> None:
        """Whatever was claimed is claimed when the pause is said to be done."""
        worker, claimer = sql.worker(), connect()
        sql.submit()
        claimer.rows("begin")
        assert claimer.claim(worker)
        pause = background(connect(), lambda other: other.rows("select pgqueue.pause_worker(%s)", worker))
        assert pause.waits_for() == {claimer.pid}
        claimer.rows("commit")
        pause.result()
        sql.submit()
        assert sql.claim(worker) == []

    def test_a_claim_that_meets_a_pause_under_way_claims_nothing(
        self, sql: Sql, connect: Connect, background: Start
    ) -> None:
        worker, operator = sql.worker(), connect()
        task_id = sql.submit()
        operator.rows("begin")
        operator.rows("select pgqueue.pause_worker(%s)", worker)
        claim = background(connect(), lambda other: other.claim(worker))
        assert claim.waits_for() == {operator.pid}
        operator.rows("commit")
        assert claim.result() == []
        assert sql.status(task_id) == "pending"

    def test_its_heartbeats_bring_the_order_and_keep_its_lease(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker(lease=30)
        assert beat(sql, worker)["is_paused"] is False
        sql.rows("select pgqueue.pause_worker(%s, 'disk full')", worker)
        for _ in range(3):
            clock.advance(20)
            assert beat(sql, worker)["is_paused"] is True
            assert sql.rows("select * from pgqueue.rescue()") == []
        shown = sql.row("select state, pause_reason, paused_at is not null as is_set from pgqueue.worker_overview")
        assert shown == {"state": "paused", "pause_reason": "disk full", "is_set": True}
        sql.rows("select pgqueue.resume_worker(%s)", worker)
        assert beat(sql, worker)["is_paused"] is False
        assert sql.row("select state, pause_reason from pgqueue.worker_overview") == {
            "state": "alive",
            "pause_reason": None,
        }

    @pytest.mark.parametrize("kind", ["pause", "resume"])
    def test_the_order_is_told_at_once_and_the_queues_are_woken(self, sql: Sql, kind: str) -> None:
        worker = sql.worker("default", "other")
        sql.rows("listen pgqueue_control")
        sql.rows("listen pgqueue_wake")
        sql.rows(f"select pgqueue.{kind}_worker(%s)", worker)
        (channel, payload), *wakes = sql.notifications()
        assert (channel, json.loads(payload)) == ("pgqueue_control", {"kind": kind, "worker_id": worker})
        assert wakes == [("pgqueue_wake", "default"), ("pgqueue_wake", "other")]

    @pytest.mark.parametrize("attending", [True, False])
    def test_a_submit_wakes_sleepers_as_if_it_were_not_there(self, sql: Sql, *, attending: bool) -> None:
        paused, sleeper = sql.worker(), sql.worker()
        sql.rows("select pgqueue.set_wait(%s, 'default', %s)", paused, attending)
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sleeper)
        sql.rows("select pgqueue.pause_worker(%s)", paused)
        sql.rows("listen pgqueue_wake")
        sql.submit()
        assert sql.notifications() == [("pgqueue_wake", "default")]
        sql.rows("select pgqueue.set_wait(%s, 'default', null)", sleeper)
        sql.submit()
        assert sql.notifications() == []

    def test_a_task_says_that_all_its_workers_are_paused(self, sql: Sql) -> None:
        task_id = sql.submit()
        first, second = sql.worker(), sql.worker()
        sql.rows("select pgqueue.pause_worker(%s)", first)
        assert "it is due" in sql.value("select pgqueue.why_waiting(%s)", task_id)
        sql.rows("select pgqueue.pause_worker(%s)", second)
        said = sql.value("select pgqueue.why_waiting(%s)", task_id)
        assert said == "all workers of queue 'default' are paused (2)"

    def test_pausing_twice_keeps_the_first_moment_and_the_last_reason(self, sql: Sql, clock: Clock) -> None:
        worker = sql.worker()
        sql.rows("select pgqueue.pause_worker(%s, 'one')", worker)
        since = sql.value("select paused_at from pgqueue.workers")
        clock.advance(5)
        sql.rows("select pgqueue.pause_worker(%s)", worker)
        sql.rows("select pgqueue.pause_worker(%s, 'two')", worker)
        assert sql.row("select paused_at, pause_reason from pgqueue.workers") == {
            "paused_at": since,
            "pause_reason": "two",
        }

    @pytest.mark.parametrize("kind", ["pause", "resume"])
    def test_who_is_not_there_or_lost_is_refused(self, sql: Sql, clock: Clock, kind: str) -> None:
        assert sql.refuses("QU106", f"select pgqueue.{kind}_worker(4711)").diag.message_hint
        worker = sql.worker(lease=1)
        clock.advance(2)
        sql.rows("select * from pgqueue.rescue()")
        sql.refuses("QU106", f"select pgqueue.{kind}_worker(%s)", worker)


def test_worker_ids_are_never_used_again(sql: Sql) -> None:
    first = sql.worker()
    sql.rows("select pgqueue.stop_worker(%s)", first)
    assert sql.worker() > first


@pytest.mark.parametrize("lease", [0, -1, 1e12, float("nan")])
def test_a_lease_must_be_a_time(sql: Sql, lease: float) -> None:
    with pytest.raises(Exception, match=r"lease|delay"):
        sql.worker(lease=lease)
