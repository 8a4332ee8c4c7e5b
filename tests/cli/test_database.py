"""Which database, its schema and its health; the embedded server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqueue.embedded import Server

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    from tests.cli.conftest import Cli


def test_no_database_is_an_exit_code_of_its_own(bare_cli: Cli, empty_dsn: str) -> None:
    unreachable, empty, wrong, typo = bare_cli.each(
        (["task", "list"], variables)
        for variables in (
            {"PGQUEUE_DSN": "host=/nowhere dbname=x"},
            {"PGQUEUE_DSN": empty_dsn},
            {"PGQUEUE_DSN": empty_dsn, "PGQUEUE_LEASE_S": "soon"},
            {"PGQUEUE_DNS": empty_dsn},
        )
    )
    assert (unreachable.code, unreachable.out) == (3, "")
    assert "the database cannot be reached" in unreachable.err
    assert (empty.code, empty.out) == (3, "")
    assert "hint: run: pgqueue migrate" in empty.err
    assert (wrong.code, "PGQUEUE_LEASE_S: 'soon' is refused" in wrong.err) == (2, True)
    assert (typo.code, "did you mean dsn?" in typo.err) == (2, True)


def test_a_database_is_migrated_once(bare_cli: Cli, empty_dsn: str) -> None:
    missing = bare_cli("migrate", "--check", "--dsn", empty_dsn)
    assert (missing.code, missing.lines[0]) == (1, "structure/0001_queues_and_workers.sql")
    assert "run: pgqueue migrate" in missing.err
    applied = bare_cli("migrate", "--dsn", empty_dsn)
    assert (applied.code, applied.lines) == (0, missing.lines)
    again = bare_cli("migrate", "--dsn", empty_dsn)
    assert (again.code, again.out) == (0, "")
    assert "nothing to do" in again.err
    assert bare_cli("migrate", "--check", "--dsn", empty_dsn).code == 0


def test_the_script_for_psql_needs_no_database(bare_cli: Cli) -> None:
    script = bare_cli("migrate", "--sql")
    assert script.code == 0
    assert "create table pgqueue.tasks" in script.out
    assert script.out.rstrip().endswith("commit;")


def test_the_doctor_says_what_is_wrong_and_what_to_do(
    cli: Cli, conn: psycopg.Connection[Any], empty_dsn: str, dsn: str
) -> None:
    conn.execute("select pgqueue.register_worker('here', 7, '{default}', p_lease => 1e-6)")
    conn.execute("update pgqueue.statistics_state set folded_before = now() - interval '1 hour'")
    found = {row["check"]: row for row in cli("doctor", "-o", "json").json}
    assert {name: row["state"] for name, row in found.items()} == {
        **dict.fromkeys(("settings", "database", "server", "listen", "schema"), "ok"),
        "workers": "warning",
        "statistics": "warning",
    }
    assert "last folded 1h 00m ago" in found["statistics"]["detail"]
    assert "named by: PGQUEUE_DSN" in found["database"]["detail"]
    assert "not heard any more" in found["workers"]["detail"]
    hidden = cli("doctor", "--dsn", f"{dsn} password=geheim", "-o", "json").json[1]["detail"]
    assert "named by: --dsn" in hidden
    assert "geheim" not in hidden

    unmigrated, unreachable, ill_set = cli.each(
        (["doctor", *arguments], variables)
        for arguments, variables in (
            (["--dsn", empty_dsn], {}),
            (["--dsn", "host=/nowhere"], {}),
            ([], {"PGQUEUE_POOL_MIN": "many"}),
        )
    )
    assert unmigrated.code == 1
    assert "→ run: pgqueue migrate" in unmigrated.out
    assert "1 failure" in unmigrated.err
    assert unreachable.code == 1
    assert unreachable.lines[-2].startswith("failure  server")
    assert ill_set.code == 1


def test_up_and_the_embedded_server(bare_cli: Cli, home: Path) -> None:
    bare_cli.variables["PGQUEUE_DATA_DIR"] = str(home)
    server = Server(home)
    try:
        down = bare_cli("db", "status", "-o", "json")
        assert (down.code, down.json["running"]) == (3, False)
        up = bare_cli("up")
        assert (up.code, up.out) == (0, "")
        assert f"started an embedded PostgreSQL in {home}" in up.err
        assert "the database is ready" in up.err
        shown = bare_cli("db", "status", "-o", "json")
        assert (shown.code, shown.json["dsn"]) == (0, server.dsn("pgqueue"))
        assert bare_cli("db", "start").out.strip() == server.dsn("pgqueue")
        assert bare_cli("submit", "add").out == "1\n"
        asked = bare_cli("db", "psql", "--", "-Atc", "select count(*) from pgqueue.tasks")
        assert (asked.code, asked.out) == (0, "1\n")
        refused = bare_cli("db", "reset", stdin="n\n")
        assert refused.code == 130
        assert bare_cli("db", "reset", "--yes").code == 0
        assert bare_cli("task", "list", "-o", "json").json == []
        assert "stopped the server" in bare_cli("db", "stop").err
        assert not server.status().running
    finally:
        server.stop("immediate")
