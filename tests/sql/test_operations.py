"""Many tasks are retried, cancelled or deleted in small steps that nobody waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Background, Clock, Sql

FAILED = {"outcome": "failed", "permanent": True, "error_type": "ValueError", "error_message": "no Such thing"}


def fail(sql: Sql, count: int, **options: Any) -> list[int]:  # noqa: ANN401 - those of a submit
    """Tasks that have failed."""
    ids = [sql.submit(max_retries=0, **options) for _ in range(count)]
    leases = sql.claim(sql.worker(), count)
    assert sql.finish(leases, FAILED) == []
    return ids


def start(sql: Sql, kind: str, reason: str | None = None, **chosen: object) -> int:
    operation_id: int = sql.value("select pgqueue.start_operation(%s, %s, %s)", kind, Jsonb(chosen), reason)
    return operation_id


def run(sql: Sql, operation_id: int, limit: int = 200) -> dict[str, Any]:
    while True:
        row = sql.row("select * from pgqueue.step_operation(%s, %s)", operation_id, limit)
        if row["state"] != "running":
            return row


def statuses(sql: Sql) -> dict[str, int]:
    return {
        row["status"]: row["count"] for row in sql.rows("select status, count(*) from pgqueue.all_tasks group by 1")
    }


class TestRetry:
    def test_a_retried_task_keeps_its_id_and_its_executions(self, sql: Sql) -> None:
        ids = fail(sql, 3)
        found = run(sql, start(sql, "retry", all=True))
        assert (found["state"], found["done"], found["skipped"]) == ("completed", 3, 0)
        assert [sql.status(task_id) for task_id in ids] == ["pending"] * 3
        assert [sql.outcomes(task_id) for task_id in ids] == [["failed"]] * 3

    def test_it_takes_cancelled_tasks_only_when_asked(self, sql: Sql) -> None:
        fail(sql, 2)
        cancelled = sql.submit()
        sql.value("select pgqueue.cancel_task(%s)", cancelled)
        assert run(sql, start(sql, "retry", all=True))["done"] == 2
        assert sql.status(cancelled) == "cancelled"
        assert run(sql, start(sql, "retry", status="cancelled"))["done"] == 1

    def test_one_whose_key_is_taken_is_skipped_and_told(self, sql: Sql) -> None:
        [taken] = fail(sql, 1, unique_key="a")
        [first] = fail(sql, 1, unique_key="b")
        [second] = fail(sql, 1, unique_key="b")
        sql.submit(unique_key="a")
        found = run(sql, start(sql, "retry", all=True))
        assert (found["done"], found["skipped"], found["skipped_ids"]) == (1, 2, [taken, second])
        assert sql.status(first) == "pending"

    def test_what_fails_again_meanwhile_is_not_retried_for_ever(self, sql: Sql) -> None:
        fail(sql, 4)
        operation = start(sql, "retry", all=True)
        for _ in range(20):
            state = sql.row("select * from pgqueue.step_operation(%s, 1)", operation)["state"]
            sql.finish(sql.claim(sql.worker(), 10), FAILED)
            if state != "running":
                break
        assert sql.column("select attempt from pgqueue.finished_tasks") == [2, 2, 2, 2]


IN_PAYLOAD: dict[str, Any] = {"payload_path": ["customer", "ids", "1"], "payload_value": "42"}


class TestPayloads:
    @pytest.mark.parametrize("kind", ["retry", "cancel", "delete"])
    def test_what_is_in_the_payload_chooses(self, sql: Sql, kind: str) -> None:
        payloads: list[dict[str, Any]] = [
            {"customer": {"ids": [1, 42]}},
            {"customer": {"ids": [1, "42"]}},
            {"customer": {"ids": [42]}},
            {"customer": None},
            {},
        ]
        if kind == "cancel":
            ids = [sql.submit(payload=payload) for payload in payloads]
        else:
            ids = [fail(sql, 1, payload=payload)[0] for payload in payloads]
        preview = sql.row("select * from pgqueue.preview_operation(%s, %s)", kind, Jsonb(IN_PAYLOAD))
        assert (preview["matched"], preview["sample"]) == (2, ids[:2])
        found = run(sql, start(sql, kind, **IN_PAYLOAD))
        assert (found["done"], found["skipped"], found["examined"]) == (2, 0, 5)
        left = {"retry": "failed", "cancel": "pending", "delete": "failed"}[kind]
        assert [sql.status(task_id) for task_id in ids[2:]] == [left] * 3

    def test_all_other_fields_must_match_too(self, sql: Sql) -> None:
        mine = fail(sql, 1, payload={"a": 1}, user_id="u")
        fail(sql, 1, payload={"a": 1})
        fail(sql, 1, payload={"a": 2}, user_id="u")
        chosen = {"payload_path": ["a"], "payload_value": "1", "user_id": "u", "error_contains": "SUCH"}
        assert sql.row("select * from pgqueue.preview_operation('retry', %s)", Jsonb(chosen))["sample"] == mine


class TestWindows:
    def test_a_window_of_creation_is_walked_from_where_its_ids_begin(self, sql: Sql, clock: Clock) -> None:
        """Older tasks, however many, are not looked at."""
        sql.rows("select count(*) from pgqueue.submit_many(%s)", Jsonb([{"task_type": "work"}] * 3_000))
        clock.advance(3600)
        since = sql.now().isoformat()
        new = [sql.submit() for _ in range(3)]
        found = run(sql, start(sql, "cancel", created_from=since))
        assert (found["done"], found["examined"] < 2_000) == (3, True)
        assert {sql.status(task_id) for task_id in new} == {"cancelled"}
        clock.advance(3600)
        sql.rows("select count(*) from pgqueue.submit_many(%s)", Jsonb([{"task_type": "work"}] * 3_000))
        before = run(sql, start(sql, "cancel", created_to=since))
        assert (before["done"], before["examined"] < 4_500) == (3_000, True)


class TestDeletingOne:
    def test_it_goes_with_all_that_belongs_to_it(self, sql: Sql) -> None:
        task_id, other = fail(sql, 2)
        sql.rows("select pgqueue.delete_task(%s)", task_id)
        sql.refuses("QU102", "select * from pgqueue.get_task(%s)", task_id)
        assert sql.column("select task_id from pgqueue.executions") == [other]
        sql.refuses("QU102", "select pgqueue.delete_task(%s)", task_id)

    def test_a_live_one_is_refused(self, sql: Sql) -> None:
        task_id = sql.submit()
        error = sql.refuses("QU201", "select pgqueue.delete_task(%s)", task_id)
        assert "is pending and cannot be deleted" in str(error)
        assert sql.status(task_id) == "pending"


class TestFilters:
    @pytest.mark.parametrize(
        ("chosen", "done"),
        [
            ({"queue_name": "other"}, 1),
            ({"task_type": "special"}, 1),
            ({"user_id": "u"}, 1),
            ({"project_id": "p"}, 1),
            ({"error_contains": "SUCH"}, 5),
            ({"error_contains": "%"}, 0),
            ({"created_from": "2000-01-01"}, 5),
            ({"created_to": "2000-01-01"}, 0),
            ({"finished_from": "2000-01-01"}, 5),
            ({"finished_to": "2000-01-01"}, 0),
            ({"user_id": "u", "queue_name": "other"}, 0),
            ({"payload_path": ["a", "0"], "payload_value": "7"}, 0),
        ],
    )
    def test_all_that_is_given_must_match(self, sql: Sql, chosen: dict[str, str], done: int) -> None:
        sql.call("create_queue", name="other")
        for options in ({}, {"task_type": "special"}, {"user_id": "u"}, {"project_id": "p"}):
            fail(sql, 1, **options)
        other = sql.submit(queue_name="other", max_retries=0)
        sql.finish(sql.claim(sql.worker("other"), 1, "other"), FAILED)
        preview = sql.row("select * from pgqueue.preview_operation('retry', %s)", Jsonb(chosen))
        assert (preview["matched"], len(preview["sample"]), preview["is_capped"]) == (done, done, False)
        assert run(sql, start(sql, "retry", **chosen))["done"] == done
        assert (sql.status(other) == "pending") == (done == 5 or chosen == {"queue_name": "other"})

    @pytest.mark.parametrize(
        ("kind", "chosen"),
        [
            ("retry", {}),
            ("retry", {"colour": "red"}),
            ("retry", {"status": "completed"}),
            ("cancel", {"status": "failed"}),
            ("delete", {"status": "running"}),
            ("explode", {"all": True}),
            ("retry", {"payload_path": ["a"]}),
            ("retry", {"payload_value": "7"}),
            ("retry", {"payload_path": "a", "payload_value": "7"}),
            ("retry", {"payload_path": ["a"], "payload_value": 7}),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, sql: Sql, kind: str, chosen: dict[str, object]) -> None:
        for function in ("start_operation", "preview_operation"):
            sql.refuses("QU001", f"select pgqueue.{function}(%s, %s)", kind, Jsonb(chosen))

    def test_a_time_that_is_none_is_refused_at_once(self, sql: Sql) -> None:
        sql.refuses("22007", "select pgqueue.start_operation('retry', %s)", Jsonb({"created_from": "soon"}))

    def test_there_is_no_such_operation(self, sql: Sql) -> None:
        for call in ("step_operation(7)", "cancel_operation(7)", "list_operations(1, 7)"):
            sql.refuses("QU105", f"select pgqueue.{call}")


class TestCancelAndDelete:
    def test_waiting_tasks_end_and_running_ones_are_asked(self, sql: Sql) -> None:
        running = sql.submit()
        sql.claim(sql.worker(), 1)
        waiting = [sql.submit() for _ in range(3)]
        found = run(sql, start(sql, "cancel", "enough", all=True))
        assert (found["done"], found["skipped"]) == (4, 0)
        assert [sql.status(task_id) for task_id in waiting] == ["cancelled"] * 3
        assert sql.task(waiting[0])["error"] == "enough"
        assert sql.task(running)["cancel_requested_at"] is not None

    def test_deleting_takes_history_along_and_leaves_the_figures(self, sql: Sql) -> None:
        ids = fail(sql, 3)
        keep = sql.submit()
        found = run(sql, start(sql, "delete", all=True))
        assert found["done"] == 3
        assert statuses(sql) == {"pending": 1}
        assert sql.value("select count(*) from pgqueue.executions where task_id = any(%s)", ids) == 0
        assert sql.status(keep) == "pending"
        statistics = sql.row(
            "select * from pgqueue.task_statistics(now() - interval '1 hour', now() + interval '1 hour')"
        )
        assert statistics["failed"] == 3


class TestSteps:
    def test_a_step_deals_with_no_more_than_it_may(self, sql: Sql) -> None:
        fail(sql, 7)
        operation = start(sql, "retry", all=True)
        done = [sql.row("select * from pgqueue.step_operation(%s, 3)", operation)["done"] for _ in range(3)]
        assert done == [3, 6, 7]
        assert sql.row("select * from pgqueue.step_operation(%s, 3)", operation)["state"] == "completed"

    def test_later_tasks_are_none_of_its(self, sql: Sql) -> None:
        fail(sql, 1)
        operation = start(sql, "retry", all=True)
        late = fail(sql, 1)[0]
        run(sql, operation)
        assert sql.status(late) == "failed"

    def test_two_drivers_share_one_operation(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Background]
    ) -> None:
        fail(sql, 5)
        operation = start(sql, "retry", all=True)
        first, second = connect(), connect()
        with first.conn.transaction():
            first.rows("select * from pgqueue.step_operation(%s, 2)", operation)
            other = background(second, lambda s: s.rows("select * from pgqueue.step_operation(%s, 2)", operation))
            assert other.result() == []
        assert run(second, operation)["done"] == 5

    def test_rows_that_somebody_holds_are_passed_over_without_waiting(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Background]
    ) -> None:
        held, free = sql.submit(), sql.submit()
        holder = connect()
        with holder.conn.transaction():
            holder.value("select pgqueue.cancel_task(%s)", held)
            operation = start(sql, "cancel", all=True)
            step = background(connect(), lambda session: run(session, operation))
            found = step.result()
        assert (found["done"], found["skipped_ids"]) == (1, [held])
        assert sql.status(free) == "cancelled"

    def test_a_worker_that_settles_is_not_held_up_by_a_cancel(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Background]
    ) -> None:
        sql.submit()
        [lease] = sql.claim(sql.worker())
        operation = start(sql, "cancel", all=True)
        canceller = connect()
        with canceller.conn.transaction():
            canceller.rows("select * from pgqueue.step_operation(%s)", operation)
            finish = background(connect(), lambda session: session.finish([lease]))
            assert finish.result() == [lease.id], "it comes back at once, to be settled a moment later"
        assert sql.finish([lease]) == []

    def test_one_whose_driver_died_is_carried_on(self, sql: Sql, clock: Clock) -> None:
        fail(sql, 3)
        operation = start(sql, "retry", all=True)
        sql.row("select * from pgqueue.step_operation(%s, 1)", operation)
        assert sql.rows("select * from pgqueue.step_abandoned(1)") == [], "its driver may be alive"
        for _ in range(3):
            clock.advance(6)
            assert sql.row("select id from pgqueue.step_abandoned(1)")["id"] == operation
        assert sql.value("select done from pgqueue.operations") == 3

    def test_it_can_be_stopped(self, sql: Sql) -> None:
        fail(sql, 3)
        operation = start(sql, "retry", all=True)
        sql.row("select * from pgqueue.step_operation(%s, 1)", operation)
        assert sql.value("select pgqueue.cancel_operation(%s)", operation) == "cancelled"
        assert sql.row("select * from pgqueue.step_operation(%s)", operation)["done"] == 1
        assert statuses(sql) == {"failed": 2, "pending": 1}

    def test_old_ones_are_forgotten(self, sql: Sql, clock: Clock) -> None:
        run(sql, start(sql, "retry", all=True))
        clock.advance(31 * 86_400)
        sql.value("select pgqueue.maintain()")
        assert sql.rows("select * from pgqueue.operations") == []
