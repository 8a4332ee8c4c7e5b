"""`pgqueue migrate`: the schema."""

from __future__ import annotations

import click

from pgqueue.cli.base import database_option
from pgqueue.cli.failures import TASK_FAILED
from pgqueue.cli.session import resolve
from pgqueue.cli.talk import say
from pgqueue.cli.words import plural


@click.command()
@click.option("--check", "mode", flag_value="check", help="Change nothing; exit with 1 if something is missing.")
@click.option("--sql", "mode", flag_value="sql", help="Print everything as one script for psql; needs no database.")
@database_option
def migrate(mode: str | None) -> None:
    """Bring the database's schema up to this release.

    Prints the files that were applied. It may run at any time, as often as wanted and from many places
    at once.
    """
    if mode == "sql":
        from pgqueue.schema import sql_text

        click.echo(sql_text())
    elif mode == "check":
        _check(resolve().dsn)
    else:
        apply(resolve().dsn, names=True)


def apply(dsn: str, *, names: bool = False) -> None:
    """Migrate a database and say what was done; `names` also prints the files."""
    from pgqueue import schema

    report = schema.migrate(dsn)
    if names:
        for name in report.applied:
            click.echo(name)
    if report.applied:
        say(f"applied {plural(len(report.applied), 'file')}; the schema is at {report.release}")
    elif report.newer:
        say(f"nothing to do: the schema is newer than this pgqueue ({report.release}), and works with it")
    else:
        say(f"nothing to do: the schema is at {report.release}")


def _check(dsn: str) -> None:
    from pgqueue import schema
    from pgqueue.database import SyncDatabase

    with SyncDatabase(dsn).connect() as conn:
        found = schema.plan(conn)
    for file in found.files:
        click.echo(file.name)
    if found.current:
        say(f"the schema is at {found.database_release}; nothing is missing")
        return
    say(f"missing: {plural(len(found.files), 'file')} of release {found.code_release}; run: pgqueue migrate")
    click.get_current_context().exit(TASK_FAILED)
