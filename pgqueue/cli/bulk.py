"""`pgqueue task retry`, `cancel` and `delete`: tasks by id, by a filter, or all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pgqueue import errors
from pgqueue.cli import words
from pgqueue.cli.base import data_options
from pgqueue.cli.failures import CONFLICT, report
from pgqueue.cli.operation import columns as operation_columns
from pgqueue.cli.operation import follow
from pgqueue.cli.output import Column, emit_ids, emit_rows
from pgqueue.cli.parameters import TASK_ID, Moment
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.cli.tasks import ENDED, LIVE, columns, filter_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pgqueue.models import BulkFilter, Operation, OperationKind, OperationPreview, TaskRecord
    from pgqueue.services import QueueOperations

    Change = Callable[[QueueOperations, int], Awaitable[str]]

DONE = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
MOMENT = Moment(past=True)
RETRYABLE = ("failed", "cancelled")


@dataclass(frozen=True)
class Changed:
    """A task that was dealt with, and its status since."""

    task_id: int
    status: str


def error_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that only tasks which ended can be chosen by."""
    for option in (
        click.option("--error", "error_contains", metavar="TEXT", help="Only those whose error has this text."),
        click.option("--ended-until", "finished_to", type=Moment(past=True), metavar="TIME", help="Only ended before."),
        click.option(
            "--ended-since", "finished_from", type=Moment(past=True), metavar="TIME", help="Only ended then or since."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@filter_options(RETRYABLE)
@error_option
@click.option("--all", "everything", is_flag=True, help="Every failed task.")
@click.option("--dry-run", is_flag=True, help="Only count the tasks, and list some.")
@data_options
def retry(*, dry_run: bool, **given: Any) -> None:
    """Start failed or cancelled tasks again.

    Give ids, or a filter (failed tasks only, unless --status says otherwise), or --all. Many are retried by an
    operation in small steps, which goes on with the workers if this command is stopped.
    """

    async def change(service: QueueOperations, task_id: int) -> str:
        await service.retry_task(task_id)
        return "pending"

    _deal_with("retry", given, change, dry_run=dry_run)


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@filter_options(LIVE)
@click.option("--all", "everything", is_flag=True, help="Every task that has not ended.")
@click.option("--reason", metavar="TEXT", help="Kept with the tasks.")
@click.option("--dry-run", is_flag=True, help="Only count the tasks, and list some.")
@data_options
def cancel(*, reason: str | None, dry_run: bool, **given: Any) -> None:
    """Cancel tasks.

    Waiting ones end at once, running ones are asked to stop. Give ids, or a filter, or --all. Many are cancelled
    by an operation in small steps, which goes on with the workers if this command is stopped.
    """

    async def change(service: QueueOperations, task_id: int) -> str:
        return await service.cancel_task(task_id, reason)

    _deal_with("cancel", given, change, reason=reason, dry_run=dry_run)


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@filter_options(ENDED)
@error_option
@click.option("--all", "everything", is_flag=True, help="Every task that has ended.")
@click.option("--dry-run", is_flag=True, help="Only count the tasks, and list some.")
@data_options
def delete(*, dry_run: bool, **given: Any) -> None:
    """Delete tasks that have ended.

    With their executions and logs; statistics keep counting them. Give ids, or a filter, or --all.
    """

    async def change(service: QueueOperations, task_id: int) -> str:
        await service.delete_task(task_id)
        return "deleted"

    _deal_with("delete", given, change, dry_run=dry_run)


def _deal_with(
    kind: OperationKind, given: dict[str, Any], change: Change, *, reason: str | None = None, dry_run: bool
) -> None:
    task_ids, chosen = _chosen(kind, given)
    if dry_run:
        _only_look(kind, task_ids, chosen)
    elif task_ids:
        changed, status = run(lambda service: _change_each(service, task_ids, change))
        emit_ids(changed, [Column("ID", lambda row: str(row.task_id))])
        _say_done(DONE[kind], len(changed), sum(1 for row in changed if row.status == "running"))
        click.get_current_context().exit(status)
    else:
        operation = run(lambda service: _operate(service, kind, chosen, reason))
        emit_rows([operation], operation_columns(), empty="")
        click.get_current_context().exit(CONFLICT if operation.skipped else 0)


def _say_done(done: str, count: int, asked: int) -> None:
    later = f", {asked} of them as soon as they heed it" if asked else ""
    say(f"{done} {words.plural(count, 'task')}{later}")


def _chosen(kind: str, given: dict[str, Any]) -> tuple[Sequence[int], BulkFilter]:
    """Return what the options choose; nobody touches all tasks by leaving something out."""
    from pgqueue.models import BulkFilter

    task_ids, everything = given.pop("task_ids"), given.pop("everything")
    filters = {name: value for name, value in given.items() if value is not None}
    if sum(map(bool, (task_ids, filters, everything))) != 1:
        what = "Nothing says which tasks" if not (task_ids or filters or everything) else "That is too much"
        msg = f"{what}: give either ids, or a filter (--queue, --status, --type …), or --all."
        raise click.UsageError(f"{msg} `pgqueue task {kind} --all --dry-run` tells what --all means.")
    return tuple(dict.fromkeys(task_ids)), BulkFilter(all=everything, **filters)


def _only_look(kind: OperationKind, task_ids: Sequence[int], chosen: BulkFilter) -> None:
    found, tasks = run(lambda service: _looked_at(service, kind, task_ids, chosen))
    emit_rows(tasks, columns(), empty="no task matches")
    many = f"{found.matched:,} tasks or more" if found.is_capped else words.plural(found.matched, "task")
    shown = f" (the first {len(tasks)} are listed)" if found.matched > len(tasks) else ""
    say(f"{many} would be {DONE[kind]}{shown}; nothing was changed")


async def _looked_at(
    service: QueueOperations, kind: OperationKind, task_ids: Sequence[int], chosen: BulkFilter
) -> tuple[OperationPreview, list[TaskRecord]]:
    from pgqueue.models import OperationPreview
    from pgqueue.services import RetryManager

    if task_ids:
        found = OperationPreview(matched=len(task_ids), is_capped=False, sample=list(task_ids))
    else:
        found = await RetryManager(service.db).preview(kind, chosen)
    return found, [await service.get_task(task_id) for task_id in found.sample]


async def _change_each(service: QueueOperations, task_ids: Sequence[int], change: Change) -> tuple[list[Changed], int]:
    """Change one after the other; one that cannot be changed is said, and the others go on."""
    changed: list[Changed] = []
    status = 0
    for task_id in task_ids:
        try:
            changed.append(Changed(task_id, await change(service, task_id)))
        except (errors.InvalidTransition, errors.TaskNotFound, errors.DuplicateTask) as error:
            status = max(status, report(error))
    return changed, status


async def _operate(service: QueueOperations, kind: OperationKind, chosen: BulkFilter, reason: str | None) -> Operation:
    from pgqueue.services import RetryManager

    manager = RetryManager(service.db)
    operation_id = await manager.start_operation(kind, chosen, reason=reason)
    operation = await follow(manager, operation_id)
    _say_done(DONE[kind], operation.done, 0)
    if operation.skipped:
        some = ", ".join(map(str, operation.skipped_ids)) + (" …" if operation.skipped > 20 else "")
        say(f"left {words.plural(operation.skipped, 'task')} alone, whose unique key is taken or which is held: {some}")
    return operation
