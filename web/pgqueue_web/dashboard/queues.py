"""Queues: how deep, how fast, their limits; made, changed, paused, resumed."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, Response, get, post

from pgqueue import calls
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import done, form_of, of, reading
from pgqueue_web.dashboard.task import number_of
from pgqueue_web.guard import check_touch
from pgqueue_web.routes import Api, PathName, Who

__all__ = ["HANDLERS"]

RATE_WINDOW = timedelta(minutes=5)


@get("/queues", **of("read"))
async def show_queues(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """All queues."""
    now = datetime.now(UTC)
    async with reading(api) as read:
        rows = [row for row in await read(calls.overview("queue_overview")) if who.may_touch(row["name"])]
        ended = await read(calls.task_series(now - RATE_WINDOW, now, "minute", by=["queue_name"]))
        workers = await read(calls.list_workers())
    rates: dict[str, float] = defaultdict(float)
    for point in ended:
        rates[point.queue_name or ""] += (point.completed + point.failed + point.cancelled) / (
            RATE_WINDOW.total_seconds() / 60
        )
    slots: dict[str, int] = defaultdict(int)
    for info in workers:
        for name in info.queues if info.state == "alive" else ():
            slots[name] += info.concurrency.get(name, 0)
    idle = {name for info in workers if info.state == "paused" for name in info.queues} - slots.keys()
    return page(request, "queues.html", queues=rows, rates=rates, slots=slots, idle=idle)


@post("/queues", **of("manage"), status_code=200)
async def create_queue(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """Make one."""
    fields = await form_of(request)
    name = fields.get("name", "")
    await _write(api, who, "queue.create", name, fields)
    return done(request, f"Queue {name} is there.", "/queues", leave=True)


@post("/queues/{queue_name:str}", **of("manage"), status_code=200)
async def change_queue(request: Request[Any, Any, Any], api: Api, who: Who, queue: PathName) -> Response[Any]:
    """Change its limits."""
    await _write(api, who, "queue.change", queue, await form_of(request))
    return done(request, f"Queue {queue} is changed.", "/queues")


async def _write(api: Api, who: Who, action: str, name: str, fields: dict[str, str]) -> None:
    check_touch(who, name)
    given = {field: number_of(fields, field, default) for field, default in (("concurrency", None), ("capacity", 0))}
    async with api.audited(who, action, name) as doing:
        doing.detail = dict(given)
        await api.operations.create_queue(name, **given, conn=doing.conn)


@post("/queues/{queue_name:str}/pause", **of("manage"), status_code=200)
async def pause_queue(request: Request[Any, Any, Any], api: Api, who: Who, queue: PathName) -> Response[Any]:
    """Start nothing more of it."""
    reason = (await form_of(request)).get("reason", "").strip() or None
    check_touch(who, queue)
    async with api.audited(who, "queue.pause", queue) as doing:
        doing.detail = {"reason": reason}
        await api.operations.pause_queue(queue, reason, conn=doing.conn)
    return done(request, f"Queue {queue} is paused.", "/queues")


@post("/queues/{queue_name:str}/resume", **of("manage"), status_code=200)
async def resume_queue(request: Request[Any, Any, Any], api: Api, who: Who, queue: PathName) -> Response[Any]:
    """Go on."""
    await form_of(request)
    check_touch(who, queue)
    async with api.audited(who, "queue.resume", queue) as doing:
        await api.operations.resume_queue(queue, conn=doing.conn)
    return done(request, f"Queue {queue} goes on.", "/queues")


HANDLERS = [show_queues, create_queue, change_queue, pause_queue, resume_queue]
