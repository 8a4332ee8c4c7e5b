"""The migrator: everything once, functions again, and never a step back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pgqueue import schema
from pgqueue.errors import ConfigurationError, DatabaseUnavailable, PgqueueError, SchemaMismatch
from pgqueue.schema import ledger, migrator

if TYPE_CHECKING:
    from pathlib import Path

    from pgqueue.embedded import Server

    Connection = psycopg.Connection[Any]

STRUCTURE = "create table pgqueue.things (id bigint); insert into pgqueue.things values (1);"
FUNCTION = "create or replace function pgqueue.answer() returns int language sql as 'select 42';"
INSTALL = "import sys; from pgqueue import schema; print(len(schema.migrate(sys.argv[1]).applied))"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small tree of SQL files."""
    write(tmp_path, "structure/0001_things.sql", STRUCTURE)
    write(tmp_path, "functions/010_answer.sql", FUNCTION)
    write(tmp_path, "grants.sql", "grant usage on schema pgqueue to public;")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_text(text + "\n")


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row and row[0]


def status(dsn: str, root: Path) -> schema.Status:
    with psycopg.connect(dsn) as conn:
        return schema.check(conn, root)


def program(server: Server, name: str) -> str:
    """The server's own program; where its package has none, that of PATH."""
    own = server.binaries.bindir / name
    return str(own if own.exists() else shutil.which(name))


def dump(dsn: str, server: Server) -> str:
    """Return the schema as pg_dump writes it, without the ledger's data and random tokens."""
    command = [program(server, "pg_dump"), "--schema-only", dsn]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def test_a_fresh_database_gets_all_in_order_and_then_nothing(empty_dsn: str, root: Path) -> None:
    write(root, "structure/0002_more.sql", "alter table pgqueue.things add note text;")
    report = schema.migrate(empty_dsn, root)
    assert report.applied == (
        "structure/0001_things.sql",
        "structure/0002_more.sql",
        "functions/010_answer.sql",
        "grants.sql",
    )
    assert schema.migrate(empty_dsn, root).applied == ()
    assert ask(empty_dsn, "select count(*) from pgqueue.things") == 1
    assert ask(empty_dsn, "select pgqueue.answer()") == 42


def test_the_real_schema_installs_and_checks(empty_dsn: str) -> None:
    assert schema.migrate(empty_dsn).applied
    assert status(empty_dsn, schema.sql_root()).newer is False


def test_a_plan_changes_nothing(empty_dsn: str, root: Path) -> None:
    with psycopg.connect(empty_dsn) as conn:
        plan = schema.plan(conn, root)
        assert [file.name for file in plan.files][-1] == "grants.sql"
        assert not plan.current
    assert ask(empty_dsn, "select to_regnamespace('pgqueue')") is None


def test_twenty_installers_at_once_install_once(empty_dsn: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        reports = list(pool.map(lambda _: schema.migrate(empty_dsn), range(20)))
    assert sorted(bool(report.applied) for report in reports) == [False] * 19 + [True]


def test_installers_in_processes_install_once(empty_dsn: str) -> None:
    command = [sys.executable, "-c", INSTALL, empty_dsn]
    installers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    counts = sorted(int(installer.communicate()[0]) for installer in installers)
    assert counts[:3] == [0, 0, 0]
    assert counts[3] > 0


def test_a_function_that_changed_is_applied_again_and_structure_is_not(empty_dsn: str, root: Path) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "functions/010_answer.sql", FUNCTION.replace("42", "43"))
    with pytest.raises(SchemaMismatch, match="lacks 2 files"):
        status(empty_dsn, root)
    assert schema.migrate(empty_dsn, root).applied == ("functions/010_answer.sql", "grants.sql")
    assert ask(empty_dsn, "select pgqueue.answer()") == 43
    assert ask(empty_dsn, "select count(*) from pgqueue.things") == 1


def test_a_function_file_that_is_gone_leaves_the_ledger(empty_dsn: str, root: Path) -> None:
    write(root, "functions/020_other.sql", "create or replace view pgqueue.one as select 1 as one;")
    schema.migrate(empty_dsn, root)
    (root / "functions" / "020_other.sql").unlink()
    schema.migrate(empty_dsn, root)
    assert ask(empty_dsn, "select count(*) from pgqueue.migrations where name like 'functions/%'") == 1
    assert not status(empty_dsn, root).newer


def test_grants_that_changed_are_applied_alone(empty_dsn: str, root: Path) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "grants.sql", "revoke all on schema pgqueue from public;")
    assert schema.migrate(empty_dsn, root).applied == ("grants.sql",)


def test_a_structure_file_that_changed_is_refused_by_name(empty_dsn: str, root: Path) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "structure/0001_things.sql", STRUCTURE + " -- better")
    for act in (lambda: schema.migrate(empty_dsn, root), lambda: status(empty_dsn, root)):
        with pytest.raises(SchemaMismatch, match=r"structure/0001_things\.sql was applied .* frozen"):
            act()


