"""Errors: one class a SQLSTATE, with all that PostgreSQL said, for people and for programs."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgqueue import errors
from pgqueue.errors import (
    BY_SQLSTATE,
    DatabaseUnavailable,
    DuplicateTask,
    InvalidInput,
    PgqueueError,
    QueueNotFound,
    SchemaMismatch,
    from_postgres,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.embedded import Server

    Connection = psycopg.Connection[Any]


@pytest.fixture(scope="module")
def plain(server: Server) -> Iterator[Connection]:
    """A connection to a database without pgqueue's schema."""
    server.create_database("errors")
    with psycopg.connect(server.dsn("errors"), autocommit=True) as conn:
        yield conn


def failure(conn: Connection, statement: str) -> PgqueueError:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement.encode())
    return from_postgres(caught.value)


def raising(state: str, *, message: str = "no", detail: str = "{}", hint: str = "try") -> str:
    return (
        f"do $$ begin raise exception using errcode = '{state}', message = '{message}', "
        f"detail = '{detail}', hint = '{hint}'; end $$"
    )


def test_the_table_holds_the_contracts_states() -> None:
    assert {state: kind.__name__ for state, kind in BY_SQLSTATE.items()} == {
        "QU001": "InvalidInput",
        "QU101": "QueueNotFound",
        "QU102": "TaskNotFound",
        "QU103": "ScheduleNotFound",
        "QU104": "KeyNotFound",
        "QU105": "OperationNotFound",
        "QU106": "WorkerNotFound",
        "QU201": "InvalidTransition",
        "QU202": "DuplicateTask",
        "QU203": "IdempotencyConflict",
        "QU301": "LeaseLost",
        "QU401": "QueueFull",
        "QU501": "SchemaMismatch",
        "QU601": "Unauthenticated",
        "QU602": "Forbidden",
        "QU603": "RateLimited",
    }


@pytest.mark.parametrize("state", sorted(BY_SQLSTATE))
def test_each_private_state_becomes_its_class_with_message_detail_and_hint(plain: Connection, state: str) -> None:
    error = failure(plain, raising(state, message="queue x is gone", detail='{"queue_name": "x"}', hint="make it"))
    assert type(error) is BY_SQLSTATE[state]
    assert (error.message, error.detail, error.hint) == ("queue x is gone", {"queue_name": "x"}, "make it")
    assert error.sqlstate == state
    assert str(error) == "queue x is gone (hint: make it)"


def test_a_detail_that_is_no_object_is_kept(plain: Connection) -> None:
    assert failure(plain, raising("QU101", detail="row 3")).detail == {"detail": "row 3"}
    assert failure(plain, raising("QU101", detail="[3]")).detail == {"detail": [3]}


@pytest.mark.parametrize(
    ("statement", "state", "said"),
    [
        ("select 'x'::integer", "22P02", r'cannot be read as its type: invalid input syntax for type integer: "x"'),
        ("select '\"\\u0000\"'::jsonb", "22P05", r"u0000, which PostgreSQL cannot store"),
        ("select 99999::smallint", "22003", r"out of range"),
        ("select 'soon'::timestamptz", "22007", r'cannot be read: invalid input syntax .* "soon"'),
        ("select '2026-13-01'::date", "22008", r"out of range: .*2026-13-01"),
        ("create temp table w (a varchar(2)); insert into w values ('abc')", "22001", r"longer than its column"),
        ("create temp table n (a int not null); insert into n values (null)", "23502", r"missing \(a\)"),
        ("create temp table c (a int constraint c_a check (a > 0)); insert into c values (0)", "23514", r"\(c_a\)"),
    ],
)
def test_a_refused_value_is_invalid_input_with_its_cause(
    plain: Connection, statement: str, state: str, said: str
) -> None:
    error = failure(plain, statement)
    assert isinstance(error, InvalidInput)
    assert error.sqlstate == state
    with pytest.raises(InvalidInput, match=said):
        raise error


def test_a_constraint_that_was_broken_is_named_in_the_detail(plain: Connection) -> None:
    statement = "create temp table d (a int constraint d_positive check (a > 0)); insert into d values (0)"
    assert failure(plain, statement).detail["constraint"] == "d_positive"


def test_a_taken_unique_key_is_a_duplicate_task_and_another_unique_index_is_not(plain: Connection) -> None:
    table = "create temp table if not exists k (a int constraint k_pkey primary key, b int);"
    plain.execute(table.encode() + b" create unique index tasks_unique_live on k (b); insert into k values (1, 1)")
    taken = failure(plain, "insert into k values (2, 1)")
    assert isinstance(taken, DuplicateTask)
    assert taken.sqlstate == "23505"
    assert type(failure(plain, "insert into k values (1, 2)")) is PgqueueError


def test_the_real_schema_raises_what_python_maps(conn: Connection) -> None:
    missing = failure(conn, "insert into pgqueue.tasks (task_type, queue_name) values ('t', 'nowhere')")
    assert isinstance(missing, QueueNotFound)
    assert missing.hint
    assert missing.detail
    insert = "insert into pgqueue.tasks (task_type, unique_key) values ('t', 'k')"
    conn.execute(insert.encode())
    assert isinstance(failure(conn, insert), DuplicateTask)


def test_no_server_or_no_database_is_unavailable(server: Server) -> None:
    for dsn in (server.dsn("nowhere"), "host=/nowhere dbname=x"):
        with pytest.raises(psycopg.OperationalError) as caught:
            psycopg.connect(dsn)
        error = from_postgres(caught.value)
        assert isinstance(error, DatabaseUnavailable)
        assert error.hint


def test_a_connection_that_was_ended_is_unavailable(server: Server) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        ended = failure(conn, "select pg_terminate_backend(pg_backend_pid())")
        assert isinstance(ended, DatabaseUnavailable)
        assert ended.sqlstate == "57P01"
        assert isinstance(failure(conn, "select 1"), DatabaseUnavailable)


def test_a_missing_schema_says_how_to_make_it_and_another_missing_table_does_not(plain: Connection) -> None:
    error = failure(plain, "select * from pgqueue.tasks")
    assert isinstance(error, SchemaMismatch)
    assert error.hint == "run: pgqueue migrate"
    assert type(failure(plain, "select * from elsewhere")) is PgqueueError


def test_what_is_not_ours_keeps_its_state(plain: Connection) -> None:
    error = failure(plain, "select 1/0")
    assert type(error) is PgqueueError
    assert (error.sqlstate, error.message) == ("22012", "division by zero")


def test_a_lack_of_rights_has_a_hint(plain: Connection) -> None:
    plain.execute("create role nobody_at_all; create table secret ()")
    error = failure(plain, "set local role nobody_at_all; select * from secret")
    assert error.sqlstate == "42501"
    assert error.hint is not None
    assert "roles" in error.hint


def test_an_error_survives_pickling() -> None:
    error = errors.TaskFailed("it broke", detail={"task_id": 7}, hint="look", sqlstate="QU999")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is errors.TaskFailed
    assert vars(copy) == vars(error)


def test_every_rule_for_what_users_give_is_told_in_words(conn: Connection) -> None:
    refused = failure(conn, "insert into pgqueue.tasks (task_type) values ('')")
    assert refused.hint == "a task type has 1 to 200 characters, without control characters"
    rules = conn.execute(
        "select conname from pg_constraint where contypid <> 0 and connamespace = 'pgqueue'::regnamespace"
    )
    assert {name for (name,) in rules} <= errors._RULES.keys()
