"""`pgqueue task`: what became of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, data_options
from pgqueue.cli.bulk import cancel, delete, retry
from pgqueue.cli.follow import result, watch
from pgqueue.cli.logs import logs
from pgqueue.cli.output import Column, emit_one, emit_rows, facts, plain, pretty, section, table, write_table
from pgqueue.cli.parameters import TASK_ID
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.cli.tasks import ENDED, LIVE, columns, filter_options, task_filter

if TYPE_CHECKING:
    from pgqueue.models import Execution, TaskProgress
    from pgqueue.services import QueueOperations, Task, TaskPage


@click.group(cls=Group)
def task() -> None:
    """List, show, watch, retry and cancel tasks."""


@task.command("list")
@filter_options((*LIVE, *ENDED))
@click.option("--page", type=click.IntRange(1), default=1, metavar="N", help="Which page.")
@click.option("--page-size", type=click.IntRange(1, 1000), default=20, metavar="N", help="Tasks on a page.")
@data_options
def list_(**given: Any) -> None:
    """List tasks, newest first."""
    wanted = task_filter(**given)
    page = run(lambda service: service.list_tasks(wanted))
    empty = "no tasks match" if any(_filters(given)) or wanted.page > 1 else "there are no tasks"
    emit_rows(page[0], columns(), empty=f"{empty}; submit one: pgqueue submit TYPE --arg KEY=VALUE")
    _say_total(page, wanted.page, wanted.page_size)


def _filters(given: dict[str, Any]) -> list[Any]:
    return [value for name, value in given.items() if name not in ("page", "page_size")]


def _say_total(page: TaskPage[Task], number: int, size: int) -> None:
    tasks, total = page
    if tasks and total > len(tasks):
        first = (number - 1) * size + 1
        of = f"{total:,} or more" if page.total_capped else f"{total:,}"
        more = f"; the next ones: --page {number + 1}" if first + len(tasks) <= total else ""
        say(f"{first:,} to {first + len(tasks) - 1:,} of {of}{more}")


class Shown(NamedTuple):
    """All that is known about a task."""

    task: Task
    executions: list[Execution]
    progress: TaskProgress
    why_waiting: str | None


@task.command()
@click.argument("task_id", metavar="ID", type=TASK_ID)
@data_options
def show(task_id: int) -> None:
    """Show all about a task, and why it waits.

    State, payload, result, each attempt with its error, the last traceback.
    """
    shown = run(lambda service: _read(service, task_id))
    value = plain(shown.task) | {
        "progress": plain(shown.progress),
        "why_waiting": shown.why_waiting,
        "executions": plain(shown.executions),
    }
    emit_one(value, lambda: _write(shown))


async def _read(service: QueueOperations, task_id: int) -> Shown:
    from pgqueue.services import StateService

    found = await service.get_task(task_id)
    executions = await service.get_executions(task_id)
    progress = await StateService(service.db).get_progress(task_id)
    waits = found.status in ("pending", "blocked")
    return Shown(found, executions, progress, await service.why_waiting(task_id) if waits else None)


def _write(shown: Shown) -> None:
    write_table(facts(_facts(shown)))
    found = shown.task
    section("payload", pretty(found.payload))
    if found.metadata is not None:
        section("metadata", pretty(found.metadata))
    if found.result_value is not None:
        section("result", pretty(found.result_value))
    if shown.executions:
        click.echo()
        write_table(table(shown.executions, _attempts()))
        if found.status != "completed" and (trace := shown.executions[-1].traceback):
            section("traceback", trace.rstrip())


def _facts(shown: Shown) -> dict[str, str | None]:
    found = shown.task
    waits = found.status in ("pending", "blocked")
    return {
        "task": str(found.task_id),
        "type": found.task_type,
        "status": found.status + (" (asked to stop)" if found.cancel_requested_at else ""),
        "why it waits": shown.why_waiting,
        "progress": _progress(shown.progress),
        "error": found.error,
        "queue": f"{found.queue_name}, priority {found.priority}",
        "attempts": _tried(found),
        "unique key": found.unique_key,
        "user": found.user_id,
        "project": found.project_id,
        "parent": str(found.parent_id) if found.parent_id else None,
        "created": words.moment(found.created_at),
        "due": words.moment(found.run_at) if waits else None,
        "started": None if waits else words.moment(found.started_at),
        "finished": words.moment(found.finished_at),
        "worker": str(found.worker_id) if found.worker_id else None,
    }


def _tried(found: Task) -> str:
    failed = f", {found.failures} failed" if found.failures else ""
    lost = f", {found.crashes} lost with their worker" if found.crashes else ""
    limit = f"; at most {words.duration(found.timeout)} each" if found.timeout else ""
    return f"{found.attempt}{failed}{lost}; {words.plural(found.max_retries, 'failure')} would be retried{limit}"


def _progress(report: TaskProgress) -> str | None:
    said = words.progress(report)
    return f"{report.progress}%  {said}".rstrip() if report.progress or said else None


def _attempts() -> list[Column[Execution]]:
    return [
        Column("ATTEMPT", lambda e: str(e.attempt), right=True),
        Column("OUTCOME", lambda e: e.outcome.replace("_", " "), lambda e: words.STYLES.get(e.outcome, "")),
        Column("STARTED", lambda e: f"{e.started_at.astimezone():%Y-%m-%d %H:%M:%S}"),
        Column("RAN", lambda e: words.duration((e.finished_at - e.started_at).total_seconds()), right=True),
        Column("WORKER", lambda e: str(e.worker_id or ""), right=True),
        Column("ERROR", _error, flexible=True),
    ]


def _error(execution: Execution) -> str:
    parts = (execution.error_type, words.first_line(execution.error_message))
    return ": ".join(part for part in parts if part)


for _command in (watch, logs, result, retry, cancel, delete):
    task.add_command(_command)
