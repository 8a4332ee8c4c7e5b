"""The history checker: what must hold of a run, whatever was killed, stopped or cut off meanwhile.

It reads what the database kept and what the handlers wrote into a file of their own, which no
transaction can take back.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Execution", "Finished", "History", "violations"]

ENDS = {
    "completed": {"completed"},
    "failed": {"failed", "timed_out", "lost"},
    "cancelled": {"cancelled", "released", "snoozed", "failed", "timed_out", "lost"},
}
"""Which outcome of the last attempt fits which final status."""


@dataclass(frozen=True)
class Finished:
    """A row of finished_tasks."""

    task_id: int
    status: str
    attempt: int
    failures: int
    crashes: int


@dataclass(frozen=True)
class Execution:
    """A row of executions."""

    task_id: int
    attempt: int
    worker_id: int
    outcome: str
    started_at: datetime
    finished_at: datetime


@dataclass
class History:
    """One run."""

    submitted: set[int]
    live: set[int]
    finished: list[Finished]
    executions: list[Execution]
    starts: list[tuple[int, int]] = field(default_factory=list)
    """(task, attempt) of each handler that started, as the handler itself wrote it."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """(task, attempt) of each handler that got to its end."""


def violations(history: History) -> list[str]:
    """Return what is wrong, in words; an empty list for a history that holds."""
    by_task: defaultdict[int, list[Execution]] = defaultdict(list)
    for execution in history.executions:
        by_task[execution.task_id].append(execution)
    return [
        *_lost_or_doubled(history),
        *(problem for finished in history.finished for problem in _adds_up(finished, by_task[finished.task_id])),
        *_leases(by_task),
        *_witness(history),
    ]


def _lost_or_doubled(history: History) -> list[str]:
    counts = Counter(finished.task_id for finished in history.finished)
    return [
        *(f"task {task_id} is still live" for task_id in sorted(history.live)),
        *(f"task {task_id} was lost" for task_id in sorted(history.submitted - counts.keys() - history.live)),
        *(f"task {task_id} ended {count} times" for task_id, count in counts.items() if count > 1),
        *(f"task {task_id} ended but was never submitted" for task_id in sorted(counts.keys() - history.submitted)),
    ]


def _adds_up(finished: Finished, executions: list[Execution]) -> list[str]:
    """Attempts, failures and crashes are the sums of what executions say, and the last one tells the status."""
    problems = []
    attempts = sorted(execution.attempt for execution in executions)
    if attempts != list(range(1, finished.attempt + 1)):
        problems.append(f"task {finished.task_id} had {finished.attempt} attempts but executions {attempts}")
    outcomes = Counter(execution.outcome for execution in executions)
    if outcomes["failed"] + outcomes["timed_out"] != finished.failures:
        problems.append(f"task {finished.task_id} counts {finished.failures} failures but had {dict(outcomes)}")
    if outcomes["lost"] != finished.crashes:
        problems.append(f"task {finished.task_id} counts {finished.crashes} crashes but had {dict(outcomes)}")
    if executions:
        last = max(executions, key=lambda execution: execution.attempt)
        if last.outcome not in ENDS[finished.status]:
            problems.append(f"task {finished.task_id} is {finished.status} but its last attempt {last.outcome}")
    if outcomes["completed"] > (finished.status == "completed"):
        problems.append(f"task {finished.task_id} is {finished.status} but completed {outcomes['completed']} times")
    return problems


def _leases(by_task: dict[int, list[Execution]]) -> list[str]:
    """One owner at a time: an attempt begins after the one before it has ended."""
    problems = []
    for task_id, executions in by_task.items():
        ordered = sorted(executions, key=lambda execution: (execution.attempt, execution.finished_at))
        for before, after in itertools.pairwise(ordered):
            if before.attempt == after.attempt:
                problems.append(
                    f"attempt {after.attempt} of task {task_id} ended as {before.outcome} and as {after.outcome}"
                )
            elif after.started_at < before.finished_at:
                problems.append(f"attempts {before.attempt} and {after.attempt} of task {task_id} overlap")
    return problems


def _witness(history: History) -> list[str]:
    """What handlers saw: no lease was used twice, and each start is on record."""
    recorded = {(execution.task_id, execution.attempt) for execution in history.executions}
    completed = {(e.task_id, e.attempt) for e in history.executions if e.outcome == "completed"}
    starts = Counter(history.starts)
    return [
        *(
            f"attempt {n} of task {task_id} started {count} times"
            for (task_id, n), count in starts.items()
            if count > 1
        ),
        *(f"attempt {n} of task {task_id} ran but is not on record" for task_id, n in sorted(starts.keys() - recorded)),
        *(
            f"attempt {n} of task {task_id} completed without running"
            for task_id, n in sorted(completed - set(history.ends))
        ),
    ]
