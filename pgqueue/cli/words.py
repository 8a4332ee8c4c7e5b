"""Numbers, times and states as people read them."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.models import TaskProgress, TaskRecord

STYLES = {
    "completed": "green",
    "failed": "red",
    "running": "bold",
    "cancelled": "dim",
    "blocked": "dim",
    "alive": "green",
    "silent": "red",
    "lost": "red",
    "stopping": "bold",
    "paused": "bold red",
    "ok": "green",
    "warning": "bold",
    "failure": "bold red",
}
"""Colours that can be read on light and dark; states that are not here have none."""

UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))
INTERVAL = re.compile(r"(?:(-?\d+) days? ?)?(?:(-?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?")


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: 250ms, 3.2s, 12s, 4m 05s, 2h 13m, 3d 04h."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = int(seconds)
    for (size, unit), (lower, lower_unit) in itertools.pairwise(UNITS):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // lower:02}{lower_unit}"
    return f"{whole}s"


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """Return roughly how long ago a moment was, or in what time it will be: 12s ago, in 3h."""
    if moment is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    size, unit = next((pair for pair in UNITS if pair[0] <= abs(seconds)), (1, "s"))
    return f"{seconds // size:.0f}{unit} ago" if seconds >= 0 else f"in {-seconds // size:.0f}{unit}"


def moment(value: datetime | None) -> str:
    """Return a moment in the local zone, to the second, and how long ago it was."""
    if value is None:
        return ""
    return f"{value.astimezone():%Y-%m-%d %H:%M:%S %z} ({age(value)})"


def interval(text: str | None) -> float | None:
    """Return the seconds of an interval as PostgreSQL writes it into JSON: 1 day 02:03:04.5."""
    found = INTERVAL.fullmatch(text or "")
    if not text or not found:
        return None
    days, sign, hours, minutes, seconds = found.groups()
    clock = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(seconds or 0)
    return int(days or 0) * 86_400 + (-clock if sign else clock)


def count(number: int | None) -> str:
    """Return a number with separators; nothing for None."""
    return "" if number is None else f"{number:,}"


def plural(number: int, noun: str) -> str:
    """Return `1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def first_line(text: str | None) -> str:
    """Return the first line of a text that is not empty."""
    lines = (text or "").strip().splitlines()
    return lines[0] if lines else ""


def note(task: TaskRecord, now: datetime) -> str:
    """Return what matters most about a task in a list: why it failed, when it runs next, who runs it."""
    if task.status == "running":
        return "asked to stop" if task.cancel_requested_at else f"worker {task.worker_id}"
    if task.status == "pending" and task.run_at and task.run_at > now:
        due = f"due {age(task.run_at, now)}"
        return f"{due}, after: {first_line(task.error)}" if task.error else due
    return first_line(task.error)


def ran(task: TaskRecord, now: datetime) -> str:
    """Return how long the last attempt ran, or runs by now."""
    if task.started_at is None or task.status in ("pending", "blocked"):
        return ""
    return duration(((task.finished_at or now) - task.started_at).total_seconds())


def progress(report: TaskProgress) -> str:
    """Return what a task says of itself besides the percentage."""
    steps = f" ({report.completed_steps} of {report.total_steps})" if report.total_steps else ""
    parts = [f"{report.step}{steps}" if report.step else steps.strip(), report.message or ""]
    return ": ".join(part for part in parts if part)


def compact(value: Any) -> str:
    """Return a value as JSON on one line."""
    import msgspec

    return msgspec.json.encode(value).decode()
