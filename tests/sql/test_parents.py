"""Parents and children: a task says who submitted it, for as long as either is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from tests.sql.conftest import Sql

WAYS: dict[str, str] = {
    "insert": "insert into pgqueue.tasks (task_type, parent_id) values ('work', %s) returning id",
    "submit": "select pgqueue.submit('work', p_parent_id => %s)",
    "submit_or_get": "select task_id from pgqueue.submit_or_get('work', p_parent_id => %s)",
    "submit_task": "select task_id from pgqueue.submit_task('work', p_parent_id => %s)",
    "submit_many": (
        "select task_id from pgqueue.submit_many(jsonb_build_array(jsonb_build_object("
        "'task_type', 'work', 'parent_id', %s::bigint)))"
    ),
    "submit_many with keys": (
        "select task_id from pgqueue.submit_many(jsonb_build_array(jsonb_build_object("
        "'task_type', 'work', 'unique_key', 'k', 'parent_id', %s::bigint)))"
    ),
}


def parent(sql: Sql, task_id: int) -> int | None:
    found: int | None = sql.task(task_id)["parent_id"]
    return found


def listed(sql: Sql, **given: Any) -> list[int]:  # noqa: ANN401 - arguments of SQL
    return [row["id"] for row in sql.call("list_tasks", **given)]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_submit_takes_a_parent(sql: Sql, way: str) -> None:
    """One that is not there is no error: it may have been cleaned up."""
    assert parent(sql, sql.value(WAYS[way], 4711)) == 4711


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrong", [0, -3])
def test_a_parent_that_no_task_can_be_is_refused(sql: Sql, way: str, wrong: int) -> None:
    error = sql.refuses("QU001", WAYS[way], wrong)
    assert f"parent_id must be the id of a task, not {wrong}" in str(error)
    assert sql.value("select count(*) from pgqueue.tasks") == 0


def test_without_one_there_is_none(sql: Sql) -> None:
    assert parent(sql, sql.submit()) is None
    assert parent(sql, sql.value("insert into pgqueue.tasks (task_type) values ('work') returning id")) is None


def test_it_stays_through_retries_the_end_and_a_retry_by_hand(sql: Sql) -> None:
    task_id = sql.submit(parent_id=7, max_retries=1)
    worker = sql.worker()
    sql.finish(sql.claim(worker), {"outcome": "failed", "delay": 0})
    assert (sql.status(task_id), parent(sql, task_id)) == ("pending", 7)
    sql.finish(sql.claim(worker), {"outcome": "failed"})
    assert (sql.status(task_id), parent(sql, task_id)) == ("failed", 7)
    sql.rows("select pgqueue.retry_task(%s)", task_id)
    assert (sql.status(task_id), parent(sql, task_id)) == ("pending", 7)
    sql.rows("select pgqueue.cancel_task(%s)", task_id)
    assert (sql.status(task_id), parent(sql, task_id)) == ("cancelled", 7)
    sql.rows("select pgqueue.retry_task(%s)", task_id)
    sql.finish(sql.claim(worker))
    assert (sql.status(task_id), parent(sql, task_id)) == ("completed", 7)


def test_lists_and_counts_find_the_children_live_and_finished(sql: Sql) -> None:
    sql.rows("select pgqueue.create_queue('other')")
    first, second = sql.submit(parent_id=7), sql.submit(parent_id=7, user_id="ada")
    sql.finish(sql.claim(sql.worker(), 2)[:1])
    third = sql.submit(parent_id=7, queue_name="other")
    sql.submit(parent_id=8, user_id="ada")
    sql.submit(user_id="ada")
    assert listed(sql, parent_id=7) == [third, second, first]
    assert listed(sql, parent_id=7, status="running") == [second]
    assert listed(sql, parent_id=7, status="completed") == [first]
    assert listed(sql, parent_id=7, queue_name="other") == [third]
    assert listed(sql, parent_id=7, user_id="ada") == [second]
    assert listed(sql, parent_id=7, before_id=third, limit=1) == [second]
    assert listed(sql, parent_id=9) == []
    assert sql.call("count_tasks", parent_id=7) == [{"total": 3, "is_capped": False}]
    assert sql.call("count_tasks", parent_id=7, status="pending") == [{"total": 1, "is_capped": False}]
    assert sql.value("select pgqueue.list_cursor(p_parent_id => 7)") is None
    within = sql.call("list_tasks_in", queue_names=["other"], parent_id=7)
    assert [row["id"] for row in within] == [third]
    assert sql.call("count_tasks_in", queue_names=["other"], parent_id=7) == [{"total": 1, "is_capped": False}]
    page = sql.row("select tasks from pgqueue.search_tasks(p_parent_id => 7)")["tasks"]
    assert [task["task_id"] for task in page] == [third, second, first]


def test_children_are_found_beside_many_other_tasks(sql: Sql) -> None:
    """By their index: a walk by id would end before it came to them."""
    child = sql.submit(parent_id=7)
    sql.rows("select count(*) from pgqueue.submit_many(%s)", Jsonb([{"task_type": "work"}] * 12_000))
    assert listed(sql, parent_id=7) == [child]
    assert sql.call("count_tasks", parent_id=7) == [{"total": 1, "is_capped": False}]
    done = sql.row("select tasks, next_before_id from pgqueue.search_tasks(p_parent_id => 7)")
    assert ([task["task_id"] for task in done["tasks"]], done["next_before_id"]) == ([child], None)


def test_children_outlive_their_parent(sql: Sql) -> None:
    mother = sql.submit()
    child = sql.submit(parent_id=mother)
    sql.rows("select pgqueue.cancel_task(%s)", mother)
    operation = sql.value("select pgqueue.start_operation('delete', '{\"all\": true}')")
    sql.rows("select * from pgqueue.step_operation(%s)", operation)
    sql.refuses("QU102", "select * from pgqueue.get_task(%s)", mother)
    assert (sql.status(child), parent(sql, child)) == ("pending", mother)


def test_an_operation_takes_the_children_of_a_task(sql: Sql) -> None:
    mine = [sql.submit(parent_id=7) for _ in range(2)]
    other = sql.submit(parent_id=8)
    chosen = Jsonb({"parent_id": 7})
    assert sql.value("select matched from pgqueue.preview_operation('cancel', %s)", chosen) == 2
    operation = sql.value("select pgqueue.start_operation('cancel', %s)", chosen)
    sql.rows("select * from pgqueue.step_operation(%s)", operation)
    assert [sql.status(task_id) for task_id in (*mine, other)] == ["cancelled", "cancelled", "pending"]
    sql.refuses("22P02", "select * from pgqueue.preview_operation('cancel', %s)", Jsonb({"parent_id": "x"}))
