"""`pgqueue operation`: bulk retries, cancels and deletes, and how far they have come."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, data_options
from pgqueue.cli.output import Column, console, emit_rows, is_terminal
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from pgqueue.models import Operation
    from pgqueue.services import QueueOperations, RetryManager

ID = click.argument("operation_id", metavar="ID", type=click.IntRange(1))


@click.group(cls=Group)
def operation() -> None:
    """List, follow and cancel bulk operations."""


@operation.command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, metavar="N", help="The last N.")
@data_options
def list_(limit: int) -> None:
    """List bulk operations, newest first."""
    found = run(lambda service: _manager(service).list_operations(limit))
    emit_rows(found, columns(), empty="there was no bulk operation; pgqueue task retry --help tells of them")


@operation.command()
@ID
@data_options
def show(operation_id: int) -> None:
    """Show a bulk operation."""
    emit_rows([run(lambda service: _manager(service).get_operation(operation_id))], columns(), empty="")


@operation.command("follow")
@ID
@data_options
def follow_(operation_id: int) -> None:
    """Follow a bulk operation to its end.

    It is carried on here where nobody else does. Ctrl-C only stops following: workers carry it on.
    """
    emit_rows([run(lambda service: follow(_manager(service), operation_id))], columns(), empty="")


@operation.command()
@ID
@data_options
def cancel(operation_id: int) -> None:
    """Stop a bulk operation.

    What it has done stays done.
    """

    async def work(service: QueueOperations) -> Operation:
        await _manager(service).cancel_operation(operation_id)
        return await _manager(service).get_operation(operation_id)

    emit_rows([run(work)], columns(), empty="")


def _manager(service: QueueOperations) -> RetryManager:
    from pgqueue.services import RetryManager

    return RetryManager(service.db)


async def follow(manager: RetryManager, operation_id: int) -> Operation:
    """Carry an operation out, with a bar where there is a terminal; return it when it has ended."""
    last = await manager.get_operation(operation_id)
    if not is_terminal(stderr=True):
        async for each in manager.follow_operation(operation_id):
            last = each
        return last
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    parts = (TextColumn("{task.description}"), BarColumn(24), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*parts, console=console(stderr=True), transient=True) as bars:
        bar = bars.add_task(f"operation {operation_id}", total=1.0)
        async for each in manager.follow_operation(operation_id):
            last = each
            bars.update(bar, completed=each.share, description=f"{each.kind}: {each.done:,} done")
    if last.state == "cancelled":
        say(f"operation {operation_id} was cancelled")
    return last


def columns() -> list[Column[Any]]:
    """Return the columns of a list of operations."""
    now = datetime.now(UTC)
    return [
        Column("OPERATION", lambda row: str(row.id), right=True),
        Column("KIND", lambda row: row.kind),
        Column("STATE", lambda row: row.state if row.state != "running" else f"running, {row.share:.0%}"),
        Column("DONE", lambda row: words.count(row.done), right=True),
        Column("SKIPPED", lambda row: words.count(row.skipped), right=True),
        Column("STARTED", lambda row: words.age(row.created_at, now), right=True),
        Column("FILTER", lambda row: ", ".join(f"{name}={value}" for name, value in row.filter.items()), flexible=True),
    ]