def test_older_code_works_with_a_newer_schema_and_does_not_take_its_functions_back(empty_dsn: str, root: Path) -> None:
    newer = "structure/0002_more.sql"
    write(root, newer, "alter table pgqueue.things add note text;")
    write(root, "functions/010_answer.sql", FUNCTION.replace("42", "43"))
    schema.migrate(empty_dsn, root)
    (root / newer).unlink()
    write(root, "functions/010_answer.sql", FUNCTION)
    assert status(empty_dsn, root).newer
    report = schema.migrate(empty_dsn, root)
    assert (report.applied, report.newer) == ((), True)
    assert ask(empty_dsn, "select pgqueue.answer()") == 43


def test_an_older_release_does_not_take_functions_back(
    empty_dsn: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ledger, migrator):
        monkeypatch.setattr(module, "code_version", lambda: "0.10.0")
    schema.migrate(empty_dsn, root)
    for module in (ledger, migrator):
        monkeypatch.setattr(module, "code_version", lambda: "0.9.3")
    write(root, "functions/010_answer.sql", FUNCTION.replace("42", "41"))
    report = schema.migrate(empty_dsn, root)
    assert (report.applied, report.newer) == ((), True)
    assert status(empty_dsn, root).database_release == "0.10.0"


def test_older_code_refuses_a_schema_with_a_newer_breaking_file(empty_dsn: str, root: Path) -> None:
    write(root, "structure/0002_break.sql", "-- pgqueue: breaking\nalter table pgqueue.things rename to objects;")
    schema.migrate(empty_dsn, root)
    (root / "structure" / "0002_break.sql").unlink()
    for act in (lambda: schema.migrate(empty_dsn, root), lambda: status(empty_dsn, root)):
        with pytest.raises(SchemaMismatch, match=r"newer pgqueue \(structure/0002_break\.sql\).*upgrade pgqueue"):
            act()


def test_a_failing_file_is_named_with_its_line_and_nothing_stays(empty_dsn: str, root: Path) -> None:
    write(root, "functions/020_wrong.sql", "\n-- Ä: counts as one\n\nselect * from pgqueue.missing;")
    with pytest.raises(PgqueueError, match=r'functions/020_wrong\.sql, line 4: relation "pgqueue\.missing"') as caught:
        schema.migrate(empty_dsn, root)
    assert caught.value.sqlstate == "42P01"
    assert ask(empty_dsn, "select to_regnamespace('pgqueue')") is None


def test_a_lock_on_a_table_is_waited_for_in_short_tries(
    empty_dsn: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "structure/0002_more.sql", "alter table pgqueue.things add note text;")
    holder = psycopg.connect(empty_dsn)
    holder.execute("lock table pgqueue.things in access share mode")
    monkeypatch.setattr(time, "sleep", lambda _: holder.close())
    assert "structure/0002_more.sql" in schema.migrate(empty_dsn, root).applied


def test_a_lock_that_is_never_had_is_an_error_that_says_so(
    empty_dsn: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "structure/0002_more.sql", "alter table pgqueue.things add note text;")
    monkeypatch.setattr(migrator, "ATTEMPTS", 1)
    with psycopg.connect(empty_dsn) as holder:
        holder.execute("lock table pgqueue.things in access share mode")
        with pytest.raises(PgqueueError, match=r"within 2 s.*pg_stat_activity"):
            schema.migrate(empty_dsn, root)


def test_a_callers_transaction_is_joined_and_its_settings_stay(empty_dsn: str, root: Path) -> None:
    with psycopg.connect(empty_dsn, row_factory=dict_row) as conn:
        conn.execute("set local search_path = 'public'")
        schema.migrate(conn, root)
        assert schema.check(conn, root).newer is False
        assert conn.execute("show search_path").fetchone() == {"search_path": "public"}
        assert conn.execute("show lock_timeout").fetchone() == {"lock_timeout": "0"}
        conn.rollback()
    assert ask(empty_dsn, "select to_regnamespace('pgqueue')") is None


def test_a_database_without_the_schema_is_told_to_migrate(empty_dsn: str, root: Path) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no pgqueue schema .*run: pgqueue migrate") as caught:
        status(empty_dsn, root)
    assert caught.value.sqlstate == "QU501"


async def test_the_asynchronous_check_says_the_same(empty_dsn: str, root: Path) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn, row_factory=dict_row) as conn:
        with pytest.raises(SchemaMismatch):
            await schema.check_async(conn, root)
        schema.migrate(empty_dsn, root)
        assert (await schema.check_async(conn, root)) == status(empty_dsn, root)


def test_partitions_are_made_where_the_schema_knows_how(empty_dsn: str, root: Path) -> None:
    make = "create or replace function pgqueue._make_partitions() returns void language sql as "
    write(root, "functions/020_parts.sql", make + "'insert into pgqueue.things values (2)';")
    schema.migrate(empty_dsn, root)
    assert ask(empty_dsn, "select count(*) from pgqueue.things") == 2


