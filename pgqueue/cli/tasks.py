"""What commands about several tasks share: the filter, and how a list of tasks is laid out."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgqueue.cli import words
from pgqueue.cli.output import Column
from pgqueue.cli.parameters import TASK_ID, Moment

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.models import TaskFilter, TaskRecord

F = TypeVar("F", bound="Callable[..., Any]")
LIVE = ("blocked", "pending", "running")
ENDED = ("completed", "failed", "cancelled")


def filter_options(statuses: tuple[str, ...], default: str | None = None) -> Callable[[F], F]:
    """Add the options of a TaskFilter; `statuses` are those that can be asked for."""
    options = (
        click.option("--queue", "queue_name", metavar="NAME", help="Only this queue."),
        click.option("--status", type=click.Choice(statuses), default=default, help="Only this status."),
        click.option("--type", "task_type", metavar="TYPE", help="Only this task type."),
        click.option("--user-id", metavar="ID", help="Only this user's."),
        click.option("--project-id", metavar="ID", help="Only this project's."),
        click.option("--parent", "parent_id", type=TASK_ID, metavar="ID", help="Only those that this task submitted."),
        click.option(
            "--since",
            "created_from",
            type=Moment(past=True),
            metavar="TIME",
            help="Only those submitted since then: a moment, or 90m or 2d ago.",
        ),
        click.option(
            "--until", "created_to", type=Moment(past=True), metavar="TIME", help="Only those submitted before then."
        ),
    )

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def task_filter(**given: Any) -> TaskFilter:
    """Return the filter that the options make."""
    from pgqueue.models import TaskFilter

    return TaskFilter(**given)


def columns() -> list[Column[Any]]:
    """Return the columns of a list of tasks."""
    now = datetime.now(UTC)
    return [
        Column("ID", lambda task: str(task.task_id), right=True),
        Column("TYPE", lambda task: task.task_type, flexible=True),
        Column("QUEUE", lambda task: task.queue_name, flexible=True),
        Column("STATUS", lambda task: task.status, lambda task: words.STYLES.get(task.status, "")),
        Column("TRIES", _tries, right=True),
        Column("CREATED", lambda task: words.age(task.created_at, now), right=True),
        Column("RAN", lambda task: words.ran(task, now), right=True),
        Column("NOTE", lambda task: words.note(task, now), flexible=True),
    ]


def _tries(task: TaskRecord) -> str:
    return f"{task.attempt}/{task.max_retries + 1}" if task.failures else str(task.attempt)
