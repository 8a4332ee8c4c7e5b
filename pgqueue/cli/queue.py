"""`pgqueue queue`: where tasks wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, common, data_options
from pgqueue.cli.output import Column, emit_rows
from pgqueue.cli.parameters import Span
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqueue.models import QueueStats
    from pgqueue.services import QueueOperations

    Row = dict[str, Any]

NAME = click.argument("name", metavar="NAME")
KEEP = "How long {} tasks are kept, for instance 12h or 30d.  [default: as the settings say]"


@click.group(cls=Group)
def queue() -> None:
    """List, create, pause and resume queues."""


@queue.command("list")
@data_options
def list_() -> None:
    """List the queues.

    What waits and runs, slots, limits, whether they are paused.
    """
    _emit(run(lambda service: service.overview("queue_overview")))


@queue.command()
@click.argument("names", metavar="[NAME…]", nargs=-1)
@data_options
def stats(names: tuple[str, ...]) -> None:
    """Count tasks by status.

    Of the queues that are named, or of all.
    """
    emit_rows(run(lambda service: _stats(service, names)), _counts(), empty="there are no queues")


async def _stats(service: QueueOperations, names: Sequence[str]) -> list[QueueStats]:
    wanted = names or [info.name for info in await service.list_queues()]
    return [await service.get_queue_stats(name) for name in wanted]


@queue.command()
@NAME
@click.option(
    "--concurrency",
    type=click.IntRange(0, 100_000),
    metavar="N",
    help="Slots in each worker process; 0 runs nothing.  [default: 5]",
)
@click.option(
    "--capacity",
    type=click.IntRange(0, 2**31 - 1),
    metavar="N",
    help="Most tasks that may wait here; 0 takes the limit away.  [default: no limit]",
)
@click.option(
    "--max-crashes",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Fail a task whose worker died under it this often.  [default: 3]",
)
@click.option("--keep-completed", type=Span(), metavar="TIME", help=KEEP.format("completed"))
@click.option("--keep-failed", type=Span(), metavar="TIME", help=KEEP.format("failed"))
@click.option("--keep-cancelled", type=Span(), metavar="TIME", help=KEEP.format("cancelled"))
@data_options
def create(*, name: str, **settings: Any) -> None:
    """Create a queue, or change it.

    Of one that exists, only what is given changes.
    """

    async def work(service: QueueOperations) -> list[Row]:
        await service.create_queue(name, **settings)
        return await _one(service, name)

    _emit(run(work))


@queue.command()
@NAME
@click.option("--reason", metavar="TEXT", help="Shown wherever the queue is.")
@data_options
def pause(*, name: str, reason: str | None) -> None:
    """Pause a queue.

    Nothing more is started from it; what runs goes on.
    """

    async def work(service: QueueOperations) -> list[Row]:
        await service.pause_queue(name, reason)
        return await _one(service, name)

    _emit(run(work))


@queue.command()
@NAME
@data_options
def resume(*, name: str) -> None:
    """Resume a paused queue."""

    async def work(service: QueueOperations) -> list[Row]:
        await service.resume_queue(name)
        return await _one(service, name)

    _emit(run(work))


@queue.command()
@NAME
@data_options
def delete(*, name: str) -> None:
    """Delete a queue that has no live tasks."""
    run(lambda service: service.delete_queue(name))
    if common().output == "table":
        say(f"deleted queue {name}")
    else:
        emit_rows([{"name": name, "deleted": True}], [], empty="")


async def _one(service: QueueOperations, name: str) -> list[Row]:
    return [row for row in await service.overview("queue_overview") if row["name"] == name]


def _emit(rows: list[Row]) -> None:
    emit_rows(rows, columns(), empty="there are no queues; create one: pgqueue queue create NAME")


def columns() -> list[Column[Row]]:
    """Return the columns of a list of queues."""
    return [
        Column("QUEUE", lambda row: row["name"], flexible=True),
        Column("DUE", lambda row: words.count(row["pending"]), right=True),
        Column("LATER", lambda row: words.count(row["scheduled"] + row["blocked"]), right=True),
        Column("RUNNING", lambda row: words.count(row["running"]), right=True),
        Column("OLDEST", _oldest, right=True),
        Column("SLOTS", lambda row: words.count(row["concurrency"]), right=True),
        Column("CAPACITY", lambda row: words.count(row["capacity"]) or "-", right=True),
        Column("WORKERS", lambda row: words.count(row["workers"]), right=True),
        Column("STATE", _state, lambda row: words.STYLES["paused"] if row["paused_at"] else "", flexible=True),
    ]


def _oldest(row: Row) -> str:
    seconds = words.interval(row["oldest_wait"])
    return "-" if seconds is None else words.duration(seconds)


def _state(row: Row) -> str:
    if row["paused_at"]:
        return f"paused: {row['pause_reason']}" if row["pause_reason"] else "paused"
    return "waits for a worker" if row["pending"] and not row["workers"] else "open"


def _counts() -> list[Column[QueueStats]]:
    def number(name: str) -> Column[QueueStats]:
        return Column(name.upper(), lambda found: words.count(getattr(found, name)), right=True)

    names = ("pending", "scheduled", "blocked", "running", "completed", "failed", "cancelled")
    return [
        Column("QUEUE", lambda found: found.queue_name, flexible=True),
        *(number(name) for name in names),
    ]
