"""`pgqueue schedule`: tasks by the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, common, data_options
from pgqueue.cli.output import Column, emit_one, emit_rows, plain, table, write_table
from pgqueue.cli.planning import add, cron_option, update, zone_option
from pgqueue.cli.schedules import NAME, Shown, as_json, emit, run_columns, run_scheduling, shown, state, write
from pgqueue.cli.session import run
from pgqueue.cli.talk import say
from pgqueue.cli.ticks import backfill, columns, history
from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqueue.models import SchedulerStats, ScheduleTick
    from pgqueue.services import SchedulerService

    Row = dict[str, Any]

SHOWN_TICKS = 5
MOST = 1000
"""So many rows are read of a view."""


class Runs(NamedTuple):
    """When an expression runs next, and what it means."""

    cron_expr: str
    time_zone: str
    words: str
    next_runs: Sequence[datetime]


@click.group(cls=Group)
def schedule() -> None:
    """List, add, preview, pause and run schedules."""


@click.command("list")
@data_options
def list_() -> None:
    """List the schedules.

    When they run next, when they ran last and how that ended, whether they are paused or failed.
    """
    rows = run(lambda service: service.overview("schedule_overview"))
    empty = "there are no schedules; add one: pgqueue schedule add NAME TYPE --cron '0 * * * *'"
    emit_rows(rows, _columns(), empty=empty)
    if len(rows) == MOST:
        say(f"the first {MOST:,}; all: pgqueue db psql -- -c 'table pgqueue.schedule_overview'")


def _columns() -> list[Column[Row]]:
    now = datetime.now(UTC)
    return [
        Column("SCHEDULE", lambda row: row["name"], flexible=True),
        Column("TYPE", lambda row: row["task_type"], flexible=True),
        Column("CRON", lambda row: row["cron_expr"]),
        Column("ZONE", lambda row: row["time_zone"], flexible=True),
        Column("NEXT", lambda row: words.age(_moment(row["next_run_at"]), now), right=True),
        Column("LAST", lambda row: _last(row, now), lambda row: words.STYLES.get(row["last_status"], "")),
        Column("FIRED", lambda row: words.count(row["run_count"]), right=True),
        Column("STATE", _state, lambda row: words.STYLES.get(row["state"], ""), flexible=True),
    ]


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _last(row: Row, now: datetime) -> str:
    return f"{words.age(_moment(row['last_run_at']), now)} {row['last_status'] or ''}".strip() or "-"


def _state(row: Row) -> str:
    return f"{row['state']}: {row['reason']}" if row["reason"] else str(row["state"])


@click.command()
@NAME
@data_options
def show(*, name: str) -> None:
    """Show all about a schedule.

    What its expression means, its policy and payload, the next runs, what became of the last ticks.
    """

    async def work(service: SchedulerService) -> tuple[Shown, list[ScheduleTick]]:
        found = await shown(service, await service.get_scheduled_task(name))
        return found, await service.get_scheduled_task_history(name, SHOWN_TICKS)

    found, ticks = run_scheduling(work)
    emit_one(as_json(found) | {"history": plain(ticks)}, lambda: _write(found, ticks))


def _write(found: Shown, ticks: list[ScheduleTick]) -> None:
    write(found)
    if ticks:
        click.echo()
        write_table(table(ticks, columns(found.schedule.time_zone)))


@click.command("next")
@click.argument("name", metavar="[NAME]", required=False)
@cron_option("Of this expression, without a database.")
@zone_option("With --cron: the IANA zone.  [default: UTC]")
@click.option("-n", "--count", type=click.IntRange(1, 1000), default=5, metavar="N", help="How many runs.")
@data_options
def next_(*, name: str | None, cron_expr: str | None, time_zone: str | None, count: int) -> None:
    """Show when a schedule runs next.

    Or an expression that is none yet, with what it means in plain words.

    \b
      pgqueue schedule next hourly_report
      pgqueue schedule next --cron "0 9 * * MON-FRI" --zone Europe/Berlin -n 3
    """  # noqa: D301 - click reads the character
    if (name is None) == (cron_expr is None) or (name and time_zone):
        raise click.UsageError("Give either the name of a schedule, or --cron (and --zone).")
    if cron_expr is not None:
        _write_runs(_preview(cron_expr, time_zone or "UTC", count))
    else:
        _write_runs(run_scheduling(lambda service: _next_runs(service, str(name), count)))


def _preview(cron_expr: str, time_zone: str, count: int) -> Runs:
    from pgqueue.cron import cron_of
    from pgqueue.services.scheduling import preview

    means = cron_of(cron_expr, time_zone).describe()
    return Runs(cron_expr, time_zone, means, preview(cron_expr, time_zone, count, datetime.now(UTC)))


async def _next_runs(service: SchedulerService, name: str, count: int) -> Runs:
    found = await shown(service, await service.get_scheduled_task(name))
    schedule = found.schedule
    if found.words is None or found.problem:
        hint = f"correct it: pgqueue schedule update {name} --cron EXPR"
        raise InvalidInput(f"schedule {name!r} does not run: {found.problem}", hint=hint)
    if not schedule.is_active:
        say(f"{name} is {state(found)}; resumed now, it would run so")
    return Runs(schedule.cron_expr, schedule.time_zone, found.words, await service.get_next_runs(name, count))


def _write_runs(found: Runs) -> None:
    emit_one(found._asdict(), lambda: _write_runs_for_people(found))


def _write_runs_for_people(found: Runs) -> None:
    say(found.words)
    if found.next_runs:
        write_table(table(found.next_runs, run_columns(found.time_zone)))
    else:
        say("it has ended: it does not run again")


@click.command("run")
@NAME
@data_options
def run_(*, name: str) -> None:
    """Submit its task at once.

    Also while it is paused or an earlier task has not ended. Prints the id of the task.
    """
    task_id = run_scheduling(lambda service: service.run_scheduled_task_now(name))
    emit_one({"name": name, "task_id": task_id}, lambda: click.echo(str(task_id)))
    if common().output == "table":
        say(f"submitted; `pgqueue task watch {task_id}` follows it")


@click.command()
@NAME
@click.option("--reason", metavar="TEXT", help="Shown wherever the schedule is, and kept in its history.")
@data_options
def pause(*, name: str, reason: str | None) -> None:
    """Pause a schedule.

    Nothing more is fired; tasks that it submitted go on.
    """

    async def work(service: SchedulerService) -> Shown:
        await service.pause_scheduled_task(name, reason)
        return await shown(service, await service.get_scheduled_task(name))

    emit(run_scheduling(work))


@click.command()
@NAME
@data_options
def resume(*, name: str) -> None:
    """Resume a paused schedule.

    It goes on with the next tick from now; those of the pause are on record as skipped.
    """

    async def work(service: SchedulerService) -> Shown:
        return await shown(service, await service.resume_scheduled_task(name))

    emit(run_scheduling(work))


@click.command()
@NAME
@data_options
def remove(*, name: str) -> None:
    """Remove a schedule and its history.

    Tasks that it submitted stay.
    """
    run_scheduling(lambda service: service.delete_scheduled_task(name))
    if common().output == "table":
        say(f"removed schedule {name}")
    else:
        emit_rows([{"name": name, "removed": True}], [], empty="")


@click.command()
@data_options
def stats() -> None:
    """Count the schedules by state.

    With the next tick, how late the oldest due one is, how many were fired, how many wait for a task.
    """
    found = run_scheduling(lambda service: service.get_scheduler_stats())
    emit_rows([found], _counts(), empty="")


def _counts() -> list[Column[SchedulerStats]]:
    return [
        Column("ACTIVE", lambda found: words.count(found.active_jobs), right=True),
        Column("PAUSED", lambda found: words.count(found.paused_jobs), right=True),
        Column("ENDED", lambda found: words.count(found.ended_jobs), right=True),
        Column("FAILED", lambda found: words.count(found.failed_jobs), right=True),
        Column("NEXT", lambda found: words.age(found.next_run_at) or "-", right=True),
        Column("LATE", lambda found: words.duration(found.lag) if found.lag else "-", right=True),
        Column("FIRED", lambda found: words.count(found.fired), right=True),
        Column("WAITING", lambda found: words.count(found.queued_ticks), right=True),
    ]


for _command in (list_, show, add, update, next_, run_, pause, resume, remove, history, backfill, stats):
    schedule.add_command(_command)
