"""What wants attention, each with what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pgqueue_web.dashboard.words import duration, number, seconds_of

if TYPE_CHECKING:
    from pgqueue.models import SchedulerStats, WorkerInfo

__all__ = ["Warning", "warnings_of"]

LONG_TRANSACTION_S = 300
LATE_SCHEDULE_S = 60
MANY_DEAD = 100_000


class Warning(NamedTuple):  # noqa: A001 - the page's own word
    """One line, what to do, and where."""

    text: str
    hint: str
    path: str


def warnings_of(
    health: dict[str, Any],
    workers: list[WorkerInfo],
    queues: list[dict[str, Any]],
    stuck: list[dict[str, Any]],
    schedules: SchedulerStats,
) -> list[Warning]:
    """Return what is wrong, the worst first."""
    return [*_of_workers(workers, queues), *_of_tasks(stuck), *_of_schedules(schedules), *_of_database(health)]


def _of_workers(workers: list[WorkerInfo], queues: list[dict[str, Any]]) -> list[Warning]:
    found = []
    for row in queues:
        if not row["workers"] and row["waiting"] and row["paused_at"] is None:
            text = f"{number(row['waiting'])} tasks wait in {row['name']}, and no worker serves it"
            found.append(Warning(text, "Start one: pgqueue worker MODULE:QUEUE_SERVICE", "/queues"))
    gone = [info for info in workers if info.state in ("silent", "lost")]
    if gone:
        text = f"{len(gone)} worker{'s do' if len(gone) > 1 else ' does'} not answer"
        found.append(Warning(text, "Their tasks are given to others; look at their logs.", "/workers"))
    return found


def _of_tasks(stuck: list[dict[str, Any]]) -> list[Warning]:
    if not stuck:
        return []
    text = f"{len(stuck)} task{'s are' if len(stuck) > 1 else ' is'} stuck: {stuck[0]['reason']}"
    return [Warning(text, "Look at the first of them.", f"/tasks/{stuck[0]['id']}")]


def _of_schedules(stats: SchedulerStats) -> list[Warning]:
    found = []
    if stats.lag > LATE_SCHEDULE_S:
        text = f"Schedules are {duration(stats.lag)} late"
        found.append(Warning(text, "Every worker fires them: see that one runs.", "/schedules"))
    if stats.failed_jobs:
        text = f"{stats.failed_jobs} schedule{'s have' if stats.failed_jobs > 1 else ' has'} an error"
        found.append(Warning(text, "It says what is wrong.", "/schedules"))
    return found


def _of_database(health: dict[str, Any]) -> list[Warning]:
    found = []
    oldest = health.get("oldest_transaction")
    if oldest is not None and seconds_of(oldest) > LONG_TRANSACTION_S:
        text = f"A transaction is open for {duration(seconds_of(oldest))}: dead rows cannot be removed meanwhile"
        found.append(Warning(text, "End it: see the oldest transaction.", "/system"))
    if (health.get("dead_tasks") or 0) > max(MANY_DEAD, health.get("live_tasks") or 0):
        text = f"The table of live tasks has {number(health['dead_tasks'])} dead rows"
        found.append(Warning(text, "See that autovacuum runs and no old transaction holds it up.", "/system"))
    if (health.get("notify_queue_usage") or 0) > 0.5:
        found.append(Warning("The notification queue is more than half full", "A listener does not read.", "/system"))
    if health.get("missing_partitions"):
        found.append(Warning("Partitions for the next days are missing", "pgqueue migrate makes them.", "/system"))
    return found
