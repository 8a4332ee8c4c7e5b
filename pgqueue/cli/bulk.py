"""`pgqueue task retry`, `cancel` and `delete`: tasks by id one by one, by a filter or all as one operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from pgqueue import errors
from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.failures import report
from pgqueue.cli.operation import emit_operation, skips
from pgqueue.cli.output import Column, console, emit_ids, emit_rows, is_terminal
from pgqueue.cli.parameters import TASK_ID, Moment
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.cli.tasks import ENDED, LIVE, columns, filter_options

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pgqueue.models import Operation, OperationFilter, OperationKind
    from pgqueue.services import QueueOperations, Task

    Change = Callable[[QueueOperations, int], Awaitable[str]]

RETRYABLE = ("failed", "cancelled")
DONE = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}
CONFLICT = 4


@dataclass(frozen=True)
class Changed:
    """A task that was dealt with, and its status since."""

    task_id: int
    status: str


def _options(statuses: tuple[str, ...], meant: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a filter and --dry-run; finished tasks can be chosen by when they ended, too."""
    options = [
        filter_options(statuses),
        click.option("--error", metavar="TEXT", help="Only those whose error contains this."),
        click.option("--unique-key", metavar="KEY", help="Only those with this unique key."),
        click.option("--all", "everything", is_flag=True, help=meant),
        click.option("--dry-run", is_flag=True, help="Only count them, and list the newest."),
    ]
    if statuses != LIVE:
        options[3:3] = [
            click.option(f"--finished-{name}", f"finished_{field}", type=Moment(past=True), metavar="TIME", help=text)
            for name, field, text in (
                ("since", "from", "Only those that ended since then."),
                ("until", "to", "Only those that ended before then."),
            )
        ]

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return data_options(command)

    return add


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@_options(RETRYABLE, "Every failed task.")
def retry(**given: Any) -> None:
    """Start failed or cancelled tasks again.

    Give ids, or a filter (failed tasks only, unless --status says otherwise), or --all. They keep their ids and
    attempts. Many are one operation: should this command be killed, the workers go on with it.
    """

    async def change(service: QueueOperations, task_id: int) -> str:
        await service.retry_task(task_id)
        return "pending"

    _deal_with("retry", change, **given)


@click.command()
@click.argument("task_ids", metavar="[ID…]", type=TASK_ID, nargs=-1)
@click.option("--reason", metavar="TEXT", help="Kept with the tasks.")
@_options(LIVE, "Every task that has not ended.")
def cancel(*, reason: str | None, **given: Any) -> None:
    """Cancel tasks.

    Waiting ones end at once, running ones are asked to stop. Give ids, or a filter, or --all.
    """

    async def change(service: QueueOperations, task_id: int) -> str:
        return await service.cancel_task(task_id, reason)

    _deal_with("cancel", change, reason=reason, **given)


@click.command()
@_options(ENDED, "Every finished task.")
def delete(**given: Any) -> None:
    """Delete finished tasks.

    With their attempts and logs. Give a filter, or --all. Live ones must be cancelled first.
    """
    _deal_with("delete", None, task_ids=(), **given)


def _deal_with(  # noqa: PLR0913 - the options
    kind: OperationKind,
    change: Change | None,
    *,
    task_ids: Sequence[int],
    everything: bool,
    dry_run: bool,
    reason: str | None = None,
    **given: Any,
) -> None:
    """Nobody touches all tasks by leaving something out."""
    filters = {name: value for name, value in given.items() if value is not None}
    if sum(map(bool, (task_ids, filters, everything))) != 1:
        what = "Nothing says which tasks" if not (task_ids or filters or everything) else "That is too much"
        msg = f"{what}: give either {'ids, or ' if change else ''}a filter (--queue, --status, --type …), or --all."
        raise click.UsageError(f"{msg} `pgqueue task {kind} --all --dry-run` lists what --all means.")
    if task_ids and change:
        _one_by_one(kind, tuple(dict.fromkeys(task_ids)), change, dry_run=dry_run)
        return
    from pgqueue.models import OperationFilter

    wanted = OperationFilter(all=everything, **filters)
    if dry_run:
        _preview(kind, wanted)
    else:
        _operate(kind, wanted, reason)


def _one_by_one(kind: OperationKind, task_ids: tuple[int, ...], change: Change, *, dry_run: bool) -> None:
    if dry_run:
        _list_them(kind, run(lambda service: _read(service, task_ids)), len(task_ids))
        return
    changed, status = run(lambda service: _change_all(service, task_ids, change))
    emit_ids(changed, [Column("ID", lambda row: str(row.task_id))])
    asked = sum(1 for row in changed if row.status == "running")
    say(f"{DONE[kind]} {words.plural(len(changed), 'task')}" + _asked(asked))
    click.get_current_context().exit(status)


async def _change_all(service: QueueOperations, task_ids: tuple[int, ...], change: Change) -> tuple[list[Changed], int]:
    """Change one after the other; one that cannot be changed is said, and the others go on."""
    changed: list[Changed] = []
    status = 0
    for task_id in task_ids:
        try:
            changed.append(Changed(task_id, await change(service, task_id)))
        except (errors.InvalidTransition, errors.TaskNotFound, errors.DuplicateTask) as error:
            status = max(status, report(error))
    return changed, status


def _preview(kind: OperationKind, wanted: OperationFilter) -> None:
    async def work(service: QueueOperations) -> tuple[Operation, list[Task]]:
        from pgqueue import calls

        preview = await service.db.run(calls.preview_operation(kind, wanted))
        return preview, await _read(service, preview.sample_ids)

    preview, tasks = run(work)
    _list_them(kind, tasks, preview.matched, more=preview.is_capped)


async def _read(service: QueueOperations, task_ids: Sequence[int]) -> list[Task]:
    return [await service.get_task(task_id) for task_id in task_ids]


def _list_them(kind: OperationKind, tasks: list[Task], count: int, *, more: bool = False) -> None:
    emit_rows(tasks, columns(), empty="no task matches")
    newest = f" (the newest {len(tasks)} are shown)" if count > len(tasks) else ""
    least = "at least " if more else ""
    say(f"{least}{words.plural(count, 'task')} would be {DONE[kind]}{newest}; nothing was changed")


def _operate(kind: OperationKind, wanted: OperationFilter, reason: str | None) -> None:
    done = run(lambda service: _with_bar(service, kind, wanted, reason))
    if common().output != "table":
        emit_operation(done)
    asked = done.details.get("asked_to_stop", {"count": 0})["count"]
    say(f"{DONE[kind]} {words.plural(done.done, 'task')}{_asked(asked)}")
    for why, which in skips(done).items():
        if why != "asked to stop":
            say(f"skipped as {why}: {which}")
    if done.state == "cancelled":
        say(f"operation {done.operation_id} was cancelled at {done.percent:.0f}%")
    click.get_current_context().exit(CONFLICT if done.skipped or done.state != "completed" else 0)


def _asked(count: int) -> str:
    return f", {count:,} of them as soon as they heed it" if count else ""


async def _with_bar(
    service: QueueOperations, kind: OperationKind, wanted: OperationFilter, reason: str | None
) -> Operation:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pgqueue import calls
    from pgqueue.services import drive

    operation_id = await service.db.run(calls.start_operation(kind, wanted, reason=reason))
    shown = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
    with Progress(*shown, console=console(stderr=True), transient=True, disable=not is_terminal(stderr=True)) as bar:
        line = bar.add_task(f"operation {operation_id}", total=100)
        async for operation in drive(service.db, operation_id):
            bar.update(line, completed=operation.percent, description=f"{DONE[kind]} {operation.done:,}")
    return operation
