"""The overview: what waits, runs and ended, how fast, and what wants attention."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response, get

from pgqueue import calls
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import of, reading
from pgqueue_web.dashboard.warnings import warnings_of
from pgqueue_web.dashboard.words import seconds_of
from pgqueue_web.routes import Api, Who

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pgqueue.models import Principal, SeriesPoint

__all__ = ["HANDLERS", "RANGES", "chart_of"]

RANGES = {
    "1h": ("1 hour", timedelta(hours=1), "minute"),
    "6h": ("6 hours", timedelta(hours=6), "minute"),
    "24h": ("24 hours", timedelta(hours=24), "hour"),
    "7d": ("7 days", timedelta(days=7), "hour"),
    "30d": ("30 days", timedelta(days=30), "day"),
}
STEPS = {"minute": 60, "hour": 3600, "day": 86_400}
LIVE = ("pending", "scheduled", "blocked", "running")
MOST_TYPES = 8


@get("/", **of("read"))
async def show_overview(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """The queues at a glance."""
    chosen = request.query_params.get("range", "1h")
    chosen = chosen if chosen in RANGES else "1h"
    _, length, step = RANGES[chosen]
    now = datetime.now(UTC)
    async with reading(api) as read:
        rows = [row for row in await read(calls.overview("queue_overview")) if who.may_touch(row["name"])]
        points = await _points(read, who, now - length, now, step)
        types = await read(calls.ended_by_type(now - length, now, who.queues))
        health = (await read(calls.overview("health")))[0]
        workers = await read(calls.list_workers())
        stuck = await read(calls.overview("stuck_tasks"))
        schedules = await read(calls.scheduler_stats(who.queues))
    counts = {state: sum(row.get(state) or 0 for row in rows) for state in LIVE}
    ended = {state: sum(getattr(point, state) for point in points) for state in ("completed", "failed", "cancelled")}
    return page(
        request,
        "overview.html",
        ranges=RANGES,
        chosen=chosen,
        counts=counts,
        is_capped=any(row.get("counted_at") for row in rows),
        ended=ended,
        rate=sum(ended.values()) / length.total_seconds() * 60,
        oldest=_oldest(rows),
        workers=[info for info in workers if info.state == "alive"],
        busy=sum(info.running for info in workers),
        slots=sum(sum(info.concurrency.values()) for info in workers if info.state == "alive"),
        types=types[:MOST_TYPES],
        queues=rows,
        chart=msgspec.json.encode(chart_of(points, now - length, now, STEPS[step])).decode(),
        warnings=warnings_of(health, workers, rows, stuck, schedules) if who.queues is None else [],
    )


async def _points(read: Any, who: Principal, start: datetime, end: datetime, step: str) -> list[SeriesPoint]:  # noqa: ANN401 - as lent by reading
    points: list[SeriesPoint] = await read(
        calls.task_series(start, end, step, by=[] if who.queues is None else ["queue_name"])
    )
    return [point for point in points if who.queues is None or who.may_touch(point.queue_name or "")]


def _oldest(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the queue whose first task has waited longest."""
    waits = [row for row in rows if row["oldest_wait"] is not None]
    return max(waits, key=lambda row: seconds_of(row["oldest_wait"]), default=None)


def chart_of(
    points: Iterable[SeriesPoint], start: datetime, end: datetime, seconds: int
) -> dict[str, list[float | None]]:
    """Return columns by time, one row a step, with zeros where nothing ended."""
    first = int(start.timestamp()) // seconds * seconds
    times = list(range(first, int(end.timestamp()) + 1, seconds))
    known: dict[int, list[SeriesPoint]] = defaultdict(list)
    for point in points:
        known[int(point.bucket.timestamp())].append(point)
    columns: dict[str, list[float | None]] = {"time": list(map(float, times))}
    for name in ("completed", "failed", "cancelled"):
        columns[name] = [float(sum(getattr(point, name) for point in known[time])) for time in times]
    for name in ("p50_duration_ms", "p95_duration_ms", "p95_wait_ms"):
        columns[name] = [
            max((getattr(point, name) for point in known[time] if point.completed + point.failed), default=None)
            for time in times
        ]
    return columns


HANDLERS = [show_overview]
