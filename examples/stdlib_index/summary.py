"""The figures of a run, and the tables that show them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
from rich.table import Table
from rich.text import Text

from pgqueue import Task
from pgqueue.models import Execution, TaskStatistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from rich.console import Console

__all__ = ["Figures", "Outcome", "Percentiles", "figures_of", "print_summary"]

MOST_FAILURES = 12
MOST_NAME = 40


class Outcome(msgspec.Struct, frozen=True):
    """What the database says after a run: statistics, all tasks, and the attempts of those tried more than once."""

    statistics: TaskStatistics
    tasks: list[Task]
    executions: list[Execution]


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p95: float
    p99: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers. `seconds` from the submit to the last end; `failures` are (name, reason)."""

    total: int
    completed: int
    failed: int
    seconds: float
    throughput: float
    wait: Percentiles
    run: Percentiles
    retries: int
    tried_again: int
    succeeded_on_retry: int
    retry_reasons: list[tuple[str, int]]
    failures: list[tuple[str, str]]
    by_worker: list[int]


def figures_of(outcome: Outcome) -> Figures:
    """Compute the figures. The wait is from when a task was submitted to its first start."""
    statistics, tasks = outcome.statistics, outcome.tasks
    first = {attempt.task_id: attempt.started_at for attempt in outcome.executions if attempt.attempt == 1}
    failed = [attempt for attempt in outcome.executions if attempt.outcome != "completed"]
    seconds = _seconds(min(_known(t.created_at for t in tasks)), max(_known(t.finished_at for t in tasks)))
    return Figures(
        total=statistics.total,
        completed=statistics.completed,
        failed=statistics.failed,
        seconds=seconds,
        throughput=statistics.total / seconds if seconds else 0.0,
        wait=_percentiles([_seconds(t.created_at, first.get(t.task_id, t.started_at)) for t in tasks]),
        run=Percentiles(statistics.p50_duration_ms, statistics.p95_duration_ms, statistics.p99_duration_ms),
        retries=sum(task.attempt - 1 for task in tasks),
        tried_again=sum(task.attempt > 1 for task in tasks),
        succeeded_on_retry=sum(task.attempt > 1 and task.status == "completed" for task in tasks),
        retry_reasons=Counter(attempt.error_type or attempt.outcome for attempt in failed).most_common(),
        failures=sorted((_name(task), _reason(task)) for task in tasks if task.status == "failed"),
        by_worker=[count for _, count in sorted(Counter(task.worker_id or 0 for task in tasks).items())],
    )


def _name(task: Task) -> str:
    return str(task.payload.get("name") or task.payload.get("shelf") or task.task_type)


def _reason(task: Task) -> str:
    """Return why a task failed: its error without the name of the exception that made it permanent."""
    return (task.error or "").removeprefix("PermanentError: ")


def _known(moments: Iterable[datetime | None]) -> Iterator[datetime]:
    return (moment for moment in moments if moment is not None)


def _seconds(start: datetime | None, end: datetime | None) -> float:
    return (end - start).total_seconds() if start is not None and end is not None else 0.0


def _percentiles(seconds: list[float]) -> Percentiles:
    ordered = sorted(seconds)
    return Percentiles(*(1000 * _nearest(ordered, share) for share in (0.50, 0.95, 0.99)))


def _nearest(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def print_summary(console: Console, figures: Figures) -> None:
    """Print the figures, and the failures with their reasons."""
    console.print()
    console.print(_facts(figures))
    if figures.failures:
        console.print()
        console.print(_failures(figures.failures))
    console.print()


def _facts(figures: Figures) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    again = f"{figures.tried_again} tasks, {figures.succeeded_on_retry} of them completed"
    table.add_row("tasks", f"{figures.total:,}: {figures.completed:,} completed, {figures.failed:,} failed for good")
    table.add_row("throughput", f"{figures.throughput:.1f} tasks/s, {figures.seconds:.1f} s in all")
    table.add_row("wait", duration_row(figures.wait))
    table.add_row("run", duration_row(figures.run))
    table.add_row("retries", f"{figures.retries} by {again} ({retry_reasons(figures)})" if figures.retries else "none")
    table.add_row("workers", " + ".join(f"{count:,}" for count in figures.by_worker) + " tasks")
    return table


def retry_reasons(figures: Figures) -> str:
    """Write what made tasks try again."""
    if len(figures.retry_reasons) == 1:
        return f"each after {figures.retry_reasons[0][0]}"
    return ", ".join(f"{count:,} after {name}" for name, count in figures.retry_reasons)


def duration_row(found: Percentiles) -> str:
    """Write percentiles of milliseconds."""
    return f"p50 {duration(found.p50)}, p95 {duration(found.p95)}, p99 {duration(found.p99)}"


def duration(ms: float) -> str:
    """Write milliseconds with a unit that fits."""
    return f"{ms / 1000:.1f} s" if ms >= 1000 else f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _failures(failures: list[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    width = min(max(len(name) for name, _ in failures), MOST_NAME)
    table.add_column("FAILED FOR GOOD", no_wrap=True, min_width=width, max_width=width)
    table.add_column("REASON", overflow="fold")
    for name, reason in failures[:MOST_FAILURES]:
        table.add_row(Text(name), Text(reason.splitlines()[0] if reason else ""))
    if len(failures) > MOST_FAILURES:
        table.add_row(Text(f"and {len(failures) - MOST_FAILURES} more", style="dim"), Text("see the report"))
    return table
