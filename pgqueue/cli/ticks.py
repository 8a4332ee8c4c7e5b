"""`pgqueue schedule history` and `backfill`: what became of ticks, and those that were never fired."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.output import Column, emit_rows
from pgqueue.cli.parameters import Moment
from pgqueue.cli.schedules import NAME, in_zone, run_scheduling
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from datetime import datetime

    from pgqueue.models import ScheduleTick
    from pgqueue.services import SchedulerService

    Found = tuple[str, list[ScheduleTick]]

LATE_S = 1.0
STYLES = {"fired": "green", "skipped": "dim"}


@click.command()
@NAME
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=20, metavar="N", help="How many ticks.")
@click.option("--before", type=Moment(past=True), metavar="TIME", help="Only ticks before: a moment, or 2d ago.")
@data_options
def history(*, name: str, limit: int, before: datetime | None) -> None:
    """Show what became of its ticks, newest first.

    Fired, skipped and why, or queued behind a task that has not ended. It is kept for 30 days.
    """

    async def work(service: SchedulerService) -> Found:
        schedule = await service.get_scheduled_task(name)
        return schedule.time_zone, await service.get_scheduled_task_history(name, limit, before)

    time_zone, ticks = run_scheduling(work)
    emit_rows(ticks, columns(time_zone), empty=f"no tick of {name} has come yet")


@click.command()
@NAME
@click.option(
    "--since",
    type=Moment(past=True),
    required=True,
    metavar="TIME",
    help="From then on: a moment, or 90m or 2d ago.",
)
@click.option("--until", type=Moment(past=True), metavar="TIME", help="Up to then.  [default: now]")
@click.option("--dry-run", is_flag=True, help="Only list the ticks, and which are due.")
@data_options
def backfill(*, name: str, since: datetime, until: datetime | None, dry_run: bool) -> None:
    """Fire past ticks that were never fired.

    At most 10,000 at a time. Those that were fired before stay as they are (known). Where overlap is not
    allow, the tasks run one after the other.
    """

    async def work(service: SchedulerService) -> Found:
        from pgqueue import calls

        schedule = await service.get_scheduled_task(name)
        now = await service.db.run(calls.clock())
        return schedule.time_zone, await service.backfill_scheduled_task(name, since, until or now, dry_run=dry_run)

    time_zone, ticks = run_scheduling(work)
    emit_rows(ticks, columns(time_zone), empty=f"{name} names no moment in that time")
    counts = ", ".join(f"{count:,} {state}" for state, count in Counter(tick.state for tick in ticks).items())
    if dry_run:
        say(f"{counts or 'no tick'}; only a dry run: nothing was changed")
    elif ticks and common().output == "table":
        say(counts)


def columns(time_zone: str) -> list[Column[ScheduleTick]]:
    """Return the columns of a list of ticks."""
    return [
        Column("TICK", lambda tick: in_zone(tick.tick, time_zone)),
        Column("KIND", lambda tick: tick.kind.replace("_", " ")),
        Column("STATE", lambda tick: tick.state, lambda tick: STYLES.get(tick.state, "")),
        Column("TASK", lambda tick: str(tick.task_id or ""), right=True),
        Column("NOTE", lambda tick: _note(tick, time_zone), flexible=True),
    ]


def _note(tick: ScheduleTick, time_zone: str) -> str:
    """Return why it was skipped or waits, how far it reaches, or how late it was fired."""
    if tick.until is not None:
        return f"{tick.reason}; and all up to {in_zone(tick.until, time_zone)}"
    if tick.reason or tick.decided_at is None or tick.kind not in ("scheduled", "catch_up"):
        return tick.reason or ""
    late = (tick.decided_at - tick.tick).total_seconds()
    return f"{words.duration(late)} late" if late >= LATE_S else ""
