"""`pgqueue submit`: a task from the command line."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.base import common, data_options
from pgqueue.cli.follow import watched
from pgqueue.cli.output import line, plain, pretty
from pgqueue.cli.parameters import TASK_ID, Duration, Moment, PriorityNumber, WholeSeconds
from pgqueue.cli.payload import payload_of, payload_options
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from pgqueue.models import TaskRequest
    from pgqueue.services import QueueOperations, Task


@click.command()
@click.argument("task_type", metavar="TYPE")
@click.argument("source", metavar="[-]", required=False)
@payload_options
@click.option("--queue", "queue_name", default="default", metavar="NAME", help="The queue it waits in.")
@click.option(
    "--priority",
    type=PriorityNumber(),
    default="normal",
    metavar="N",
    help="A number, higher runs first; or low (1), normal (5), high (10), urgent (20).",
)
@click.option(
    "--delay", type=Duration(), metavar="DURATION", help="Not before so long from now: seconds, or 90s, 5m, 1h30m."
)
@click.option(
    "--run-at",
    type=Moment(),
    metavar="TIME",
    help="Not before this moment, for instance 2031-05-01T18:30 (local) or …Z.",
)
@click.option(
    "--timeout", type=WholeSeconds(), metavar="DURATION", help="How long an attempt may run.  [default: no limit]"
)
@click.option(
    "--max-retries",
    type=click.IntRange(0, 10_000),
    default=3,
    metavar="N",
    help="How many failures are followed by another attempt.",
)
@click.option("--unique-key", metavar="KEY", help="At most one live task has this key in its type.")
@click.option(
    "--on-conflict",
    type=click.Choice(["return", "raise", "replace"]),
    default="return",
    help="Where the key is taken: return the task that has it, fail, or replace its payload if it waits.",
)
@click.option("--user-id", metavar="ID", help="The user it works for, to filter by.")
@click.option("--project-id", metavar="ID", help="The project it works for, to filter by.")
@click.option("--parent", "parent_id", type=TASK_ID, metavar="ID", help="The task that it belongs to, to filter by.")
@click.option("--wait", is_flag=True, help="Wait for its end; print its result, exit with 1 if it failed.")
@click.option(
    "--timeout-wait",
    "--wait-timeout",
    "timeout_wait",
    type=Duration(),
    metavar="DURATION",
    help="Wait no longer than this (implies --wait); the task goes on.",
)
@data_options
def submit(  # noqa: PLR0913 - one parameter an option
    *,
    source: str | None,
    pairs: tuple[tuple[str, Any], ...],
    text: str | None,
    delay: float | None,
    wait: bool,
    timeout_wait: float | None,
    **fields: Any,
) -> None:
    """Submit a task.

    Prints its id; with --wait, its result as JSON. The payload is an object made of --arg, the JSON of
    --json, or with `-` the JSON on stdin.

    \b
      pgqueue submit report --arg pages=3 --arg title="The year"
      pgqueue submit report --json '{"pages": 3}' --queue slow --delay 5m
      jq .order order.json | pgqueue submit ship - --wait
    """  # noqa: D301 - click reads the character
    if delay is not None and fields["run_at"] is not None:
        raise click.UsageError("Give --delay or --run-at, not both.")
    from pgqueue.models import TaskRequest

    request = TaskRequest(payload=_payload(source, text, pairs), **fields)
    waits = wait or timeout_wait is not None
    run(lambda service: _submit(service, request, delay, waits=waits, at_most=timeout_wait))


async def _submit(
    service: QueueOperations, request: TaskRequest, delay: float | None, *, waits: bool, at_most: float | None
) -> None:
    if delay is not None:
        request.run_at = await _later(service, delay)
    task = await service.submit_task(request)
    if not task.created:
        say(f"task {task.task_id} has this key already and is {task.status}; nothing new was submitted")
    if not waits:
        _print_submitted(task)
        return
    ended = await watched(service, task.task_id, at_most)
    click.echo(pretty(ended.result_value) if common().output == "table" else _record(ended))


async def _later(service: QueueOperations, delay: float) -> datetime:
    """Return a moment by the clock of the database, which decides what is due."""
    from pgqueue import calls

    try:
        return await service.db.run(calls.clock()) + timedelta(seconds=delay)
    except OverflowError as error:
        raise InvalidInput(f"a delay of {delay:g} s is too long") from error


def _print_submitted(task: Task) -> None:
    if common().output == "table":
        click.echo(str(task.task_id))
        if task.created:
            say(f"submitted to queue {task.queue_name}; `pgqueue task watch {task.task_id}` follows it")
    else:
        click.echo(_record(task))


def _record(task: Task) -> str:
    return _json(plain(task) | {"created": task.created})


def _json(value: Any) -> str:
    return pretty(value) if common().output == "json" else line(value)


def _payload(source: str | None, text: str | None, pairs: tuple[tuple[str, Any], ...]) -> Any:
    """Return the payload that the options make."""
    if source not in (None, "-"):
        raise click.UsageError(f"{source!r} is not known here; the payload is given by --arg, --json or `-` for stdin.")
    if source and text is not None:
        raise click.UsageError("Give --json or `-`, not both.")
    return payload_of(sys.stdin.buffer.read() if source else text, pairs)
