"""`pgqueue operation`: changes of many tasks, under way and done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, data_options
from pgqueue.cli.output import Column, emit_one, emit_rows, facts, write_table
from pgqueue.cli.parameters import TASK_ID
from pgqueue.cli.session import run

if TYPE_CHECKING:
    from pgqueue.models import Operation
    from pgqueue.services import QueueOperations

ID = click.argument("operation_id", metavar="ID", type=TASK_ID)


@click.group(cls=Group)
def operation() -> None:
    """List, show and cancel changes of many tasks."""


@operation.command("list")
@data_options
def list_() -> None:
    """List operations, newest first.

    Those that run, and those that ended within 30 days.
    """
    from pgqueue import calls

    found = run(lambda service: service.db.run(calls.get_operations()))
    emit_rows(found, columns(), empty="there are no operations; pgqueue task retry --type TYPE starts one")


@operation.command()
@ID
@data_options
def show(operation_id: int) -> None:
    """Show all about an operation.

    How far it is, and what it could not change.
    """
    from pgqueue import calls

    emit_operation(run(lambda service: service.db.run(calls.get_operation(operation_id))))


@operation.command()
@ID
@data_options
def cancel(operation_id: int) -> None:
    """Cancel an operation.

    It ends where it is; what it did stays.
    """

    async def work(service: QueueOperations) -> Operation:
        from pgqueue import calls

        await service.db.run(calls.cancel_operation(operation_id))
        return await service.db.run(calls.get_operation(operation_id))

    emit_operation(run(work))


def emit_operation(found: Operation) -> None:
    """Write all about an operation."""
    emit_one(found, lambda: write_table(facts(_facts(found))))


def skips(found: Operation) -> dict[str, str]:
    """Return why tasks were skipped: how many, and the first ids."""
    made = {}
    for reason, detail in found.details.items():
        ids = ", ".join(map(str, detail["ids"]))
        more = " …" if detail["count"] > len(detail["ids"]) else ""
        made[reason.replace("_", " ")] = f"{words.plural(detail['count'], 'task')}: {ids}{more}"
    return made


def _facts(found: Operation) -> dict[str, str | None]:
    return {
        "operation": str(found.operation_id),
        "kind": found.kind,
        "filter": words.compact(found.filter),
        "state": found.state,
        "error": found.error,
        "looked at": f"{found.percent:.0f}%",
        "matched": words.plural(found.matched, "task"),
        "done": words.plural(found.done, "task"),
        "skipped": words.plural(found.skipped, "task") if found.skipped else None,
        "asked by": found.requested_by,
        "created": words.moment(found.created_at),
        "finished": words.moment(found.finished_at),
    } | skips(found)


def columns() -> list[Column[Operation]]:
    """Return the columns of a list of operations."""
    return [
        Column("ID", lambda row: str(row.operation_id), right=True),
        Column("KIND", lambda row: row.kind),
        Column("STATE", lambda row: row.state, lambda row: words.STYLES.get(row.state, "")),
        Column("LOOKED", lambda row: f"{row.percent:.0f}%", right=True),
        Column("DONE", lambda row: words.count(row.done), right=True),
        Column("SKIPPED", lambda row: words.count(row.skipped), right=True),
        Column("CREATED", lambda row: words.age(row.created_at), right=True),
        Column("FILTER", lambda row: words.compact(row.filter), flexible=True),
    ]
