"""Scheduled tasks: made, changed, paused, resumed, run at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from litestar import Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody

from pgqueue.errors import DuplicateTask, ScheduleNotFound
from pgqueue.models import Principal, ScheduledTask, SchedulerStats
from pgqueue_web.bodies import (
    NextRuns,
    PauseBody,
    ScheduleBody,
    ScheduleChange,
    ScheduleList,
    TaskBody,
    TickList,
    as_request,
)
from pgqueue_web.guard import check_touch
from pgqueue_web.once import Done, do_once
from pgqueue_web.queries import NextQuery, SchedulesQuery, TicksQuery
from pgqueue_web.requests import ApiRequest
from pgqueue_web.routes import Api, PathName, Who, route

if TYPE_CHECKING:
    from pgqueue_web.context import Action, Context

__all__ = ["HANDLERS"]

PATH = "/scheduled-tasks/{name:str}"


@get("/scheduled-tasks", **route("read", query=SchedulesQuery), tags=["scheduled tasks"], summary="List schedules")
async def list_scheduled_tasks(api: Api, who: Who, wanted: NamedDependency[SchedulesQuery]) -> ScheduleList:
    """The schedules whose queues the key is for, by name."""
    found = await api.scheduler.list_scheduled_tasks(wanted.limit, wanted.after, who.queues)
    return ScheduleList(found, found[-1].name if len(found) == wanted.limit else None)


@post(
    "/scheduled-tasks",
    **route("manage", refusals=(400, 404, 409, 413, 415), headers=("Idempotency-Key",)),
    tags=["scheduled tasks"],
    summary="Create a schedule",
)
async def create_scheduled_task(
    request: ApiRequest, data: JSONBody[ScheduleBody], api: Api, who: Who
) -> Response[ScheduledTask]:
    """201 with the new schedule, which says when it runs next; 409 where the name is taken."""
    check_touch(who, data.queue_name)

    async def work(doing: Action) -> Done:
        doing.target = data.name
        if who.queues is not None:
            await _refuse_foreign(api, who, data.name, doing.conn)
        made = await api.scheduler.create_scheduled_task(as_request(data), conn=doing.conn)
        return Done(201, made, f"/api/v1/scheduled-tasks/{quote(made.name, safe='')}")

    return await do_once(request, api, who, "schedule.create", work)


async def _refuse_foreign(api: Context, who: Principal, name: str, conn: Any) -> None:  # noqa: ANN401 - psycopg's
    """Raise DuplicateTask for the name of a schedule that this principal may not see, let alone replace."""
    try:
        async with conn.transaction():
            found = await api.scheduler.get_scheduled_task(name, conn=conn)
    except ScheduleNotFound:
        return
    if not who.may_touch(found.queue_name):
        raise DuplicateTask("the name belongs to a schedule that this key is not for")


@get(PATH, **route("read", refusals=(404,)), tags=["scheduled tasks"], summary="Get a schedule")
async def get_scheduled_task(api: Api, who: Who, schedule: PathName) -> ScheduledTask:
    """With when it runs next and ran last."""
    return await _visible(api, who, schedule)


async def _visible(api: Context, who: Principal, name: str, conn: object = None) -> ScheduledTask:
    """Return a schedule. Raises ScheduleNotFound, also where the key is not for its queue."""
    found = await api.scheduler.get_scheduled_task(name, conn=conn)
    if not who.may_touch(found.queue_name):
        raise ScheduleNotFound(f"there is no schedule {name!r}", detail={"name": name}, sqlstate="QU103")
    return found


@put(
    PATH,
    **route("manage", refusals=(400, 404, 409, 413, 415)),
    tags=["scheduled tasks"],
    summary="Change a schedule",
)
async def update_scheduled_task(
    data: JSONBody[ScheduleChange], api: Api, who: Who, schedule: PathName
) -> ScheduledTask:
    """Only what is given changes; the answer says when it runs next."""
    if isinstance(data.queue_name, str):
        check_touch(who, data.queue_name)
    async with api.audited(who, "schedule.change", schedule) as doing:
        await _visible(api, who, schedule, doing.conn)
        return await api.scheduler.update_scheduled_task(schedule, as_request(data), conn=doing.conn)


@delete(PATH, **route("manage", refusals=(404,)), tags=["scheduled tasks"], summary="Delete a schedule")
async def delete_scheduled_task(api: Api, who: Who, schedule: PathName) -> None:
    """With its history; its tasks stay."""
    async with api.audited(who, "schedule.delete", schedule) as doing:
        await _visible(api, who, schedule, doing.conn)
        await api.scheduler.delete_scheduled_task(schedule, conn=doing.conn)


@post(
    f"{PATH}/pause",
    **route("manage", refusals=(400, 404, 413, 415)),
    status_code=200,
    tags=["scheduled tasks"],
    summary="Pause a schedule",
)
async def pause_scheduled_task(
    api: Api, who: Who, schedule: PathName, data: JSONBody[PauseBody | None] = None
) -> ScheduledTask:
    """It fires nothing more until it is resumed."""
    async with api.audited(who, "schedule.pause", schedule) as doing:
        await _visible(api, who, schedule, doing.conn)
        reason = data.reason if data else None
        await api.scheduler.pause_scheduled_task(schedule, reason, conn=doing.conn)
        return await api.scheduler.get_scheduled_task(schedule, conn=doing.conn)


@post(
    f"{PATH}/resume",
    **route("manage", refusals=(404,)),
    status_code=200,
    tags=["scheduled tasks"],
    summary="Resume a schedule",
)
async def resume_scheduled_task(api: Api, who: Who, schedule: PathName) -> ScheduledTask:
    """It goes on with the next tick from now."""
    async with api.audited(who, "schedule.resume", schedule) as doing:
        await _visible(api, who, schedule, doing.conn)
        return await api.scheduler.resume_scheduled_task(schedule, conn=doing.conn)


@post(
    f"{PATH}/run",
    **route("manage", refusals=(404, 409), headers=("Idempotency-Key",)),
    tags=["scheduled tasks"],
    summary="Run a schedule now",
)
async def run_scheduled_task(request: ApiRequest, api: Api, who: Who, schedule: PathName) -> Response[TaskBody]:
    """Submit its task at once, beside the ticks to come."""

    async def work(doing: Action) -> Done:
        doing.target = schedule
        await _visible(api, who, schedule, doing.conn)
        task_id = await api.scheduler.run_scheduled_task_now(schedule, conn=doing.conn)
        doing.detail = {"task_id": task_id}
        task = await api.operations.get_task(task_id, conn=doing.conn)
        return Done(201, TaskBody.of(task), f"/api/v1/tasks/{task_id}")

    return await do_once(request, api, who, "schedule.run", work)


@get(
    f"{PATH}/next",
    **route("read", query=NextQuery, refusals=(404,)),
    tags=["scheduled tasks"],
    summary="Say when it runs next",
)
async def get_next_runs(api: Api, who: Who, schedule: PathName, wanted: NamedDependency[NextQuery]) -> NextRuns:
    """The next moments, whether it is paused or not."""
    await _visible(api, who, schedule)
    return NextRuns(await api.scheduler.get_next_runs(schedule, wanted.count))


@get(
    f"{PATH}/history",
    **route("read", query=TicksQuery, refusals=(404,)),
    tags=["scheduled tasks"],
    summary="Say what became of its ticks",
)
async def get_history(api: Api, who: Who, schedule: PathName, wanted: NamedDependency[TicksQuery]) -> TickList:
    """Newest first: fired, queued or skipped, and why."""
    await _visible(api, who, schedule)
    return TickList(await api.scheduler.get_scheduled_task_history(schedule, wanted.limit, wanted.before))


@get("/scheduler/stats", **route("read"), tags=["scheduled tasks"], summary="Count the schedules")
async def get_scheduler_stats(api: Api, who: Who) -> SchedulerStats:
    """By state, and how late the oldest due tick is, in the queues that the key is for."""
    return await api.scheduler.get_scheduler_stats(who.queues)


HANDLERS: list[Any] = [
    list_scheduled_tasks,
    create_scheduled_task,
    get_scheduled_task,
    update_scheduled_task,
    delete_scheduled_task,
    pause_scheduled_task,
    resume_scheduled_task,
    run_scheduled_task,
    get_next_runs,
    get_history,
    get_scheduler_stats,
]
