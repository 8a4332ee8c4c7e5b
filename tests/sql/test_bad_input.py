"""Bad input by SQL: refused with a reason, or kept whole; never half."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from tests.sql.conftest import Lease, Sql

MIB = 1024 * 1024
HOSTILE = [
    "'; drop table pgqueue.tasks; --",
    "\"double\" 'single' $$dollar$$ \\back %s %% {} %(x)s",
    "line\nfeed\ttab\rreturn\x1b[31mred\x7f\u200b\u202e\ufeff",
    "😀" * 500,
    "<script>alert(1)</script>",
    "null",
    "",
    " ",
]


def start(sql: Sql) -> Lease:
    sql.submit()
    [lease] = sql.claim(sql.worker())
    return lease


def insert(sql: Sql, sqlstate: str, **columns: object) -> None:
    """Both ways in must refuse: the plain insert and the function."""
    given = {"task_type": "a", **columns}
    marks = ", ".join(["%s"] * len(given))
    sql.refuses(sqlstate, f"insert into pgqueue.tasks ({', '.join(given)}) values ({marks})", *given.values())


def submit(sql: Sql, sqlstate: str, **arguments: object) -> None:
    given = {"task_type": "a", **arguments}
    named = ", ".join(f"p_{name} => %s" for name in given)
    sql.refuses(sqlstate, f"select pgqueue.submit({named})", *given.values())


@pytest.mark.parametrize("payload", ['{"a": "\\u0000"}', '"\\u0000"', '{"\\u0000": 1}'])
def test_a_nul_cannot_be_kept(sql: Sql, payload: str) -> None:
    insert(sql, "22P05", payload=payload)
    submit(sql, "22P05", payload=payload)


@pytest.mark.parametrize("payload", ["NaN", "Infinity", "-Infinity", '{"a": NaN}', "{", "", "'a'", '{"a": "\\ud800"}'])
def test_what_is_not_json_is_refused(sql: Sql, payload: str) -> None:
    insert(sql, "22P02", payload=payload)
    submit(sql, "22P02", payload=payload)


def test_ten_mebibytes_are_too_much(sql: Sql) -> None:
    payload = Jsonb({"a": "x" * 10 * MIB})
    insert(sql, "23514", payload=payload)
    submit(sql, "23514", payload=payload)
    sql.refuses(
        "23514", "select * from pgqueue.submit_many(%s)", Jsonb([{"task_type": "a", "payload": "x" * 10 * MIB}])
    )
    insert(sql, "23514", metadata=Jsonb("m" * 65_536))


def test_just_under_a_mebibyte_comes_back_whole(sql: Sql) -> None:
    payload = {"a": "x" * (MIB - 100)}
    task_id = sql.submit(payload=payload)
    [lease] = sql.claim(sql.worker())
    sql.finish([lease], {"outcome": "failed", "permanent": True})
    sql.rows("select pgqueue.retry_task(%s)", task_id)
    assert sql.task(task_id)["payload"] == payload


def test_an_unknown_queue_is_refused(sql: Sql) -> None:
    insert(sql, "QU101", queue_name="nope")
    submit(sql, "QU101", queue_name="nope")
    insert(sql, "QU101", queue_name="")


@pytest.mark.parametrize("timeout", [-1, 0, 31_536_001])
def test_a_timeout_is_a_positive_time_of_at_most_a_year(sql: Sql, timeout: int) -> None:
    insert(sql, "23514", timeout=timeout)
    submit(sql, "23514", timeout=timeout)


@pytest.mark.parametrize("task_type", ["", "t" * 201, "t" * 300, "a\nb", "a\x00b".replace("\x00", "\x01"), "\x7f"])
def test_a_type_is_a_readable_name(sql: Sql, task_type: str) -> None:
    insert(sql, "23514", task_type=task_type)
    submit(sql, "23514", task_type=task_type)


def test_a_type_is_needed(sql: Sql) -> None:
    insert(sql, "23502", task_type=None)
    submit(sql, "23502", task_type=None)


@pytest.mark.parametrize(
    "columns",
    [
        {"unique_key": ""},
        {"unique_key": "k" * 501},
        {"user_id": "u" * 300},
        {"project_id": "p" * 300},
        {"max_retries": -1},
        {"max_retries": 10_001},
    ],
)
def test_other_fields_have_bounds_too(sql: Sql, columns: dict[str, object]) -> None:
    insert(sql, "23514", **columns)
    submit(sql, "23514", **columns)


@pytest.mark.parametrize("run_at", ["infinity", "9999-01-01 00:00+00", "3000-01-01 00:00+00"])
def test_a_moment_lies_in_this_millennium(sql: Sql, run_at: str) -> None:
    insert(sql, "23514", run_at=run_at)
    submit(sql, "23514", run_at=run_at)


@pytest.mark.parametrize("run_at", ["-infinity", "1969-12-31 23:59+00"])
def test_a_moment_before_time_began_is_refused_or_means_now(sql: Sql, run_at: str) -> None:
    insert(sql, "23514", run_at=run_at)
    assert sql.task(sql.submit(run_at=run_at))["run_at"].year >= 2024


@pytest.mark.parametrize("priority", [-32_769, 32_768, 2_000_000_000])
def test_a_priority_is_a_smallint(sql: Sql, priority: int) -> None:
    insert(sql, "22003", priority=priority)
    submit(sql, "QU001", priority=priority)


@pytest.mark.parametrize("status", ["running", "completed", "failed", "cancelled", "blocked", "nonsense", ""])
def test_a_task_starts_as_pending(sql: Sql, status: str) -> None:
    error = sql.refuses("QU001", "insert into pgqueue.tasks (task_type, status) values ('a', %s)", status)
    assert error.diag.message_hint == "Leave status out; use run_at to start it later."
    whole = (
        "insert into pgqueue.tasks (task_type, status, worker_id, claim_no, started_at) values ('a', %s, 1, 1, now())"
    )
    sql.refuses("QU001", whole, status)


@pytest.mark.parametrize(
    "columns",
    [
        {"worker_id": 1},
        {"started_at": "2030-01-01 00:00+00"},
        {"cancel_requested_at": "2030-01-01 00:00+00"},
        {"waits_for": -1},
        {"waits_for": 1},
    ],
)
def test_an_insert_cannot_make_a_state_that_is_none(sql: Sql, columns: dict[str, object]) -> None:
    insert(sql, "23514", **columns)


def test_ids_are_given_not_taken(sql: Sql) -> None:
    insert(sql, "428C9", id=5)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_texts_come_back_as_they_were(sql: Sql, text: str) -> None:
    options: dict[str, object] = {"payload": {"t": text, text: 1}, "metadata": {"t": text}, "user_id": text[:200]}
    task_id = sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker())
    sql.rows("select pgqueue.update_progress(%s, 1, %s, %s)", task_id, text, text)
    failure = {"outcome": "failed", "permanent": True, "error_type": text, "error_message": text, "traceback": text}
    assert sql.finish([lease], failure, results=[{"t": text}]) == []
    task = sql.task(task_id)
    assert (task["payload"], task["metadata"], task["user_id"]) == ({"t": text, text: 1}, {"t": text}, text[:200])
    assert (task["result"], task["progress"]["message"]) == ({"t": text}, text)
    [row] = sql.rows("select * from pgqueue.get_executions(%s)", task_id)
    assert (row["error_type"], row["error_message"], row["traceback"]) == (text, text, text)
    assert sql.value("select to_regclass('pgqueue.tasks') is not null")


def test_huge_errors_are_cut_to_64_thousand_characters(sql: Sql) -> None:
    lease = start(sql)
    huge = "é" * 100_000
    failure = {"outcome": "failed", "permanent": True, "error_type": huge, "error_message": huge, "traceback": huge}
    assert sql.finish([lease], failure) == []
    assert len(sql.task(lease.id)["error"]) == 65_536
    [row] = sql.rows("select * from pgqueue.get_executions(%s)", lease.id)
    assert (len(row["error_message"]), len(row["traceback"])) == (65_536, 65_536)
    assert len(row["error_type"]) <= 65_536


def test_a_huge_reason_is_cut(sql: Sql) -> None:
    waiting, running = sql.submit(run_at="2099-01-01 00:00+00"), start(sql)
    for task_id in (waiting, running.id):
        sql.rows("select pgqueue.cancel_task(%s, %s)", task_id, "r" * MIB)
    sql.finish([running], {"outcome": "cancelled"})
    assert [len(sql.task(task_id)["error"]) for task_id in (waiting, running.id)] == [65_536, 65_536]


@pytest.mark.parametrize("when", ["running", "finished"])
def test_a_result_of_ten_mebibytes_is_too_much(sql: Sql, when: str) -> None:
    lease = start(sql)
    if when == "finished":
        sql.finish([lease])
    sql.refuses("23514", "select pgqueue.set_task_result(%s, to_jsonb(repeat('x', 10485760)))", lease.id)


def test_a_finish_with_a_result_that_is_too_big_changes_nothing(sql: Sql) -> None:
    lease = start(sql)
    huge = "array[to_jsonb(repeat('x', 10485760))]"
    sql.refuses("23514", f"select pgqueue.finish(array[%s::bigint], array[%s::int], null, {huge})", *lease)
    assert sql.status(lease.id) == "running"
    assert sql.finish([lease]) == []


@pytest.mark.parametrize("delay", [-1, 31_536_001, 1e300, "NaN", "Infinity"])
def test_a_delay_lies_between_nought_and_a_year(sql: Sql, delay: object) -> None:
    lease = start(sql)
    failure = Jsonb({"outcome": "failed", "delay": delay})
    query = "select pgqueue.finish(array[%s::bigint], array[%s::int], null, null, array[%s::jsonb])"
    sql.refuses("QU001", query, *lease, failure)
    assert sql.status(lease.id) == "running"


@pytest.mark.parametrize(
    "failure", [{}, {"outcome": "exploded"}, {"outcome": None}, {"outcome": "completed"}, [], "failed", None]
)
def test_an_outcome_that_there_is_not_changes_nothing(sql: Sql, failure: object) -> None:
    lease = start(sql)
    query = "select pgqueue.finish(array[%s::bigint], array[%s::int], null, null, array[%s::jsonb])"
    sql.refuses("QU001", query, *lease, Jsonb(failure))
    assert sql.status(lease.id) == "running"
    assert sql.outcomes(lease.id) == []


@pytest.mark.parametrize("elapsed_us", [-1, -(10**18), 10**18])
def test_an_absurd_elapsed_time_is_brought_within_the_attempt(sql: Sql, elapsed_us: int) -> None:
    lease = start(sql)
    claimed_at = sql.task(lease.id)["started_at"]
    assert sql.finish([lease], elapsed_us=[elapsed_us]) == []
    task = sql.task(lease.id)
    assert claimed_at <= task["started_at"] <= task["finished_at"]


def test_too_few_attempts_settle_nothing(sql: Sql) -> None:
    lease = start(sql)
    assert sql.value("select pgqueue.finish(array[%s::bigint], '{}')", lease.id) == [lease.id]
    assert sql.status(lease.id) == "running"
