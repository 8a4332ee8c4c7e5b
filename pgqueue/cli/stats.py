"""`pgqueue stats`: what finished, step by step."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from pgqueue.cli import words
from pgqueue.cli.base import data_options
from pgqueue.cli.output import Column, emit_rows
from pgqueue.cli.parameters import Moment
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgqueue.models import SeriesPoint, TaskStatistics
    from pgqueue.services import QueueOperations

BARS = " ▁▂▃▄▅▆▇█"
SPLITS = {"queue": ("queue_name",), "type": ("task_type",), "both": ("queue_name", "task_type")}
STEPS = (("minute", timedelta(hours=2)), ("hour", timedelta(days=3)), ("day", timedelta.max))


class Found(NamedTuple):
    """The series, and all of it as one."""

    series: list[SeriesPoint]
    statistics: TaskStatistics


@click.command()
@click.option("--since", type=Moment(past=True), metavar="TIME", help="From then on: a moment, or 90m or 7d ago.  [1d]")
@click.option("--until", type=Moment(past=True), metavar="TIME", help="Up to before then.  [now]")
@click.option(
    "--step", type=click.Choice([name for name, _ in STEPS]), help="The length of a step.  [by the window's length]"
)
@click.option("--queue", "queue_name", metavar="NAME", help="Only this queue.")
@click.option("--type", "task_type", metavar="TYPE", help="Only this task type.")
@click.option("--by", type=click.Choice([*SPLITS]), help="One row for each queue or type, or for both, a step.")
@data_options
def stats(
    *, since: datetime | None, until: datetime | None, step: str | None, by: str | None, **only: str | None
) -> None:
    """Count what finished, step by step.

    How many tasks completed, failed and were cancelled, how long they waited and ran. Steps are those of UTC.
    """
    end = until or datetime.now(UTC)
    start = since or end - timedelta(days=1)
    chosen = step or next(name for name, longest in STEPS if end - start <= longest)

    async def work(service: QueueOperations) -> Found:
        from pgqueue.services import StateService

        state = StateService(service.db)
        series = await state.get_time_series(start, end, chosen, by=SPLITS.get(by or "", ()), **only)
        return Found(series, await state.get_task_statistics(start, end))

    series, statistics = run(work)
    emit_rows(series, _columns(series, chosen), empty="nothing finished then")
    if not any(only.values()):
        ended = statistics.completed + statistics.failed + statistics.cancelled
        say(f"{words.plural(ended, 'task')} finished, {statistics.success_rate:.1f} % of them completed")


def _columns(series: Sequence[SeriesPoint], step: str) -> list[Column[Any]]:
    most = max((point.total for point in series), default=0)
    shown = "%Y-%m-%d" if step == "day" else "%Y-%m-%d %H:%M"
    names = [name for name in ("queue_name", "task_type") if any(getattr(point, name) for point in series)]
    return [
        Column("FROM", lambda point: point.bucket.strftime(shown)),
        *(Column(name.split("_")[0].upper(), _text(name), flexible=True) for name in names),
        Column("", lambda point: BARS[-(-point.total * (len(BARS) - 1) // most)] if most else ""),
        *(Column(name.upper(), _number(name), right=True) for name in ("completed", "failed", "cancelled")),
        Column("WAIT P50", lambda point: _ms(point, point.p50_wait_ms), right=True),
        Column("P99", lambda point: _ms(point, point.p99_wait_ms), right=True),
        Column("RUN P50", lambda point: _ms(point, point.p50_duration_ms), right=True),
        Column("P99", lambda point: _ms(point, point.p99_duration_ms), right=True),
    ]


def _text(name: str) -> Any:
    return lambda point: getattr(point, name) or ""


def _number(name: str) -> Any:
    return lambda point: words.count(getattr(point, name))


def _ms(point: SeriesPoint, milliseconds: float) -> str:
    return words.duration(milliseconds / 1000) if point.total else "-"
