"""The command `pgqueue`: the nouns, each in a module of its own that is imported when it is asked for."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

import click

from pgqueue import __version__
from pgqueue.cli.base import CONTEXT, LazyGroup, database_option, output_option
from pgqueue.cli.failures import run_command

COMMANDS = {
    "up": ("pgqueue.cli.up", "Start all that is needed: database, schema, worker, HTTP interface."),
    "worker": ("pgqueue.cli.worker", "Run the tasks of a queue service."),
    "scheduler": ("pgqueue.cli.scheduler", "Fire schedules, and run no tasks."),
    "api": ("pgqueue.cli.api", "Serve the HTTP interface."),
    "migrate": ("pgqueue.cli.migrate", "Bring the database's schema up to this release."),
    "submit": ("pgqueue.cli.submit", "Submit a task."),
    "task": ("pgqueue.cli.task", "List, show, watch, retry and cancel tasks."),
    "operation": ("pgqueue.cli.operation", "List, follow and cancel bulk operations."),
    "queue": ("pgqueue.cli.queue", "List, create, pause and resume queues."),
    "schedule": ("pgqueue.cli.schedule", "List, add, preview, pause and run schedules."),
    "stats": ("pgqueue.cli.stats", "Count what finished, step by step."),
    "cleanup": ("pgqueue.cli.cleanup", "Remove old finished tasks."),
    "workers": ("pgqueue.cli.workers", "List the workers; pause, resume or stop some."),
    "top": ("pgqueue.cli.top", "Show live what the queues and workers do."),
    "key": ("pgqueue.cli.key", "Make, list and revoke keys of the HTTP interface."),
    "db": ("pgqueue.cli.db", "Manage the embedded PostgreSQL server."),
    "doctor": ("pgqueue.cli.doctor", "Check settings, database and schema; say what to do."),
}
"""Module and short help of each command; a test compares the latter with the command's own."""

WHERE = """\
Where the database is, as URL or key=value. Default: PGQUEUE_DSN, pgqueue.toml, DATABASE_URL, libpq's variables, or
else an embedded server."""

EPILOG = """\b
Data goes to stdout, everything else to stderr. Exit status: 0 done,
1 the task failed, 2 usage, 3 no database, 4 conflict, 124 waited too
long, 130 interrupted.
\b
Each option has a variable, for instance PGQUEUE_TASK_LIST_STATUS for
--status of task list; PGQUEUE_DSN names the database, PGQUEUE_OUTPUT
the output format. NO_COLOR turns colours off. Completion:
eval "$(_PGQUEUE_COMPLETE=bash_source pgqueue)" (or zsh_…, fish_source).
"""


@click.group(cls=LazyGroup, commands_at=COMMANDS, context_settings=CONTEXT, epilog=EPILOG)
@click.version_option(__version__, prog_name="pgqueue", message="%(prog)s %(version)s")
@partial(database_option, text=WHERE)
@output_option(root=True)
def root() -> None:
    """Run tasks in the background, with nothing but PostgreSQL."""


def main() -> NoReturn:
    """Run the console script `pgqueue`."""
    run_command(root, "pgqueue", "PGQUEUE")
