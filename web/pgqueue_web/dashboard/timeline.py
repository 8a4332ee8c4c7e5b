"""The life of a task as steps, with how long each took: waits, attempts, the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime

    from pgqueue.models import Execution, TaskRecord

__all__ = ["Step", "Timeline", "timeline_of"]

MOST_STEPS = 60
LEAST_WIDTH = 4.0
WIDTH = 1000.0


class Step(NamedTuple):
    """A stretch of time: what happened in it, which state it shows as, and where it lies in the picture."""

    title: str
    state: str
    start: datetime
    end: datetime
    x: float = 0.0
    width: float = 0.0

    @property
    def seconds(self) -> float:
        """How long it is."""
        return max((self.end - self.start).total_seconds(), 0.0)


class Timeline(NamedTuple):
    """All steps in their order; `left_out` early ones are not shown."""

    steps: list[Step]
    left_out: int


def timeline_of(task: TaskRecord, executions: list[Execution], now: datetime) -> Timeline:
    """Return the steps of a task up to its end, or up to now."""
    steps: list[Step] = []
    at = task.created_at or task.run_at or now
    for execution in executions:
        _wait(steps, at, execution.started_at, steps[-1].state if steps else None)
        title = f"Attempt {execution.attempt} {execution.outcome.replace('_', ' ')}"
        steps.append(Step(title, _shown(execution.outcome), execution.started_at, execution.finished_at))
        at = execution.finished_at
    if task.status == "running" and task.started_at is not None:
        _wait(steps, at, task.started_at, steps[-1].state if steps else None)
        steps.append(Step(f"Attempt {task.attempt} runs", "running", task.started_at, max(now, task.started_at)))
    elif task.finished_at is None:
        due = task.run_at if task.run_at is not None and task.run_at > at else at
        if due > now:
            steps.append(Step("Not due yet", "scheduled", at, due))
        else:
            _wait(steps, at, now, steps[-1].state if steps else None)
    elif not steps or task.finished_at > at:
        steps.append(Step(f"Waited, then {task.status}", task.status, at, task.finished_at))
    return _laid_out(steps)


def _wait(steps: list[Step], start: datetime, end: datetime, before: str | None) -> None:
    if end > start:
        title = "Waited to be tried again" if before == "failed" else "Waited"
        steps.append(Step(title, "pending", start, end))


def _shown(outcome: str) -> str:
    return {"completed": "completed", "cancelled": "cancelled", "released": "pending", "snoozed": "scheduled"}.get(
        outcome, "failed"
    )


def _laid_out(steps: list[Step]) -> Timeline:
    """Give each step its place, in proportion to its time, but none too narrow to be seen."""
    shown = steps[-MOST_STEPS:]
    total = sum(step.seconds for step in shown) or 1.0
    room = WIDTH - LEAST_WIDTH * len(shown)
    x, placed = 0.0, []
    for step in shown:
        width = LEAST_WIDTH + room * (step.seconds / total if total else 0)
        placed.append(step._replace(x=round(x, 2), width=round(width, 2)))
        x += width
    return Timeline(placed, len(steps) - len(shown))