def test_the_script_for_psql_makes_the_same_schema_and_runs_again(server: Server, empty_dsn: str, dsn: str) -> None:
    script = schema.sql_text()
    command = [program(server, "psql"), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", empty_dsn]
    for _ in range(2):
        done = subprocess.run(command, input=script, text=True, capture_output=True, check=True)
        assert done.stderr == ""
    assert schema.migrate(empty_dsn).applied == ()
    assert dump(empty_dsn, server) == dump(dsn, server)


def test_the_script_refuses_a_structure_file_that_changed(server: Server, empty_dsn: str, root: Path) -> None:
    schema.migrate(empty_dsn, root)
    write(root, "structure/0001_things.sql", STRUCTURE + " -- better")
    command = [program(server, "psql"), "--no-psqlrc", "--quiet", empty_dsn]
    done = subprocess.run(command, input=schema.sql_text(root), text=True, capture_output=True, check=False)
    assert done.returncode == 3
    assert "structure/0001_things.sql was applied to this database with other contents" in done.stderr


def test_names_that_have_no_place_are_refused(root: Path) -> None:
    write(root, "structure/more.sql", "")
    with pytest.raises(ConfigurationError, match=r"more\.sql is misnamed .*0001_what"):
        schema.sql_text(root)
    (root / "structure" / "more.sql").unlink()
    write(root, "structure/0001_twice.sql", "")
    with pytest.raises(ConfigurationError, match="number 0001 twice"):
        schema.sql_text(root)
    with pytest.raises(ConfigurationError, match="the installation is incomplete"):
        schema.sql_text(root / "nowhere")


def test_a_database_in_another_encoding_is_refused(server: Server, root: Path) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        options = "encoding 'LATIN1' template template0 lc_collate 'C' lc_ctype 'C'"
        if server.binaries.version >= 15:
            options += " locale_provider libc"
        conn.execute(sql.SQL(f"create database latin {options}"))
    with pytest.raises(ConfigurationError, match="encoding is LATIN1; pgqueue needs UTF8"):
        schema.migrate(server.dsn("latin"), root)


def test_a_server_that_is_too_old_is_refused(empty_dsn: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psycopg.ConnectionInfo, "server_version", 130_011)
    with pytest.raises(ConfigurationError, match="the server is PostgreSQL 13; pgqueue needs 14 or newer"):
        schema.migrate(empty_dsn, root)


def test_an_unreachable_database_is_said_to_be_so(root: Path) -> None:
    with pytest.raises(DatabaseUnavailable):
        schema.migrate(f"host={os.sep}nowhere", root)


BEFORE_0014 = """
create table pgqueue.finished_tasks_20300101 partition of pgqueue.finished_tasks
    for values from ('2030-01-01 00:00+00') to ('2030-01-02 00:00+00');
create table pgqueue.executions_20300101 partition of pgqueue.executions
    for values from ('2030-01-01 00:00+00') to ('2030-01-02 00:00+00');
create table pgqueue.executions_20200101 (like pgqueue.executions including all);
insert into pgqueue.finished_tasks (
    id, task_type, queue_name, priority, payload, status, max_retries, run_at, attempt, failures, crashes, worker_id,
    created_at, started_at, finished_at
)
select
    n, 'a', 'default', 5, '{}', case n when 1 then 'completed' else 'failed' end, 3, '2030-01-01', 2, 2, 0, 7,
    '2030-01-01 10:00+00', '2030-01-01 11:00+00', '2030-01-01 12:00+00'
from generate_series(1, 2) n;
insert into pgqueue.executions (task_id, attempt, worker_id, started_at, finished_at, outcome, error_message) values
    (1, 1, 6, '2030-01-01 10:00+00', '2030-01-01 10:30+00', 'failed', 'no'),
    (1, 2, 7, '2030-01-01 11:00+00', '2030-01-01 12:00+00', 'completed', null),
    (2, 1, 6, '2030-01-01 10:00+00', '2030-01-01 10:30+00', 'lost', null),
    (2, 2, 7, '2030-01-01 11:00+00', '2030-01-01 12:00+00', 'failed', 'no');
"""
EXECUTIONS = "select array_agg(e::text order by e.task_id, e.attempt) from pgqueue.executions e"


def test_an_upgrade_keeps_every_execution_once(empty_dsn: str, root: Path) -> None:
    for path in (schema.sql_root() / "structure").iterdir():
        if path.name < "0014":
            shutil.copy(path, root / "structure")
    (root / "structure" / "0001_things.sql").unlink()
    schema.migrate(empty_dsn, root)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute(BEFORE_0014)
    before = ask(empty_dsn, EXECUTIONS)
    schema.migrate(empty_dsn)
    assert ask(empty_dsn, EXECUTIONS) == before
    assert ask(empty_dsn, "select count(*) from pgqueue.attempts") == 3
    assert ask(empty_dsn, "select count(*) from pgqueue.get_executions(1)") == 2
    assert ask(empty_dsn, "select count(*) from pg_class where relname ~ '^executions_'") == 0
