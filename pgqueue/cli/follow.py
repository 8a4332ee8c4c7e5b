"""Following tasks to their end: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, Self

import click

from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.failures import report
from pgqueue.cli.output import console, is_terminal, line, plain, pretty
from pgqueue.cli.parameters import TASK_ID, Duration
from pgqueue.cli.session import run
from pgqueue.cli.talk import visible
from pgqueue.errors import InvalidTransition, TaskCancelled, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.progress import TaskID

    from pgqueue.models import TaskProgress
    from pgqueue.services import QueueOperations, Task


class Display(Protocol):
    """Shows the progress of tasks as it comes."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(self, *error: object) -> None:
        """End."""

    def add(self, task: Task) -> None:
        """Begin to show a task."""

    def show(self, progress: TaskProgress) -> None:
        """Show where it stands."""


class Bars:
    """One bar a task, redrawn in place."""

    def __init__(self, out: Console) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        text = TextColumn("{task.description}", table_column=Column(no_wrap=True))
        message = TextColumn("{task.fields[message]}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1))
        parts = (text, BarColumn(24), TaskProgressColumn(), TimeElapsedColumn(), message)
        self._bars = Progress(*parts, console=out, expand=True)
        self._ids: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def add(self, task: Task) -> None:
        """Add a bar."""
        from rich.markup import escape

        name = escape(visible(task.task_type))
        self._ids[task.task_id] = self._bars.add_task(f"{task.task_id} {name}", total=100, message=task.status)

    def show(self, progress: TaskProgress) -> None:
        """Move the bar."""
        from rich.markup import escape

        status = f"[{words.STYLES.get(progress.status, 'none')}]{progress.status}[/]"
        which = self._ids[progress.task_id]
        message = f"{status} {escape(visible(_said(progress)))}"
        self._bars.update(which, completed=progress.progress, message=message)
        if progress.is_final:
            self._bars.stop_task(which)


class Lines:
    """One line a change, for files and pipes."""

    def __init__(self, *, stderr: bool, as_json: bool) -> None:
        self._stderr = stderr
        self._as_json = as_json

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""

    def add(self, task: Task) -> None:
        """Nothing to begin."""

    def show(self, progress: TaskProgress) -> None:
        """Write a line."""
        if self._as_json:
            text = line(plain(progress))
        else:
            where = f"task {progress.task_id}  {progress.status:9}  {progress.progress:3}%"
            text = f"{where}  {visible(_said(progress))}".rstrip()
        click.echo(text, err=self._stderr)


def _said(progress: TaskProgress) -> str:
    """Return what the task said last; nothing once it is completed, for then it is done with that."""
    return "" if progress.status == "completed" else words.progress(progress)


def display(*, stderr: bool = False) -> Display:
    """Return bars for a terminal, lines for anything else and where stdout is to be JSON."""
    as_json = common().output != "table" and not stderr
    if is_terminal(stderr=stderr) and not as_json:
        return Bars(console(stderr=stderr))
    return Lines(stderr=stderr, as_json=as_json)


async def watched(service: QueueOperations, task_id: int, at_most: float | None) -> Task:
    """Show a task's progress on stderr until it ended; return it.

    Raises TaskFailed, TaskCancelled, and TimeoutError after `at_most` seconds.
    """
    try:
        async with asyncio.timeout(at_most):
            with display(stderr=True) as shown:
                task = await _follow(service, task_id, shown)
    except TimeoutError:
        msg = f"task {task_id} did not end within {words.duration(at_most or 0)}; it goes on"
        raise TimeoutError(msg) from None
    return completed(task)


async def _follow(service: QueueOperations, task_id: int, shown: Display) -> Task:
    from pgqueue.services import StateService

    shown.add(await service.get_task(task_id))
    async for progress in StateService(service.db).follow_progress(task_id):
        shown.show(progress)
    return await service.get_task(task_id)


def completed(task: Task) -> Task:
    """Return a task that is completed. Raises TaskFailed, TaskCancelled, InvalidTransition."""
    detail: dict[str, object] = {"task_id": task.task_id}
    show = f"`pgqueue task show {task.task_id}` shows each attempt; `pgqueue task retry {task.task_id}` starts it again"
    if task.status == "failed":
        attempts = words.plural(task.attempt, "attempt")
        raise TaskFailed(f"task {task.task_id} failed after {attempts}: {task.error}", detail=detail, hint=show)
    if task.status == "cancelled":
        reason = task.error or "no reason was given"
        raise TaskCancelled(f"task {task.task_id} was cancelled: {reason}", detail=detail, hint=show)
    if task.status != "completed":
        hint = f"`pgqueue task result --wait {task.task_id}` waits for it"
        raise InvalidTransition(f"task {task.task_id} is {task.status} and has no result yet", detail=detail, hint=hint)
    return task


@click.command()
@click.argument("task_ids", metavar="ID…", type=TASK_ID, nargs=-1, required=True)
@data_options
def watch(task_ids: tuple[int, ...]) -> None:
    """Follow tasks until they end.

    Shows live bars on a terminal, one line a change elsewhere. Exits with 1 if one did not complete.
    """
    status = 0
    for task in run(lambda service: _watch(service, task_ids)):
        try:
            completed(task)
        except (TaskFailed, TaskCancelled) as error:
            status = report(error)
    click.get_current_context().exit(status)


async def _watch(service: QueueOperations, task_ids: Sequence[int]) -> list[Task]:
    with display() as shown:
        return await asyncio.gather(*(_follow(service, task_id, shown) for task_id in dict.fromkeys(task_ids)))


@click.command()
@click.argument("task_id", metavar="ID", type=TASK_ID)
@click.option("--wait", is_flag=True, help="Wait for its end.")
@click.option(
    "--timeout-wait",
    "--wait-timeout",
    "timeout_wait",
    type=Duration(),
    metavar="DURATION",
    help="Wait no longer than this (implies --wait).",
)
@data_options
def result(*, task_id: int, wait: bool, timeout_wait: float | None) -> None:
    """Print the result of a task as JSON.

    Exits with 1 if the task failed or was cancelled, with 4 if it has not ended.
    """
    if wait or timeout_wait is not None:
        task = run(lambda service: watched(service, task_id, timeout_wait))
    else:
        task = completed(run(lambda service: service.get_task(task_id)))
    value = task.result_value
    click.echo(line(value) if common().output == "jsonl" else pretty(value))
