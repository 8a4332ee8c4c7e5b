"""Tasks: submitted, read, cancelled, retried."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from pgqueue.errors import DuplicateTask, TaskNotFound
from pgqueue.models import Principal, TaskFilter, TaskProgress
from pgqueue.services import FINAL, shared
from pgqueue_web.bodies import (
    BatchAnswer,
    BatchBody,
    BatchItem,
    ExecutionList,
    LogList,
    ResultBody,
    StatisticsBody,
    TaskBody,
    TaskList,
    TaskRequestBody,
)
from pgqueue_web.guard import check_touch
from pgqueue_web.once import Done, do_once, wait_for_end
from pgqueue_web.queries import LogsQuery, StatisticsQuery, TaskQuery
from pgqueue_web.requests import ApiRequest, preferred_wait
from pgqueue_web.routes import Api, Events, Number, Who, route
from pgqueue_web.streams import End, EventStream, Reset, state_id, states_of_task

if TYPE_CHECKING:
    from pgqueue.services import Task
    from pgqueue_web.context import Action, Context

__all__ = ["HANDLERS"]

TOLD = Events({"progress": TaskProgress, "end": End, "reset": Reset})
DIGITS = "0123456789abcdefghijklmnopqrstuv"


@post(
    "/tasks",
    **route(
        "submit",
        refusals=(400, 404, 409, 413, 415),
        headers=("Idempotency-Key", "Prefer"),
        answers={200: TaskBody},
    ),
    tags=["tasks"],
    summary="Submit a task",
)
async def submit_task(request: ApiRequest, data: JSONBody[TaskRequestBody], api: Api, who: Who) -> Response[TaskBody]:
    """201 with the new task, or 200 with the live task that holds its unique key.

    With `Prefer: wait=N` the answer comes at the task's end, or after N seconds (at most 60).
    """
    check_touch(who, data.queue_name)

    async def work(doing: Action) -> Done:
        task = await api.operations.submit_task(data.request(), conn=doing.conn)
        if not task.created:
            task = await _live_task(api, who, task, doing)
        doing.target = str(task.task_id)
        return Done(201 if task.created else 200, TaskBody.of(task), f"/api/v1/tasks/{task.task_id}")

    answer = await do_once(request, api, who, "task.submit", work)
    seconds = preferred_wait(request)
    if seconds is None or not who.has_scope("read"):
        return answer
    task = await wait_for_end(api, int(answer.headers["Location"].rpartition("/")[2]), seconds)
    headers = {**answer.headers, "Preference-Applied": f"wait={seconds:g}"}
    return Response(TaskBody.of(task), status_code=answer.status_code or 201, headers=headers)


async def _live_task(api: Context, who: Principal, task: Task, doing: Action) -> Task:
    """Return the task that holds the unique key as far as this principal may see it. Raises DuplicateTask."""
    queue_name = await api.access.task_queue(task.task_id, conn=doing.conn)
    if not who.may_touch(queue_name):
        raise DuplicateTask("a live task of a queue that this key is not for holds the unique key")
    return await api.operations.get_task(task.task_id, conn=doing.conn) if who.has_scope("read") else task


@post(
    "/tasks/batch",
    **route("submit", refusals=(400, 404, 409, 413, 415), headers=("Idempotency-Key",)),
    tags=["tasks"],
    summary="Submit many tasks",
)
async def submit_batch(request: ApiRequest, data: JSONBody[BatchBody], api: Api, who: Who) -> Response[BatchAnswer]:
    """Submit up to 10,000 tasks in one transaction: all or none."""
    for task in data.tasks:
        check_touch(who, task.queue_name)

    async def work(doing: Action) -> Done:
        tasks = await api.operations.submit_tasks([task.request() for task in data.tasks], conn=doing.conn)
        for task in tasks:
            if not task.created:
                await _live_task(api, who, task, doing)
        doing.detail = {"count": len(tasks), "first": tasks[0].task_id, "last": tasks[-1].task_id}
        return Done(201, BatchAnswer([BatchItem(task.task_id, task.created) for task in tasks]))

    return await do_once(request, api, who, "task.submit_batch", work)


@get("/tasks", **route("read", query=TaskQuery), tags=["tasks"], summary="List tasks")
async def list_tasks(api: Api, who: Who, wanted: NamedDependency[TaskQuery]) -> TaskList:
    """One page, newest first. Pages by number, or without limit of depth by `cursor`."""
    if wanted.queue_name is not None:
        check_touch(who, wanted.queue_name)
    page = await api.operations.list_tasks(_filter(wanted, who))
    tasks, total = page
    cursor = None if page.next_cursor is None else _cursor(page.next_cursor)
    return TaskList(
        [TaskBody.of(task) for task in tasks], total, page.total_capped, wanted.page, wanted.page_size, cursor
    )


def _filter(wanted: TaskQuery, who: Principal) -> TaskFilter:
    return TaskFilter(
        queue_name=wanted.queue_name,
        queue_names=who.queues if wanted.queue_name is None else None,
        status=wanted.status,
        task_type=wanted.task_type,
        user_id=wanted.user_id,
        project_id=wanted.project_id,
        created_from=wanted.created_from,
        created_to=wanted.created_to,
        parent_id=wanted.parent_id,
        page=wanted.page,
        page_size=wanted.page_size,
        before_id=None if wanted.cursor is None else _before_id(wanted.cursor),
    )


def _cursor(task_id: int) -> str:
    """Return the opaque form: 13 digits of base 32."""
    return "".join(DIGITS[task_id >> shift & 31] for shift in range(60, -1, -5))


def _before_id(cursor: str) -> int:
    return int(cursor, 32)


@get("/tasks/statistics", **route("read", query=StatisticsQuery), tags=["tasks"], summary="Count what finished")
async def get_statistics(api: Api, who: Who, wanted: NamedDependency[StatisticsQuery]) -> StatisticsBody:
    """What finished from `start_time` up to before `end_time`, in the queues that the key is for.

    The last 24 hours unless it is said.
    """
    end = wanted.end_time or datetime.now(UTC)
    start = wanted.start_time or _day_before(end)
    found = await api.state.get_task_statistics(start, end, who.queues)
    values = {name: getattr(found, name) for name in found.__struct_fields__}
    return StatisticsBody(start, end, **values)


def _day_before(end: datetime) -> datetime:
    """Return the moment 24 hours earlier; on the first day of year 1 there is none."""
    with contextlib.suppress(OverflowError):
        return end - timedelta(hours=24)
    return end


@get(
    "/tasks/{task_id:str}", **route("read", refusals=(404,), headers=("Prefer",)), tags=["tasks"], summary="Get a task"
)
async def get_task(request: ApiRequest, api: Api, who: Who, number: Number) -> TaskBody:
    """Read a task, live or finished; with `Prefer: wait=N` at its end, or after N seconds."""
    return TaskBody.of(await _read(request, api, who, number))


async def _read(request: ApiRequest, api: Context, who: Principal, task_id: int) -> Task:
    task = await api.operations.get_task(task_id)
    _check_visible(who, task_id, task.queue_name)
    seconds = preferred_wait(request)
    return task if seconds is None or task.status in FINAL else await wait_for_end(api, task_id, seconds)


def _check_visible(who: Principal, task_id: int, queue_name: str) -> None:
    """Raise TaskNotFound, word for word as the database does, for a task of a queue that the key is not for."""
    if not who.may_touch(queue_name):
        raise TaskNotFound(f"there is no task {task_id}", detail={"task_id": task_id}, sqlstate="QU102")


async def _check_task(api: Context, who: Principal, task_id: int, conn: object = None) -> None:
    _check_visible(who, task_id, await api.access.task_queue(task_id, conn=conn))


@delete(
    "/tasks/{task_id:str}",
    **route("manage", refusals=(404, 409), answers={202: TaskBody}),
    status_code=200,
    tags=["tasks"],
    summary="Cancel a task",
)
async def cancel_task(api: Api, who: Who, number: Number) -> Response[TaskBody]:
    """200 with the task that is cancelled now, or 202 with a running one that was asked to stop."""
    async with api.audited(who, "task.cancel", number) as doing:
        await _check_task(api, who, number, doing.conn)
        await api.operations.cancel_task(number, f"cancelled by {who.name}", conn=doing.conn)
        task = await api.operations.get_task(number, conn=doing.conn)
    return Response(TaskBody.of(task), status_code=202 if task.status == "running" else 200)


@post(
    "/tasks/{task_id:str}/retry",
    **route("manage", refusals=(404, 409)),
    status_code=200,
    tags=["tasks"],
    summary="Retry a task",
)
async def retry_task(api: Api, who: Who, number: Number) -> TaskBody:
    """Start a failed or cancelled task again: same id."""
    async with api.audited(who, "task.retry", number) as doing:
        await _check_task(api, who, number, doing.conn)
        await api.operations.retry_task(number, conn=doing.conn)
        task = await api.operations.get_task(number, conn=doing.conn)
    return TaskBody.of(task)


@get(
    "/tasks/{task_id:str}/progress",
    **route(
        "read",
        refusals=(404,),
        headers=("Last-Event-ID",),
        answers={200: TOLD, 204: None},
    ),
    tags=["tasks"],
    summary="Get or follow progress",
)
async def get_progress(request: ApiRequest, api: Api, who: Who, number: Number) -> Response[TaskProgress]:
    """As JSON; with `Accept: text/event-stream` as a stream of `progress` events, one for each change.

    The last one tells the final state, and an event `end` follows it. A client that comes back with the
    `Last-Event-ID` of a final state is answered 204, which tells a browser not to come back again.
    """
    if who.queues is not None:
        await _check_task(api, who, number)
    progress = await api.state.get_progress(number)
    if "text/event-stream" not in request.headers.get("accept", ""):
        return Response(progress)
    last_id = request.headers.get("last-event-id")
    if progress.is_final and last_id == state_id(progress):
        return Response[Any](None, status_code=204)
    return EventStream(states_of_task(api, number, last_id), api.stopping)


@get(
    "/tasks/{task_id:str}/result",
    **route("read", refusals=(404, 409), headers=("Prefer",), answers={202: ResultBody}),
    tags=["tasks"],
    summary="Get the result",
)
async def get_result(request: ApiRequest, api: Api, who: Who, number: Number) -> Response[ResultBody]:
    """200 with the result, 202 while there is none yet, 409 where the task failed or was cancelled."""
    task = await _read(request, api, who, number)
    if task.status not in FINAL:
        return Response(ResultBody(number, task.status), status_code=202, headers={"Retry-After": "1"})
    return Response(ResultBody(number, task.status, shared.result_of(task, object)))


@get("/tasks/{task_id:str}/executions", **route("read", refusals=(404,)), tags=["tasks"], summary="List attempts")
async def list_executions(api: Api, who: Who, number: Number) -> ExecutionList:
    """The ended attempts of a task, in their order, with errors and tracebacks."""
    await _check_task(api, who, number)
    return ExecutionList(await api.operations.get_executions(number))


@get(
    "/tasks/{task_id:str}/logs",
    **route("read", query=LogsQuery, refusals=(404,)),
    tags=["tasks"],
    summary="Read the log",
)
async def list_logs(api: Api, who: Who, number: Number, wanted: NamedDependency[LogsQuery]) -> LogList:
    """What a task logged, in order of arrival."""
    await _check_task(api, who, number)
    lines = await api.operations.get_logs(number, wanted.after, wanted.limit)
    return LogList(lines, lines[-1].id if lines else None)


HANDLERS = [
    submit_task,
    submit_batch,
    list_tasks,
    get_statistics,
    get_task,
    cancel_task,
    retry_task,
    get_progress,
    get_result,
    list_executions,
    list_logs,
]
