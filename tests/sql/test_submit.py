"""What submitting promises, by function and by plain insert."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Sql

INSERT = "insert into pgqueue.tasks (task_type, queue_name, payload) values (%s, %s, %s) returning id"


def listen(session: Sql) -> Sql:
    session.rows("listen pgqueue_wake")
    return session


def sleeper(session: Sql, queue: str = "default") -> int:
    """Register a worker that sleeps on a queue."""
    worker = session.worker(queue)
    session.rows("select pgqueue.set_wait(%s, %s, false)", worker, queue)
    return worker


def test_submit_needs_a_type_only_and_fills_in_the_defaults(sql: Sql, clock: Clock) -> None:
    task = sql.task(sql.value("select pgqueue.submit('report')"))
    assert task["status"] == "pending"
    assert (task["queue_name"], task["priority"], task["payload"]) == ("default", 5, {})
    assert (task["max_retries"], task["timeout"], task["attempt"]) == (3, None, 0)
    assert task["run_at"] == task["created_at"] == sql.now()


def test_submit_keeps_everything_it_is_given(sql: Sql) -> None:
    sql.rows("select pgqueue.create_queue('reports')")
    task_id = sql.submit(
        "report",
        payload={"a": [1, None, "ü"]},
        queue_name="reports",
        priority=-7,
        max_retries=0,
        timeout=90,
        run_at="2099-01-01 00:00+00",
        unique_key="k",
        user_id="u",
        project_id="p",
        metadata={"m": 1},
    )
    task = sql.task(task_id)
    assert task["task_type"] == "report"
    assert task["payload"] == {"a": [1, None, "ü"]}
    assert (task["queue_name"], task["priority"], task["max_retries"], task["timeout"]) == ("reports", -7, 0, 90)
    assert (task["unique_key"], task["user_id"], task["project_id"], task["metadata"]) == ("k", "u", "p", {"m": 1})
    assert task["run_at"].year == 2099


def test_submit_takes_nulls_for_defaults(sql: Sql) -> None:
    task_id = sql.value("select pgqueue.submit('a', null, null, null, null)")
    task = sql.task(task_id)
    assert (task["payload"], task["queue_name"], task["priority"], task["max_retries"]) == ({}, "default", 5, 3)


def test_a_run_at_in_the_past_means_now(sql: Sql, clock: Clock) -> None:
    assert sql.task(sql.submit(run_at="2001-01-01 00:00+00"))["run_at"] == sql.now()


def test_submit_task_answers_with_the_new_task(sql: Sql, clock: Clock) -> None:
    [row] = sql.call("submit_task", task_type="a")
    assert row == {
        "task_id": row["task_id"],
        "created": True,
        "status": "pending",
        "attempt": 0,
        "run_at": sql.now(),
        "created_at": sql.now(),
    }


def test_a_rolled_back_submit_never_was(sql: Sql) -> None:
    with sql.conn.transaction(force_rollback=True):
        task_id = sql.submit()
    sql.refuses("QU102", "select * from pgqueue.get_task(%s)", task_id)


class TestUniqueKeys:
    def test_a_second_submit_returns_the_live_task(self, sql: Sql) -> None:
        first = sql.submit("a", unique_key="k")
        assert sql.submit("a", unique_key="k", payload={"other": 1}) == first
        assert sql.task(first)["payload"] == {}
        assert sql.value("select count(*) from pgqueue.tasks") == 1

    def test_submit_or_get_says_whether_it_is_new(self, sql: Sql) -> None:
        rows = [sql.call("submit_or_get", task_type="a", unique_key="k")[0] for _ in range(2)]
        assert [row["created"] for row in rows] == [True, False]
        assert rows[0]["task_id"] == rows[1]["task_id"]

    def test_the_key_counts_within_its_type(self, sql: Sql) -> None:
        assert sql.submit("a", unique_key="k") != sql.submit("b", unique_key="k")

    def test_the_key_is_held_while_the_task_runs_and_free_when_it_ended(self, sql: Sql) -> None:
        first = sql.submit("a", unique_key="k")
        leases = sql.claim(sql.worker())
        assert sql.submit("a", unique_key="k") == first
        sql.finish(leases)
        assert sql.submit("a", unique_key="k") != first

    def test_raise_names_the_live_task(self, sql: Sql) -> None:
        first = sql.submit("a", unique_key="k")
        error = sql.refuses("QU202", "select pgqueue.submit('a', p_unique_key => 'k', p_on_conflict => 'raise')")
        assert json.loads(error.diag.message_detail or "")["task_id"] == first

    def test_replace_changes_the_payload_of_a_waiting_task(self, sql: Sql) -> None:
        first = sql.submit("a", unique_key="k", payload={"v": 1})
        assert sql.submit("a", unique_key="k", payload={"v": 2}, on_conflict="replace") == first
        assert sql.task(first)["payload"] == {"v": 2}

    def test_replace_leaves_a_running_task_alone(self, sql: Sql) -> None:
        first = sql.submit("a", unique_key="k", payload={"v": 1})
        sql.claim(sql.worker())
        assert sql.submit("a", unique_key="k", payload={"v": 2}, on_conflict="replace") == first
        assert sql.task(first)["payload"] == {"v": 1}

    def test_an_unknown_conflict_rule_is_refused(self, sql: Sql) -> None:
        sql.refuses("QU001", "select pgqueue.submit('a', p_on_conflict => 'ignore')")

    def test_it_waits_for_an_open_submit_and_takes_its_place_if_that_rolls_back(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        other = connect()
        other.rows("begin")
        lost = other.submit("a", unique_key="k")
        second = background(sql, lambda s: s.call("submit_or_get", task_type="a", unique_key="k")[0])
        assert second.waits_for() == {other.pid}
        other.rows("rollback")
        assert second.result()["created"]
        assert second.result()["task_id"] != lost

    def test_it_waits_for_an_open_submit_and_returns_its_task_if_that_commits(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        other = connect()
        other.rows("begin")
        first = other.submit("a", unique_key="k")
        second = background(sql, lambda s: s.call("submit_or_get", task_type="a", unique_key="k")[0])
        assert second.waits_for() == {other.pid}
        other.rows("commit")
        assert second.result() == {"task_id": first, "created": False}

    def test_a_holder_that_ends_meanwhile_frees_the_key(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        first = sql.submit("a", unique_key="k")
        other = connect()
        other.rows("begin")
        other.rows("select pgqueue.cancel_task(%s)", first)
        second = background(sql, lambda s: s.submit("a", unique_key="k"))
        assert second.waits_for() == {other.pid}
        other.rows("commit")
        assert second.result() != first


class TestPlainInsert:
    def test_it_is_a_full_submit(self, sql: Sql) -> None:
        task_id = sql.value(INSERT, "report", "default", Jsonb({"a": 1}))
        assert [lease.id for lease in sql.claim(sql.worker())] == [task_id]

    def test_it_wakes_a_sleeper(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = listen(connect())
        sleeper(sql)
        sql.value(INSERT, "report", "default", Jsonb({}))
        assert ear.notifications() == [("pgqueue_wake", "default")]

    def test_an_unknown_queue_is_refused_with_advice(self, sql: Sql) -> None:
        error = sql.refuses("QU101", INSERT, "report", "nope", Jsonb({}))
        assert json.loads(error.diag.message_detail or "") == {"queue_name": "nope"}
        assert "create_queue('nope')" in (error.diag.message_hint or "")

    def test_a_status_is_refused_even_where_the_row_would_be_a_running_task(self, sql: Sql) -> None:
        error = sql.refuses(
            "QU001",
            "insert into pgqueue.tasks (task_type, status, worker_id, claim_no, started_at)"
            " values ('a', 'running', 1, 1, now())",
        )
        assert "starts as pending" in str(error)

    def test_the_status_pending_may_be_written_out(self, sql: Sql) -> None:
        sql.rows("insert into pgqueue.tasks (task_type, status) values ('a', 'pending')")

    def test_a_taken_key_is_a_unique_violation_of_a_constraint_that_says_so(self, sql: Sql) -> None:
        sql.submit("a", unique_key="k")
        error = sql.refuses("23505", "insert into pgqueue.tasks (task_type, unique_key) values ('a', 'k')")
        assert error.diag.constraint_name == "tasks_unique_live"

    def test_on_conflict_do_nothing_adds_nothing(self, sql: Sql) -> None:
        sql.submit("a", unique_key="k")
        rows = sql.rows(
            "insert into pgqueue.tasks (task_type, unique_key) values ('a', 'k'), ('a', 'l')"
            " on conflict do nothing returning unique_key"
        )
        assert rows == [{"unique_key": "l"}]

    def test_copy_is_a_submit_as_well(self, sql: Sql) -> None:
        copied = "copy pgqueue.tasks (task_type, priority) from stdin"
        with sql.conn.cursor() as cursor, cursor.copy(copied) as copy:
            for priority in (1, 900):
                copy.write_row(("a", priority))
        rows = sql.claim_rows(sql.worker())
        assert [row["rank"] for row in rows] == [-900, -1]

    def test_copy_into_an_unknown_queue_is_refused(self, sql: Sql) -> None:
        def load() -> None:
            with sql.conn.cursor() as cursor, cursor.copy("copy pgqueue.tasks (task_type, queue_name) from stdin") as c:
                c.write_row(("a", "nope"))

        with pytest.raises(Exception, match="there is no queue 'nope'"):
            load()

    def test_a_submitter_cannot_switch_its_checks_off(self, sql: Sql) -> None:
        sql.rows("set role pgqueue_submitter")
        sql.rows("set pgqueue.in_bulk = 'on'")
        sql.refuses("QU101", INSERT, "report", "nope", Jsonb({}))


class TestMany:
    def submit_many(self, sql: Sql, tasks: object) -> list[dict[str, Any]]:
        return sql.rows("select * from pgqueue.submit_many(%s)", Jsonb(tasks))

    def test_ids_come_back_in_the_order_of_the_tasks(self, sql: Sql) -> None:
        rows = self.submit_many(sql, [{"task_type": "a", "payload": {"n": n}} for n in range(50)])
        assert [row["position_no"] for row in rows] == list(range(1, 51))
        assert [sql.task(row["task_id"])["payload"]["n"] for row in rows] == list(range(50))
        assert all(row["created"] for row in rows)

    def test_each_task_keeps_its_fields(self, sql: Sql) -> None:
        [row] = self.submit_many(
            sql,
            [
                {
                    "task_type": "a",
                    "payload": [1],
                    "priority": 20,
                    "max_retries": 1,
                    "timeout": 5,
                    "run_at": "2099-01-01T00:00:00Z",
                    "user_id": "u",
                    "project_id": "p",
                    "metadata": {"m": 1},
                }
            ],
        )
        task = sql.task(row["task_id"])
        assert (task["payload"], task["priority"], task["max_retries"], task["timeout"]) == ([1], 20, 1, 5)
        assert (task["user_id"], task["project_id"], task["metadata"]) == ("u", "p", {"m": 1})
        assert task["run_at"].year == 2099

    def test_repeated_keys_share_the_first_task(self, sql: Sql) -> None:
        tasks = [{"task_type": "a", "unique_key": key} for key in ("k", "l", "k")] + [{"task_type": "a"}]
        rows = self.submit_many(sql, tasks)
        assert [row["position_no"] for row in rows] == [1, 2, 3, 4]
        assert [row["created"] for row in rows] == [True, True, False, True]
        assert rows[0]["task_id"] == rows[2]["task_id"]

    def test_it_is_all_or_nothing(self, sql: Sql) -> None:
        query = "select * from pgqueue.submit_many(%s)"
        sql.refuses("QU101", query, Jsonb([{"task_type": "a"}, {"task_type": "a", "queue_name": "nope"}]))
        sql.refuses("23514", query, Jsonb([{"task_type": "a"}, {"task_type": ""}]))
        sql.refuses("QU001", query, Jsonb([{"task_type": "a"}, {"task_type": "a", "priority": 40000}]))
        assert sql.value("select count(*) from pgqueue.tasks") == 0

    @pytest.mark.parametrize("tasks", [None, {}, "a", 1, {"task_type": "a"}])
    def test_it_takes_an_array_only(self, sql: Sql, tasks: object) -> None:
        sql.refuses("QU001", "select * from pgqueue.submit_many(%s)", None if tasks is None else Jsonb(tasks))

    @pytest.mark.parametrize("tasks", [[1], ["a"], [None], [[]], [[{"task_type": "a"}]], [{"task_type": "a"}, 2]])
    def test_it_takes_objects_only(self, sql: Sql, tasks: object) -> None:
        sql.refuses("QU001", "select * from pgqueue.submit_many(%s)", Jsonb(tasks))

    @pytest.mark.parametrize("key", [None, "k"])
    def test_it_refuses_a_rule_that_there_is_not(self, sql: Sql, key: str | None) -> None:
        task = {"task_type": "a", "unique_key": key, "on_conflict": "shout"}
        sql.refuses("QU001", "select * from pgqueue.submit_many(%s)", Jsonb([task]))

    def test_none_is_none(self, sql: Sql) -> None:
        assert self.submit_many(sql, []) == []

    def test_it_wakes_each_queue_once(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = listen(connect())
        sql.rows("select pgqueue.create_queue('other')")
        sleeper(sql)
        sleeper(sql, "other")
        ear.notifications()
        self.submit_many(sql, [{"task_type": "a", "queue_name": q} for q in ("default", "other") * 3])
        assert sorted(ear.notifications()) == [("pgqueue_wake", "default"), ("pgqueue_wake", "other")]

    def test_its_tasks_are_found_in_every_lane(self, sql: Sql) -> None:
        self.submit_many(sql, [{"task_type": "a", "priority": p} for p in (1, 5, 300, -300)])
        assert [row["rank"] for row in sql.claim_rows(sql.worker())] == [-300, -5, -1, 300]

    def test_a_plain_insert_after_it_in_the_same_transaction_is_checked_again(self, sql: Sql) -> None:
        sql.rows("begin")
        self.submit_many(sql, [{"task_type": "a"}])
        sql.refuses("QU101", INSERT, "report", "nope", Jsonb({}))
        sql.rows("rollback")


class TestCapacity:
    def test_a_full_queue_refuses_with_its_capacity(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('small', p_capacity => 2)")
        sql.submit(queue_name="small")
        sql.submit(queue_name="small")
        error = sql.refuses("QU401", "select pgqueue.submit('a', p_queue_name => 'small')")
        assert json.loads(error.diag.message_detail or "") == {"queue_name": "small", "capacity": 2}

    def test_a_plain_insert_and_a_bulk_submit_are_refused_alike(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('small', p_capacity => 2)")
        many = Jsonb([{"task_type": "a", "queue_name": "small"}] * 3)
        sql.refuses("QU401", "select * from pgqueue.submit_many(%s)", many)
        three = "insert into pgqueue.tasks (task_type, queue_name) select 'a', 'small' from generate_series(1, 3)"
        sql.refuses("QU401", three)
        two = Jsonb([{"task_type": "a", "queue_name": "small"}] * 2)
        sql.rows("select * from pgqueue.submit_many(%s)", two)

    def test_running_tasks_do_not_count(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('small', p_capacity => 1)")
        sql.submit(queue_name="small")
        sql.claim(sql.worker("small"), queue="small")
        sql.submit(queue_name="small")

    def test_a_taken_key_is_answered_even_when_the_queue_is_full(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('small', p_capacity => 1)")
        first = sql.submit(queue_name="small", unique_key="k")
        assert sql.submit(queue_name="small", unique_key="k") == first

    def test_the_greatest_capacity_is_none_at_all(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('huge', p_capacity => 2147483647)")
        sql.submit(queue_name="huge")

    def test_beyond_ten_thousand_the_figure_of_maintenance_counts(self, sql: Sql) -> None:
        sql.rows("select pgqueue.create_queue('big', p_capacity => 10005)")
        add = "insert into pgqueue.tasks (task_type, queue_name) select 'a', 'big' from generate_series(1, %s)"
        sql.rows("alter table pgqueue.tasks disable trigger tasks_inserted")
        sql.rows(add, 10010)
        sql.rows("alter table pgqueue.tasks enable trigger tasks_inserted")
        sql.submit(queue_name="big")
        assert sql.value("select pgqueue.maintain()")
        sql.refuses("QU401", "select pgqueue.submit('a', p_queue_name => 'big')")


class TestSilence:
    def test_notify_off_silences_a_transaction(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = listen(connect())
        sleeper(sql)
        with sql.conn.transaction():
            sql.rows("set local pgqueue.notify = off")
            sql.submit()
        assert ear.notifications() == []
        sql.submit()
        assert ear.notifications() == [("pgqueue_wake", "default")]

    def test_nobody_waits_so_nobody_is_woken(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        ear = listen(connect())
        sql.submit()
        assert ear.notifications() == []
