"""What the schema promises to people and clients: comments, names, settings, and what its source may hold."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgqueue import schema
from pgqueue.errors import BY_SQLSTATE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pgqueue.embedded import Server

    Connection = psycopg.Connection[Any]

FILES = sorted(schema.sql_root().rglob("*.sql"))
SQLSTATES = {
    *("QU001", "QU101", "QU102", "QU103", "QU104", "QU105", "QU106", "QU201", "QU202", "QU203"),
    *("QU301", "QU401", "QU501"),
    *("QU601", "QU602", "QU603"),
}
SUBMIT = (
    "p_task_type p_payload p_queue_name p_priority p_max_retries p_timeout p_run_at p_unique_key p_user_id p_project_id"
)
FUNCTIONS = {
    "submit": SUBMIT,
    "submit_or_get": SUBMIT,
    "submit_task": SUBMIT,
    "submit_many": "p_tasks",
    "cancel_task": "p_id",
    "retry_task": "p_id",
    "update_progress": "p_id p_progress p_message",
    "create_queue": "p_name p_concurrency",
    "pause_queue": "p_name p_reason",
    "resume_queue": "p_name",
    "queue_stats": "p_name",
    "task_statistics": "p_from p_to p_queue_names",
    "cleanup": "p_age",
    "why_waiting": "p_id",
}
COLUMNS = {
    "tasks": "id task_type queue_name priority payload status max_retries timeout run_at unique_key user_id"
    " project_id metadata attempt failures crashes worker_id created_at started_at",
    "finished_tasks": "id task_type queue_name priority payload status finished_at result error progress",
    "all_tasks": "id task_type queue_name priority payload status max_retries timeout run_at unique_key user_id"
    " project_id metadata attempt failures crashes worker_id created_at started_at finished_at result error",
    "executions": "task_id attempt worker_id started_at finished_at outcome error_type error_message traceback",
    "queues": "name concurrency capacity paused_at",
    "workers": "id hostname pid queues heartbeat_at lost_at",
    "claims": "worker_id ids claimed_at",
    "task_progress": "task_id progress message",
    "task_logs": "task_id attempt logged_at level message fields",
    "queue_overview": "name",
    "running_tasks": "id",
    "failed_tasks": "id",
    "retrying_tasks": "id",
    "stuck_tasks": "id reason",
    "worker_overview": "id",
    "health": "oldest_transaction dead_tasks notify_queue_usage missing_partitions",
}
DEFAULTS = {
    "queue_name": "'default'::text",
    "priority": "5",
    "payload": "'{}'",
    "status": "'pending'::text",
    "max_retries": "3",
    "attempt": "0",
    "failures": "0",
    "crashes": "0",
    "run_at": "clock_timestamp()",
    "created_at": "clock_timestamp()",
}


@pytest.fixture(scope="module")
def conn(server: Server, template: str) -> Iterator[Connection]:
    """One database for all of these tests: they only read it."""
    with psycopg.connect(server.dsn(), autocommit=True) as maker:
        maker.execute(f"create database schema_contract template {template}".encode())
    with psycopg.connect(server.dsn("schema_contract"), autocommit=True) as connection:
        yield connection


def column(conn: Connection, query: str, *params: object) -> list[Any]:
    return [row[0] for row in conn.execute(query.encode(), params or None)]


def without_comments(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


def without_strings(text: str) -> str:
    """Drop comments and quoted strings, which may hold any word."""
    return re.sub(r"'(?:[^']|'')*'", "''", without_comments(text))


class TestComments:
    def test_every_table_and_view_has_one(self, conn: Connection) -> None:
        names = column(
            conn,
            "select c.oid::regclass::text from pg_class c where c.relnamespace = 'pgqueue'::regnamespace"
            " and c.relkind in ('r', 'p', 'v') and not c.relispartition and obj_description(c.oid, 'pg_class') is null",
        )
        assert names == []

    def test_every_column_of_a_table_has_one(self, conn: Connection) -> None:
        names = column(
            conn,
            "select format('%s.%s', c.relname, a.attname) from pg_class c"
            " join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
            " where c.relnamespace = 'pgqueue'::regnamespace and c.relkind in ('r', 'p')"
            " and col_description(c.oid, a.attnum) is null",
        )
        assert names == []

    def test_every_function_has_one(self, conn: Connection) -> None:
        names = column(
            conn,
            "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"
            " and obj_description(p.oid, 'pg_proc') is null",
        )
        assert names == []

    def test_every_domain_has_one(self, conn: Connection) -> None:
        names = column(
            conn,
            "select t.typname from pg_type t where t.typnamespace = 'pgqueue'::regnamespace and t.typtype in ('d', 'e')"
            " and obj_description(t.oid, 'pg_type') is null",
        )
        assert names == []


class TestNames:
    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_functions_have_the_parameters_that_others_use(self, conn: Connection, name: str) -> None:
        [arguments] = column(
            conn, "select proargnames from pg_proc where pronamespace = 'pgqueue'::regnamespace and proname = %s", name
        )
        expected = FUNCTIONS[name].split()
        assert arguments[: len(expected)] == expected

    @pytest.mark.parametrize("name", ["submit", "submit_or_get", "submit_task"])
    def test_all_but_the_type_is_optional(self, conn: Connection, name: str) -> None:
        [(count, defaults)] = conn.execute(
            "select pronargs, pronargdefaults from pg_proc where oid = %s::regproc", (f"pgqueue.{name}",)
        )
        assert count - defaults == 1

    @pytest.mark.parametrize("relation", COLUMNS)
    def test_tables_and_views_have_the_columns_that_others_read(self, conn: Connection, relation: str) -> None:
        present = column(
            conn, "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0", f"pgqueue.{relation}"
        )
        assert set(COLUMNS[relation].split()) <= set(present)

    @pytest.mark.parametrize("name", DEFAULTS)
    def test_a_plain_insert_gets_the_defaults(self, conn: Connection, name: str) -> None:
        [default] = column(
            conn,
            "select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d"
            " join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum"
            " where d.adrelid = 'pgqueue.tasks'::regclass and a.attname = %s",
            name,
        )
        assert default.startswith(DEFAULTS[name])

    def test_ids_are_identities_of_64_bits(self, conn: Connection) -> None:
        rows = conn.execute(
            "select format_type(atttypid, -1), attidentity::text from pg_attribute"
            " where attrelid in ('pgqueue.tasks'::regclass, 'pgqueue.workers'::regclass) and attname = 'id'"
        ).fetchall()
        assert rows == [("bigint", "a")] * 2

    @pytest.mark.parametrize("table", ["finished_tasks", "attempts", "task_logs"])
    def test_history_is_partitioned_by_day(self, conn: Connection, table: str) -> None:
        [strategy] = column(
            conn, "select partstrat::text from pg_partitioned_table where partrelid = %s::regclass", f"pgqueue.{table}"
        )
        assert strategy == "r"

    def test_arguments_are_named_with_p_and_functions_for_insiders_with_an_underscore(self, conn: Connection) -> None:
        rows = conn.execute(
            "select proname, coalesce(proargnames, '{}'), pronargs from pg_proc"
            " where pronamespace = 'pgqueue'::regnamespace"
        )
        wrong = [
            f"{name}({argument})"
            for name, arguments, count in rows
            for argument in arguments[:count]
            if not argument.startswith("p_")
        ]
        assert wrong == []


class TestSettings:
    def test_definers_pin_the_search_path(self, conn: Connection) -> None:
        loose = column(
            conn,
            "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"
            " and p.prosecdef and not coalesce(p.proconfig, '{}') && array['search_path=\"\"', 'search_path=']",
        )
        assert loose == []

    def test_what_switches_a_method_off_switches_compiling_off(self, conn: Connection) -> None:
        """A switched-off method makes a plan look so dear that it is compiled, for a second, at each call."""
        rows = conn.execute(
            "select p.proname, p.proconfig from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"
            " and p.proconfig is not null"
        ).fetchall()
        switched = [(name, config) for name, config in rows if any(c.startswith("enable_") for c in config)]
        assert len(switched) > 10
        assert [name for name, config in switched if "jit=off" not in config] == []

    @pytest.mark.parametrize("name", ["claim", "finish", "_lock_running", "_put_back"])
    def test_the_hot_path_plans_once(self, conn: Connection, name: str) -> None:
        [config] = column(conn, "select proconfig from pg_proc where oid = %s::regproc", f"pgqueue.{name}")
        assert "plan_cache_mode=force_generic_plan" in config

    def test_no_extension_is_needed(self, conn: Connection) -> None:
        assert column(conn, "select extname from pg_extension") == ["plpgsql"]

    def test_hot_tables_leave_room_on_their_pages(self, conn: Connection) -> None:
        rows = conn.execute(
            "select c.relname, c.reloptions from pg_class c where c.relnamespace = 'pgqueue'::regnamespace"
            " and c.relname in ('tasks', 'workers', 'claims', 'waits', 'task_progress')"
        ).fetchall()
        assert len(rows) == 5
        for name, options in rows:
            assert any(option.startswith("fillfactor=") for option in options), name
            assert any(option.startswith("autovacuum_vacuum_threshold=") for option in options), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
class TestSource:
    def test_dynamic_sql_is_for_partitions_only(self, path: Path) -> None:
        dynamic = re.findall(r"\bexecute\b(?!\s+(?:function|on)\b)", without_strings(path.read_text()), re.IGNORECASE)
        assert not dynamic or path.name in {"020_partitions.sql", "0014_attempts.sql", "grants.sql"}

    def test_exceptions_are_caught_for_roles_only(self, path: Path) -> None:
        caught = re.findall(r"\bexception\s+when\b", without_strings(path.read_text()), re.IGNORECASE)
        assert not caught or path.name == "grants.sql"

    def test_sqlstates_are_those_of_the_contract(self, path: Path) -> None:
        text = without_comments(path.read_text())
        raised = re.findall(r"errcode = '(\w+)'", text)
        assert set(raised) <= SQLSTATES
        assert len(raised) == len(re.findall(r"\braise\s+exception\b", text))

    def test_errors_teach(self, path: Path) -> None:
        for block in re.findall(r"raise exception.*?;\n", path.read_text(), re.DOTALL):
            for part in ("message = ", "detail = jsonb_build_object(", "hint = "):
                assert part in block, block

    def test_structure_holds_no_functions(self, path: Path) -> None:
        made = re.findall(
            r"\bcreate\s+(?:or\s+replace\s+)?(?:function|procedure|trigger|view|rule)\b",
            without_strings(path.read_text()),
        )
        assert not made or path.parent.name == "functions"

    def test_functions_hold_no_structure(self, path: Path) -> None:
        made = re.findall(
            r"\b(?:create|alter|drop)\s+(?:unique\s+)?(?:table|index|sequence|domain|type)\b",
            without_strings(path.read_text()),
        )
        assert not made or path.parent.name == "structure"

    def test_whatever_is_made_can_be_made_again(self, path: Path) -> None:
        if path.parent.name != "functions":
            return
        made = re.findall(r"\bcreate\s+(?!or\s+replace\b)\w+", without_strings(path.read_text()))
        assert made == []

    def test_it_stays_within_postgresql_14(self, path: Path) -> None:
        newer = (
            r"\b(?:merge\s+into|nulls\s+not\s+distinct|security_invoker|any_value|uuidv7|system_user|pg_input_is_valid"
            r"|json_(?:table|scalar|serialize|exists)|regexp_(?:like|count|instr|substr))\b"
        )
        assert re.findall(newer, without_strings(path.read_text()), re.IGNORECASE) == []

    def test_every_function_is_schema_qualified(self, path: Path) -> None:
        made = re.findall(
            r"\bcreate\s+(?:or\s+replace\s+)?(?:function|view|table|domain|sequence)\s+(\S+)",
            without_strings(path.read_text()),
        )
        assert all(name.startswith("pgqueue.") for name in made), made


def test_every_sqlstate_of_the_contract_has_its_exception() -> None:
    assert set(BY_SQLSTATE) == SQLSTATES
