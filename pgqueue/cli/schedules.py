"""What commands about schedules share: how one is shown, and its next runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import click

from pgqueue.cli import words
from pgqueue.cli.output import Column, emit_one, facts, plain, pretty, section, table, write_table
from pgqueue.cli.session import run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pgqueue.models import ScheduledTask
    from pgqueue.services import SchedulerService

T = TypeVar("T")
SHOWN_RUNS = 5
NAME = click.argument("name", metavar="NAME")


class Shown(NamedTuple):
    """A schedule, what its expression means, when it runs next (never while paused), and why it cannot."""

    schedule: ScheduledTask
    words: str | None
    next_runs: Sequence[datetime]
    problem: str | None


def run_scheduling(work: Callable[[SchedulerService], Awaitable[T]]) -> T:
    """Run an asynchronous piece of work with the schedules of the chosen database; return its result."""
    from pgqueue.services import SchedulerService

    return run(lambda service: work(SchedulerService(service.db)))


async def shown(service: SchedulerService, schedule: ScheduledTask) -> Shown:
    """Work out what is shown of a schedule besides itself."""
    from pgqueue import calls
    from pgqueue.cron import cron_of
    from pgqueue.errors import InvalidInput
    from pgqueue.services.scheduling import next_runs

    try:
        means = cron_of(schedule.cron_expr, schedule.time_zone).describe()
    except InvalidInput as error:
        return Shown(schedule, None, [], error.message)
    now = await service.db.run(calls.clock())
    can_run = schedule.is_active and not schedule.error
    return Shown(schedule, means, next_runs(schedule, SHOWN_RUNS, now) if can_run else [], schedule.error)


def emit(found: Shown) -> None:
    """Write a schedule as the output option says."""
    emit_one(as_json(found), lambda: write(found))


def as_json(found: Shown) -> dict[str, Any]:
    """Return a schedule as what JSON knows."""
    value: dict[str, Any] = plain(found.schedule) | {"words": found.words, "next_runs": plain(list(found.next_runs))}
    return value


def write(found: Shown) -> None:
    """Write a schedule for people."""
    write_table(facts(_facts(found)))
    section("payload", pretty(found.schedule.payload))
    if found.next_runs:
        click.echo()
        write_table(table(found.next_runs, run_columns(found.schedule.time_zone)))


def _facts(found: Shown) -> dict[str, str | None]:
    schedule = found.schedule
    retries = words.plural(schedule.max_retries, "failure")
    limit = f"; at most {words.duration(schedule.timeout)} each" if schedule.timeout else ""
    return {
        "schedule": schedule.name,
        "state": state(found),
        "expression": schedule.cron_expr,
        "in words": found.words,
        "last": words.moment(schedule.last_run_at),
        "last task": str(schedule.last_task_id) if schedule.last_task_id else None,
        "fired": f"{schedule.run_count:,}" + (f" of {schedule.max_runs:,}" if schedule.max_runs else ""),
        "task type": schedule.task_type,
        "queue": f"{schedule.queue_name}, priority {schedule.priority}",
        "retries": f"{retries} would be retried{limit}",
        "user": schedule.user_id,
        "project": schedule.project_id,
        "missed": f"{schedule.missed}, within {words.duration(schedule.catch_up_window)}",
        "overlap": schedule.overlap,
        "jitter": f"up to {words.duration(schedule.jitter)}" if schedule.jitter else None,
        "starts": words.moment(schedule.starts_at),
        "ends": words.moment(schedule.ends_at),
        "created": words.moment(schedule.created_at),
    }


def state(found: Shown) -> str:
    """Return whether it is active, and if not, why."""
    schedule = found.schedule
    if not schedule.is_active:
        reason = f": {schedule.pause_reason}" if schedule.pause_reason else ""
        return f"paused {words.age(schedule.paused_at)}{reason}"
    if found.problem:
        return f"failed: {found.problem}"
    return "active" if found.next_runs else "ended"


def run_columns(time_zone: str) -> list[Column[datetime]]:
    """Return the columns of a list of runs: by the clocks of the schedule's zone, in UTC, and in what time."""
    now = datetime.now(UTC)
    utc = [Column[datetime]("UTC", lambda run: f"{run.astimezone(UTC):%Y-%m-%d %H:%M:%S}")]
    return [
        Column("NEXT RUN", lambda run: in_zone(run, time_zone)),
        *(utc if time_zone != "UTC" else []),
        Column("IN", lambda run: words.duration((run - now).total_seconds()), right=True),
    ]


def in_zone(moment: datetime, time_zone: str) -> str:
    """Return a moment as the clocks of a zone show it, with the day of the week and the offset."""
    return f"{moment.astimezone(ZoneInfo(time_zone)):%a %Y-%m-%d %H:%M:%S %z}"
