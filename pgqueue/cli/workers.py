"""`pgqueue workers`: who runs the tasks."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, data_options
from pgqueue.cli.output import Column, emit_rows
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueue.models import WorkerInfo
    from pgqueue.services import QueueOperations


@click.group(cls=Group, invoke_without_command=True)
@data_options
@click.pass_context
def workers(ctx: click.Context) -> None:
    """List the workers; pause, resume or stop some."""
    if ctx.invoked_subcommand is None:
        found = run(lambda service: service.list_workers())
        emit_rows(found, columns(), empty="no worker runs; start one: pgqueue worker MODULE:QUEUE_SERVICE")


WORKER_IDS = click.argument("worker_ids", metavar="ID…", type=click.IntRange(1, 2**63 - 1), nargs=-1, required=True)


@workers.command()
@WORKER_IDS
@click.option("--reason", help="Why, so that others know.")
@data_options
def pause(worker_ids: tuple[int, ...], reason: str | None) -> None:
    """Let workers claim nothing more.

    What they run goes on.
    """
    _each(worker_ids, lambda service, worker_id: service.pause_worker(worker_id, reason))
    say(f"paused {words.plural(len(worker_ids), 'worker')}")


@workers.command()
@WORKER_IDS
@data_options
def resume(worker_ids: tuple[int, ...]) -> None:
    """Let paused workers go on."""
    _each(worker_ids, lambda service, worker_id: service.resume_worker(worker_id))
    say(f"resumed {words.plural(len(worker_ids), 'worker')}")


@workers.command()
@WORKER_IDS
@data_options
def stop(worker_ids: tuple[int, ...]) -> None:
    """Ask workers to stop.

    They claim nothing more and let running tasks end.
    """
    _each(worker_ids, lambda service, worker_id: service.stop_worker(worker_id))
    say(f"asked {words.plural(len(worker_ids), 'worker')} to stop")


def _each(worker_ids: tuple[int, ...], act: Callable[[QueueOperations, int], Awaitable[None]]) -> None:
    """Do something with each worker, and show them."""

    async def work(service: QueueOperations) -> list[WorkerInfo]:
        for worker_id in worker_ids:
            await act(service, worker_id)
        return [info for info in await service.list_workers() if info.id in worker_ids]

    emit_rows(run(work), columns(), empty="")


def columns() -> list[Column[WorkerInfo]]:
    """Return the columns of a list of workers."""
    now = datetime.now(UTC)
    return [
        Column("ID", lambda info: str(info.id), right=True),
        Column("STATE", lambda info: info.state, lambda info: words.STYLES.get(info.state, "")),
        Column("HOST", lambda info: info.hostname, flexible=True),
        Column("PID", lambda info: str(info.pid), right=True),
        Column("RUNNING", lambda info: words.count(info.running), right=True),
        Column("HEARD", lambda info: f"{max(info.heartbeat_age_s, 0):.0f}s ago", right=True),
        Column("STARTED", lambda info: words.age(info.started_at, now), right=True),
        Column("QUEUES", _queues, flexible=True),
    ]


def _queues(info: WorkerInfo) -> str:
    return " ".join(f"{name}={info.concurrency[name]}" if name in info.concurrency else name for name in info.queues)
