"""`pgqueue task retry` and `cancel`: tasks by id, by a filter, or all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pgqueue import errors
from pgqueue.cli import words
from pgqueue.cli.base import data_options
from pgqueue.cli.failures import report
from pgqueue.cli.output import Column, emit_ids, emit_rows
from pgqueue.cli.parameters import TASK_ID
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.cli.tasks import LIVE, columns, filter_options, task_filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from pgqueue.models import TaskFilter, TaskRecord
    from pgqueue.services import QueueOperations

    Change = Callable[[QueueOperations, int], Awaitable[str]]

PAGE = 500
RETRYABLE = ("failed", "cancelled")


@dataclass(frozen=True)
class Changed:
    """A task that was dealt with, and its status since."""

    task_id: int
    status: str


class Chosen(NamedTuple):
    """Which tasks: ids, or else all that one of the filters lets through."""

    task_ids: Sequence[int]
    filters: Sequence[TaskFilter]


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@filter_options(RETRYABLE)
@click.option("--all", "everything", is_flag=True, help="Every failed task.")
@click.option("--dry-run", is_flag=True, help="Only list the tasks.")
@data_options
def retry(*, dry_run: bool, **given: Any) -> None:
    """Start failed or cancelled tasks again.

    Give ids, or a filter (failed tasks only, unless --status says otherwise), or --all. Prints the ids.
    """
    chosen = _chosen("retry", ("failed",), given)

    async def change(service: QueueOperations, task_id: int) -> str:
        await service.retry_task(task_id)
        return "pending"

    _deal_with(chosen, change, "retried", dry_run=dry_run)


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@filter_options(LIVE)
@click.option("--all", "everything", is_flag=True, help="Every task that has not ended.")
@click.option("--reason", metavar="TEXT", help="Kept with the tasks.")
@click.option("--dry-run", is_flag=True, help="Only list the tasks.")
@data_options
def cancel(*, reason: str | None, dry_run: bool, **given: Any) -> None:
    """Cancel tasks.

    Waiting ones end at once, running ones are asked to stop. Give ids, or a filter, or --all. Prints the ids.
    """
    chosen = _chosen("cancel", LIVE, given)

    async def change(service: QueueOperations, task_id: int) -> str:
        return await service.cancel_task(task_id, reason)

    _deal_with(chosen, change, "cancelled", dry_run=dry_run)


def _chosen(verb: str, statuses: Sequence[str], given: dict[str, Any]) -> Chosen:
    """Return what the options choose; nobody touches all tasks by leaving something out."""
    task_ids, everything = given.pop("task_ids"), given.pop("everything")
    filters = {name: value for name, value in given.items() if value is not None}
    if sum(map(bool, (task_ids, filters, everything))) != 1:
        what = "Nothing says which tasks" if not (task_ids or filters or everything) else "That is too much"
        msg = f"{what}: give either ids, or a filter (--queue, --status, --type …), or --all."
        raise click.UsageError(f"{msg} `pgqueue task {verb} --all --dry-run` lists what --all means.")
    status = filters.pop("status", None)
    wanted = [] if task_ids else [status] if status else statuses
    return Chosen(
        tuple(dict.fromkeys(task_ids)), [task_filter(status=each, page_size=PAGE, **filters) for each in wanted]
    )


def _deal_with(chosen: Chosen, change: Change, done: str, *, dry_run: bool) -> None:
    if dry_run:
        tasks = run(lambda service: _listed(service, chosen))
        emit_rows(tasks, columns(), empty="no task matches")
        say(f"{words.plural(len(tasks), 'task')} would be {done}; nothing was changed")
        return
    changed, status = run(lambda service: _change_all(service, chosen, change))
    emit_ids(changed, [Column("ID", lambda row: str(row.task_id))])
    asked = sum(1 for row in changed if row.status == "running")
    say(
        f"{done} {words.plural(len(changed), 'task')}" + (f", {asked} of them as soon as they heed it" if asked else "")
    )
    click.get_current_context().exit(status)


async def _listed(service: QueueOperations, chosen: Chosen) -> list[TaskRecord]:
    named: list[TaskRecord] = [await service.get_task(task_id) for task_id in chosen.task_ids]
    return named + [task async for task in _matching(service, chosen)]


async def _change_all(service: QueueOperations, chosen: Chosen, change: Change) -> tuple[list[Changed], int]:
    """Change one after the other; one that cannot be changed is said, and the others go on.

    Where a filter chose, a task that moved on in the meantime is none of its any more.
    """
    changed: list[Changed] = []
    status = 0
    async for task_id in _ids(service, chosen):
        try:
            changed.append(Changed(task_id, await change(service, task_id)))
        except (errors.InvalidTransition, errors.TaskNotFound, errors.DuplicateTask) as error:
            if chosen.task_ids or isinstance(error, errors.DuplicateTask):
                status = max(status, report(error))
    return changed, status


async def _ids(service: QueueOperations, chosen: Chosen) -> AsyncIterator[int]:
    for task_id in chosen.task_ids:
        yield task_id
    async for task in _matching(service, chosen):
        yield task.task_id


async def _matching(service: QueueOperations, chosen: Chosen) -> AsyncIterator[TaskRecord]:
    """Yield the tasks that match now, newest first; those that are changed while they are listed shift nothing."""
    from pgqueue import calls

    for wanted in chosen.filters:
        while True:
            page = await service.db.run(calls.list_tasks(wanted))
            for task in page:
                yield task
            if len(page) < PAGE:
                break
            wanted.before_id = page[-1].task_id
