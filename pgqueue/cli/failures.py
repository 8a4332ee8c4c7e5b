"""The one place where errors become a message, a hint and an exit status."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import click

from pgqueue import errors
from pgqueue.cli.talk import say, tell

TASK_FAILED, USAGE, NO_DATABASE, CONFLICT = 1, 2, 3, 4
TIMED_OUT, INTERRUPTED, BROKEN_PIPE, UNEXPECTED = 124, 130, 141, 70
STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.TaskFailed, TASK_FAILED),
    (errors.TaskCancelled, TASK_FAILED),
    (errors.InvalidTransition, CONFLICT),
    (errors.DuplicateTask, CONFLICT),
    (errors.LeaseLost, CONFLICT),
    (errors.QueueFull, CONFLICT),
    (errors.InvalidInput, USAGE),
    (errors.PayloadError, USAGE),
    (errors.ConfigurationError, USAGE),
    (errors.HandlerNotFound, USAGE),
    (errors.QueueNotFound, USAGE),
    (errors.TaskNotFound, USAGE),
    (errors.ScheduleNotFound, USAGE),
    (errors.OperationNotFound, USAGE),
    (errors.WorkerNotFound, USAGE),
    (errors.KeyNotFound, USAGE),
    (errors.DatabaseUnavailable, NO_DATABASE),
    (errors.SchemaMismatch, NO_DATABASE),
    (errors.PgqueueError, NO_DATABASE),
    (TimeoutError, TIMED_OUT),
)
"""The first that fits counts; what else the database refuses is as good as no database."""


def run_command(command: click.Command, prog_name: str, prefix: str) -> NoReturn:
    """Run a command with the arguments of this process, and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        status = command.main(prog_name=prog_name, standalone_mode=False, auto_envvar_prefix=prefix)
        sys.stdout.flush()
    except BaseException as error:
        if _debugging() and not isinstance(error, (click.ClickException, click.exceptions.Exit)):
            raise
        status = failed(error)
    sys.exit(status if isinstance(status, int) else 0)


def failed(error: BaseException) -> int:
    """Say what went wrong and return the exit status for it."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        say("interrupted")
        return INTERRUPTED
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    if isinstance(error, SystemExit):  # what click makes of a broken pipe; nothing else here exits
        return BROKEN_PIPE
    return report(error)


def report(error: BaseException) -> int:
    """Say an error with its hint; return the exit status for it."""
    status = next((number for kind, number in STATUS if isinstance(error, kind)), UNEXPECTED)
    if status == UNEXPECTED:
        tell("error", f"{type(error).__name__}: {error}")
        tell("hint", "this was not foreseen; PGQUEUE_DEBUG=1 shows where it happened")
    elif isinstance(error, errors.PgqueueError):
        tell("error", error.message)
        if error.hint:
            tell("hint", error.hint)
    else:
        tell("error", str(error))
    return status


def _debugging() -> bool:
    from pgqueue import settings

    return settings.debug()
