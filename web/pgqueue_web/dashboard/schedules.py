"""Schedules: what they say in plain words, when they run next, what became of their ticks."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from litestar import Request, Response, get, post
from litestar.params import FromPath

from pgqueue import calls
from pgqueue.cron import cron_of
from pgqueue.errors import DuplicateTask, InvalidInput, PgqueueError, QueueNotFound, ScheduleNotFound
from pgqueue.models import ScheduledTaskRequest
from pgqueue.services.scheduling import preview
from pgqueue_web.dashboard.render import link_of, page
from pgqueue_web.dashboard.replies import done, form_of, of, reading, redirect
from pgqueue_web.dashboard.task import json_of, number_of
from pgqueue_web.dashboard.words import segment
from pgqueue_web.guard import check_touch
from pgqueue_web.routes import Api, PathName, Who

if TYPE_CHECKING:
    from pgqueue.models import Principal, ScheduledTask

__all__ = ["HANDLERS"]

MOST_SCHEDULES = 500
NEXT = 5
MOST_TICKS = 50
NEW = {
    "name": "",
    "task_type": "",
    "cron_expr": "0 9 * * 1-5",
    "time_zone": "UTC",
    "queue_name": "default",
    "payload": "{}",
    "priority": "5",
    "max_retries": "3",
    "timeout": "",
    "missed": "once",
    "overlap": "allow",
}


@get("/schedules", **of("read"))
async def show_schedules(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """All schedules, by name."""
    after = request.query_params.get("after") or None
    async with reading(api) as read:
        found = await read(calls.list_schedules(MOST_SCHEDULES, after, who.queues))
        stats = await read(calls.scheduler_stats(who.queues))
        last = {}
        for schedule in found[:100]:
            if schedule.last_task_id is not None:
                with contextlib.suppress(PgqueueError):
                    last[schedule.name] = (await read(calls.get_progress(schedule.last_task_id))).status
    return page(request, "schedules.html", schedules=found, stats=stats, words=_words, last=last)


def _words(schedule: ScheduledTask) -> str:
    with contextlib.suppress(PgqueueError):
        return cron_of(schedule.cron_expr, schedule.time_zone).describe()
    return ""


@get("/schedules/{name:str}", **of("read"))
async def show_schedule(request: Request[Any, Any, Any], api: Api, who: Who, schedule: PathName) -> Response[Any]:
    """One schedule, its next runs and its history."""
    async with reading(api) as read:
        found = await read(calls.get_schedule(schedule))
        _check_visible(who, found)
        ticks = await read(calls.get_schedule_ticks(schedule, MOST_TICKS))
        now = await read(calls.clock())
    upcoming: list[datetime] = []
    with contextlib.suppress(PgqueueError):
        upcoming = preview(found.cron_expr, found.time_zone, NEXT, now) if found.is_active else []
    return page(request, "schedule.html", schedule=found, ticks=ticks, upcoming=upcoming, words=_words)


def _check_visible(who: Principal, schedule: ScheduledTask) -> None:
    if not who.may_touch(schedule.queue_name):
        raise ScheduleNotFound(f"there is no schedule {schedule.name!r}", sqlstate="QU103")


@get("/schedule/new", **of("manage"))
async def show_new(request: Request[Any, Any, Any]) -> Response[Any]:
    """A form for a new schedule."""
    return page(request, "schedule_form.html", fields=dict(NEW), name=None, problem=None, told=await _told(NEW))


@get("/schedule/preview", **of("read"))
async def show_preview(request: Request[Any, Any, Any]) -> Response[Any]:
    """What an expression means, while it is typed."""
    given = {name: request.query_params.get(name, "")[:200] for name in ("cron_expr", "time_zone")}
    return page(request, "schedule_preview.html", told=await _told(given))


async def _told(fields: dict[str, str]) -> dict[str, Any]:
    """Return the words and the next runs of an expression, or what is wrong with it."""
    expression, zone = fields.get("cron_expr", ""), fields.get("time_zone") or "UTC"
    try:
        cron = cron_of(expression, zone)
        return {
            "words": cron.describe(),
            "runs": preview(expression, zone, NEXT, datetime.now(UTC)),
            "zone": cron.zone,
            "error": None,
        }
    except InvalidInput as error:
        return {"words": None, "runs": [], "zone": None, "error": error}


@post("/schedule/new", **of("manage"), status_code=200)
async def create_schedule(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """Make one, or show the form again with what is wrong."""
    fields = await form_of(request)
    name = fields.get("name", "")
    try:
        check_touch(who, fields.get("queue_name", ""))
        async with api.audited(who, "schedule.create", name) as doing:
            await api.scheduler.create_scheduled_task(_request_of(fields), conn=doing.conn)
    except (InvalidInput, QueueNotFound, DuplicateTask) as error:
        told = await _told(fields)
        return page(request, "schedule_form.html", status=422, fields=NEW | fields, name=None, problem=error, told=told)
    return redirect(link_of(request, f"/schedules/{segment(name)}"))


@get("/schedules/{name:str}/edit", **of("manage"))
async def show_edit(request: Request[Any, Any, Any], api: Api, who: Who, schedule: PathName) -> Response[Any]:
    """The form of one."""
    async with reading(api) as read:
        found = await read(calls.get_schedule(schedule))
    _check_visible(who, found)
    fields = {name: "" if (value := getattr(found, name)) is None else str(value) for name in NEW}
    fields["payload"] = json.dumps(found.payload, indent=2, ensure_ascii=False)
    return page(request, "schedule_form.html", fields=fields, name=schedule, problem=None, told=await _told(fields))


@post("/schedules/{name:str}/edit", **of("manage"), status_code=200)
async def change_schedule(request: Request[Any, Any, Any], api: Api, who: Who, schedule: PathName) -> Response[Any]:
    """Change it, or show the form again with what is wrong."""
    fields = await form_of(request)
    try:
        check_touch(who, fields.get("queue_name", ""))
        async with api.audited(who, "schedule.change", schedule) as doing:
            _check_visible(who, await api.scheduler.get_scheduled_task(schedule, conn=doing.conn))
            await api.scheduler.update_scheduled_task(schedule, _request_of(fields), conn=doing.conn)
    except (InvalidInput, QueueNotFound, DuplicateTask) as error:
        told = await _told(fields)
        return page(
            request, "schedule_form.html", status=422, fields=NEW | fields, name=schedule, problem=error, told=told
        )
    return redirect(link_of(request, f"/schedules/{segment(fields['name'])}"))


def _request_of(fields: dict[str, str]) -> ScheduledTaskRequest:
    texts: dict[str, Any] = {
        name: fields.get(name, "") for name in ("name", "task_type", "cron_expr", "time_zone", "queue_name")
    }
    choices: dict[str, Any] = {name: fields[name] for name in ("missed", "overlap") if fields.get(name)}
    numbers: dict[str, Any] = {
        name: number_of(fields, name, default) for name, default in (("priority", 5), ("max_retries", 3))
    }
    payload = json_of(fields.get("payload") or "{}", "payload")
    return ScheduledTaskRequest(
        **texts, **choices, **numbers, timeout=number_of(fields, "timeout", None), payload=payload
    )


@post("/schedules/{name:str}/{action:str}", **of("manage"), status_code=200)
async def act(
    request: Request[Any, Any, Any], api: Api, who: Who, schedule: PathName, action: FromPath[str]
) -> Response[Any]:
    """Pause, resume, run now, delete."""
    fields = await form_of(request)
    if action not in SAID:
        raise ScheduleNotFound(f"a schedule cannot {action[:80]!r}", hint=f"choose one of {', '.join(SAID)}")
    async with api.audited(who, f"schedule.{action}", schedule) as doing:
        _check_visible(who, await api.scheduler.get_scheduled_task(schedule, conn=doing.conn))
        if action == "pause":
            await api.scheduler.pause_scheduled_task(schedule, fields.get("reason") or None, conn=doing.conn)
        elif action == "resume":
            await api.scheduler.resume_scheduled_task(schedule, conn=doing.conn)
        elif action == "run":
            doing.detail = {"task_id": await api.scheduler.run_scheduled_task_now(schedule, conn=doing.conn)}
        else:
            await api.scheduler.delete_scheduled_task(schedule, conn=doing.conn)
    back = "/schedules" if action == "delete" else f"/schedules/{segment(schedule)}"
    return done(request, SAID[action].format(schedule), back, leave=action == "delete")


SAID = {
    "pause": "Schedule {} is paused.",
    "resume": "Schedule {} goes on.",
    "run": "Schedule {} was run.",
    "delete": "Schedule {} is deleted.",
}
HANDLERS = [show_schedules, show_schedule, show_new, show_preview, create_schedule, show_edit, change_schedule, act]
