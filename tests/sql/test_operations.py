"""Many tasks are changed by a filter, in steps that block nobody and lose nothing."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Sql

EVERYTHING = {"all": True}


def begin(sql: Sql, kind: str, wanted: dict[str, Any], reason: str | None = None) -> int:
    return int(sql.value("select pgqueue.start_operation(%s, %s, %s)", kind, Jsonb(wanted), reason))


def step(sql: Sql, operation: int, limit: int = 500) -> dict[str, Any]:
    return sql.row("select * from pgqueue.step_operation(%s, %s)", operation, limit)


def complete(sql: Sql, operation: int, limit: int = 500) -> dict[str, Any]:
    for _ in range(1000):
        row = step(sql, operation, limit)
        if row["state"] != "running":
            return row
    pytest.fail("it does not end")


def operate(sql: Sql, kind: str, wanted: dict[str, Any], limit: int = 500) -> dict[str, Any]:
    return complete(sql, begin(sql, kind, wanted), limit)


def fail(sql: Sql, count: int, message: str = "broken", **options: Any) -> list[int]:  # noqa: ANN401 - those of submit
    """Let so many tasks fail for good."""
    ids = [sql.submit(**options) for _ in range(count)]
    leases = sql.claim(sql.worker(), count, options.get("queue_name", "default"))
    sql.finish(leases, {"outcome": "failed", "permanent": True, "error_type": "E", "error_message": message})
    return ids


def statuses(sql: Sql, ids: list[int]) -> list[str]:
    return [sql.status(task_id) for task_id in ids]


class TestRetry:
    def test_failed_tasks_start_again_with_id_attempts_and_executions(self, sql: Sql) -> None:
        ids = fail(sql, 7)
        row = operate(sql, "retry", EVERYTHING, limit=2)
        assert (row["state"], row["matched"], row["done"], row["skipped"]) == ("completed", 7, 7, 0)
        assert statuses(sql, ids) == ["pending"] * 7
        assert {sql.task(task_id)["attempt"] for task_id in ids} == {1}
        leases = sql.claim(sql.worker())
        assert sorted(lease.id for lease in leases) == ids
        sql.finish(leases)
        assert [sql.outcomes(task_id) for task_id in ids] == [["failed", "completed"]] * 7

    def test_cancelled_ones_only_where_the_filter_says_so(self, sql: Sql) -> None:
        ids = [sql.submit(), sql.submit()]
        for task_id in ids:
            sql.rows("select pgqueue.cancel_task(%s)", task_id)
        assert operate(sql, "retry", EVERYTHING)["matched"] == 0
        assert operate(sql, "retry", {"status": "cancelled"})["done"] == 2

    def test_those_whose_key_is_taken_are_skipped_and_named(self, sql: Sql) -> None:
        first, second = (fail(sql, 1, unique_key="k")[0] for _ in range(2))
        other = fail(sql, 1)[0]
        row = operate(sql, "retry", EVERYTHING)
        assert (row["matched"], row["done"], row["skipped"]) == (3, 2, 1)
        assert row["details"] == {"duplicate": {"count": 1, "ids": [second]}}
        assert statuses(sql, [first, second, other]) == ["pending", "failed", "pending"]

    def test_a_full_queue_takes_what_it_has_room_for(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('small', p_capacity => 3)")
        ids = fail(sql, 3, queue_name="small")
        sql.submit(queue_name="small")
        row = operate(sql, "retry", EVERYTHING, limit=2)
        assert (row["done"], row["details"]["queue_full"]["ids"]) == (2, ids[2:])
        assert statuses(sql, ids) == ["pending", "pending", "failed"]

    def test_a_queue_that_is_gone_is_a_reason(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('gone')")
        ids = fail(sql, 1, queue_name="gone")
        sql.rows("select pgqueue.delete_queue('gone')")
        assert operate(sql, "retry", EVERYTHING)["details"] == {"queue_missing": {"count": 1, "ids": ids}}
        assert statuses(sql, ids) == ["failed"]

    def test_a_task_that_fails_again_is_not_retried_twice(self, sql: Sql) -> None:
        ids = fail(sql, 4)
        operation = begin(sql, "retry", EVERYTHING)
        step(sql, operation, 2)
        sql.finish(sql.claim(sql.worker()), {"outcome": "failed", "permanent": True})
        row = complete(sql, operation, 2)
        assert row["done"] == 4
        assert sorted(statuses(sql, ids)) == ["failed", "failed", "pending", "pending"]

    def test_sleepers_are_woken_and_new_lanes_are_found(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ids = fail(sql, 2, priority=77)
        sql.rows("delete from pgqueue.lanes")
        ear = connect()
        ear.rows("listen pgqueue_wake")
        sleeper = sql.worker()
        sql.rows("select pgqueue.set_wait(%s, 'default', false)", sleeper)
        operate(sql, "retry", EVERYTHING)
        assert ear.notifications() == [("pgqueue_wake", "default")]
        assert sorted(lease.id for lease in sql.claim(sleeper, behind="1 second")) == ids


class TestCancel:
    def test_waiting_ones_end_and_running_ones_are_asked(self, sql: Sql) -> None:
        sql.submit()
        [running] = sql.claim(sql.worker())
        waiting = [sql.submit() for _ in range(3)]
        row = complete(sql, begin(sql, "cancel", EVERYTHING, "enough"))
        assert (row["done"], row["details"]) == (4, {"asked_to_stop": {"count": 1, "ids": [running.id]}})
        assert {sql.task(task_id)["error"] for task_id in waiting} == {"enough"}
        assert statuses(sql, waiting) == ["cancelled"] * 3
        assert sql.task(running.id)["cancel_requested_at"] is not None

    def test_each_worker_is_told_once(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        for _ in range(5):
            sql.submit()
        sql.claim(sql.worker())
        ear = connect()
        ear.rows("listen pgqueue_control")
        complete(sql, begin(sql, "cancel", EVERYTHING))
        assert len(ear.notifications()) == 1

    def test_what_is_submitted_after_the_start_is_left_alone(self, sql: Sql) -> None:
        old = sql.submit()
        operation = begin(sql, "cancel", EVERYTHING)
        new = sql.submit()
        complete(sql, operation)
        assert statuses(sql, [old, new]) == ["cancelled", "pending"]


class TestDelete:
    def test_finished_tasks_go_with_attempts_and_logs(self, sql: Sql) -> None:
        sql.submit()
        [lease] = sql.claim(sql.worker())
        sql.rows(
            "select pgqueue.write_logs(jsonb_build_array(jsonb_build_object("
            "'task_id', %s::bigint, 'attempt', 1, 'level', 'info', 'message', 'm')))",
            lease.id,
        )
        sql.finish([lease])
        live = sql.submit()
        assert operate(sql, "delete", EVERYTHING)["done"] == 1
        for table in ("finished_tasks", "executions", "task_logs"):
            assert sql.value(f"select count(*) from pgqueue.{table}") == 0
        assert sql.status(live) == "pending"


class TestFilters:
    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({"queue_name": "other"}, [1]),
            ({"task_type": "b"}, [2]),
            ({"user_id": "u"}, [3]),
            ({"project_id": "p"}, [4]),
            ({"unique_key": "k"}, [5]),
            ({"error": "NO DISK"}, [6]),
            ({"error": "100%"}, []),
            ({"created_from": "2030-01-02 00:00+00"}, [7]),
            ({"created_to": "2030-01-01 00:00+00"}, []),
            ({"finished_from": "2030-01-02 00:00+00"}, [7]),
            ({"finished_to": "2030-01-02 00:00+00", "status": "failed"}, [1, 2, 3, 4, 5, 6]),
            ({"queue_name": "other", "task_type": "b"}, []),
        ],
    )
    def test_each_is_heeded(self, sql: Sql, clock: Clock, wanted: dict[str, Any], expected: list[int]) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.rows("select pgqueue.create_queue('other')")
        fail(sql, 1, queue_name="other")
        fail(sql, 1, task_type="b")
        fail(sql, 1, user_id="u")
        fail(sql, 1, project_id="p")
        fail(sql, 1, unique_key="k")
        fail(sql, 1, "there is no disk left")
        clock.set("2030-01-02 12:00+00")
        fail(sql, 1)
        preview = sql.row("select * from pgqueue.preview_operation('retry', %s)", Jsonb(wanted))
        assert (preview["matched"], preview["is_capped"]) == (len(expected), False)
        assert preview["sample_ids"] == expected[::-1]
        operate(sql, "retry", wanted)
        assert sql.column("select id from pgqueue.tasks order by id") == expected

    @pytest.mark.parametrize(
        ("kind", "wanted"),
        [
            ("destroy", EVERYTHING),
            ("retry", {}),
            ("retry", None),
            ("retry", []),
            ("retry", {"queue_name": None}),
            ("retry", {"all": False}),
            ("retry", {"colour": "red"}),
            ("retry", {"queue_name": 5}),
            ("retry", {"status": "completed"}),
            ("cancel", {"status": "failed"}),
            ("cancel", {"finished_to": "2030-01-01"}),
            ("delete", {"status": "running"}),
        ],
    )
    def test_nonsense_is_refused(self, sql: Sql, kind: str, wanted: object) -> None:
        sql.refuses("QU001", "select pgqueue.start_operation(%s, %s)", kind, Jsonb(wanted))
        sql.refuses("QU001", "select * from pgqueue.preview_operation(%s, %s)", kind, Jsonb(wanted))

    def test_an_operation_that_is_not_there_is_told(self, sql: Sql) -> None:
        for function in ("step_operation", "cancel_operation"):
            sql.refuses("QU001", f"select pgqueue.{function}(99)")


class TestSteps:
    def test_one_changes_no_more_than_its_limit_and_remembers_where_it_was(self, sql: Sql) -> None:
        fail(sql, 10)
        operation = begin(sql, "retry", EVERYTHING)
        assert [step(sql, operation, 3)["done"] for _ in range(4)] == [3, 6, 9, 10]
        assert step(sql, operation)["state"] == "completed"

    def test_a_step_that_is_rolled_back_is_made_again(self, sql: Sql) -> None:
        fail(sql, 4)
        operation = begin(sql, "retry", EVERYTHING)
        sql.rows("begin")
        assert step(sql, operation, 2)["done"] == 2
        sql.rows("rollback")
        assert complete(sql, operation, 2)["done"] == 4

    def test_what_others_hold_is_passed_over_and_comes_at_the_end(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ids = fail(sql, 3)
        holder = connect()
        holder.rows("begin")
        holder.rows("select from pgqueue.finished_tasks where id = %s for update", ids[0])
        operation = begin(sql, "retry", EVERYTHING)
        row = step(sql, operation)
        assert (row["state"], row["done"], row["busy_ids"]) == ("running", 2, ids[:1])
        assert step(sql, operation)["busy_ids"] == ids[:1]
        holder.rows("rollback")
        assert complete(sql, operation)["done"] == 3

    def test_what_is_held_for_ever_is_given_up_and_named(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ids = [sql.submit(), sql.submit()]
        holder = connect()
        holder.rows("begin")
        holder.rows("select from pgqueue.tasks where id = %s for update", ids[0])
        row = operate(sql, "cancel", EVERYTHING)
        assert (row["state"], row["done"], row["skipped"]) == ("completed", 1, 1)
        assert row["details"] == {"busy": {"count": 1, "ids": ids[:1]}}

    def test_a_second_driver_changes_nothing_while_the_first_is_at_it(
        self, sql: Sql, connect: Callable[[], Sql]
    ) -> None:
        fail(sql, 4)
        operation = begin(sql, "retry", EVERYTHING)
        other = connect()
        other.rows("begin")
        assert step(other, operation, 2)["done"] == 2
        assert step(sql, operation, 2)["done"] == 0
        other.rows("commit")
        assert step(sql, operation, 2)["done"] == 4

    def test_a_cancelled_one_stays_where_it_is(self, sql: Sql) -> None:
        ids = fail(sql, 4)
        operation = begin(sql, "retry", EVERYTHING)
        step(sql, operation, 2)
        assert sql.value("select pgqueue.cancel_operation(%s)", operation) == "cancelled"
        assert step(sql, operation)["state"] == "cancelled"
        assert statuses(sql, ids) == ["pending", "pending", "failed", "failed"]

    def test_one_that_is_left_alone_is_offered_to_others(self, sql: Sql, clock: Clock) -> None:
        fail(sql, 4)
        operation = begin(sql, "retry", EVERYTHING)
        assert sql.value("select pgqueue.next_operation()") is None
        clock.advance(31)
        assert sql.value("select pgqueue.next_operation()") == operation
        step(sql, operation, 2)
        assert sql.value("select pgqueue.next_operation()") is None
        assert sql.value("select forgotten_operations from pgqueue.health") == 0
        clock.advance(301)
        assert sql.value("select forgotten_operations from pgqueue.health") == 1

    def test_they_are_forgotten_after_a_month(self, sql: Sql, clock: Clock) -> None:
        operate(sql, "delete", EVERYTHING)
        sql.rows("select pgqueue.maintain()")
        clock.advance(31 * 86_400)
        sql.rows("select pgqueue.maintain()")
        assert sql.rows("select * from pgqueue.operations") == []


def test_workers_that_finish_and_drivers_that_change_never_lose_a_task(sql: Sql, connect: Callable[[], Sql]) -> None:
    """Two drivers each of retry and cancel against workers: every task is somewhere once, and no session waits."""
    count = 300
    ids = fail(sql, count)
    stop = threading.Event()
    errors: list[BaseException] = []

    def work(session: Sql) -> None:
        session.rows("set lock_timeout = '2s'")
        worker = session.worker()
        while not stop.is_set():
            leases = session.claim(worker, 20)
            half = len(leases) // 2
            session.finish(leases[:half])
            session.finish(leases[half:], {"outcome": "failed", "permanent": True})

    def change(session: Sql, operations: list[int]) -> None:
        session.rows("set lock_timeout = '2s'")
        for operation in operations:
            complete(session, operation, 10)

    def guarded(target: Callable[..., None], *args: Any) -> None:  # noqa: ANN401 - handed through
        try:
            target(*args)
        except BaseException as error:  # noqa: BLE001 - shown by the test
            errors.append(error)

    retries = [begin(sql, "retry", EVERYTHING) for _ in range(2)]
    cancels = [begin(sql, "cancel", EVERYTHING) for _ in range(2)]
    workers = [threading.Thread(target=guarded, args=(work, connect())) for _ in range(2)]
    drivers = [
        threading.Thread(target=guarded, args=(change, connect(), operations)) for operations in (retries, cancels) * 2
    ]
    for thread in (*workers, *drivers):
        thread.start()
    for thread in drivers:
        thread.join(60)
    stop.set()
    for thread in workers:
        thread.join(20)
    assert errors == []
    rows = sql.rows("select id, count(*) from pgqueue.all_tasks where id = any(%s) group by id", ids)
    assert {row["id"]: row["count"] for row in rows} == dict.fromkeys(ids, 1)
    done = sql.column("select state from pgqueue.operations")
    assert done == ["completed"] * 4
    assert sql.value("select sum(done + skipped) = sum(matched) from pgqueue.operations") is True
