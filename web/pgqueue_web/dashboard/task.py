"""One task: its life so far, what it is, what can be done with it; and new ones."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath

from pgqueue import calls
from pgqueue.errors import InvalidInput, PgqueueError, QueueNotFound, TaskNotFound
from pgqueue.models import TaskFilter, TaskRequest, TaskSearch
from pgqueue.services import FINAL
from pgqueue_web.dashboard.render import link_of, page
from pgqueue_web.dashboard.replies import done, form_of, of, reading, redirect
from pgqueue_web.dashboard.snippets import FORMS
from pgqueue_web.dashboard.timeline import timeline_of
from pgqueue_web.guard import check_touch
from pgqueue_web.problems import HttpError
from pgqueue_web.routes import Api, Number, Who

if TYPE_CHECKING:
    from pgqueue.models import Principal, TaskRecord
    from pgqueue_web.context import Context

__all__ = ["HANDLERS"]

MOST_LINES = 1000
MOST_BODY = 200_000
MOST_CHILDREN = 10
NEW = {
    "task_type": "",
    "queue_name": "default",
    "priority": "5",
    "payload": "{}",
    "max_retries": "3",
    "timeout": "",
    "run_at": "",
    "unique_key": "",
    "user_id": "",
    "project_id": "",
}


@get("/tasks/{task_id:str}", **of("read"))
async def show_task(request: Request[Any, Any, Any], api: Api, who: Who, number: Number) -> Response[Any]:
    """One task."""
    async with reading(api) as read:
        task = await _visible(read, who, number)
        executions = await read(calls.get_executions(number))
        lines = await read(calls.get_logs(number, 0, MOST_LINES))
        progress = await read(calls.get_progress(number))
        why = await read(calls.why_waiting(number)) if task.status in ("pending", "blocked") else None
        workers = {info.id: info for info in await read(calls.list_workers())}
        children = await read(
            calls.search_tasks(TaskSearch(parent_id=number, queue_names=who.queues, limit=MOST_CHILDREN))
        )
        family = TaskFilter(parent_id=number, queue_names=who.queues)
        count, is_capped = await read(calls.count_tasks(family)) if children.tasks else (0, False)
    return page(
        request,
        "task.html",
        task=task,
        executions=executions,
        lines=lines,
        most_lines=MOST_LINES,
        progress=progress,
        why=why,
        worker=workers.get(task.worker_id or 0),
        parent=await _parent_of(api, who, task),
        children=children.tasks,
        child_count=count,
        is_capped=is_capped,
        timeline=timeline_of(task, executions, datetime.now(UTC)),
        is_final=task.status in FINAL,
        forms=FORMS,
    )


async def _visible(read: Any, who: Principal, task_id: int) -> TaskRecord:  # noqa: ANN401 - as lent by reading
    """Read a task. Raises TaskNotFound also for one of a queue that the key is not for."""
    task: TaskRecord = await read(calls.get_task(task_id))
    if not who.may_touch(task.queue_name):
        raise TaskNotFound(f"there is no task {task_id}", hint="It may have been cleaned up.", sqlstate="QU102")
    return task


async def _parent_of(api: Context, who: Principal, task: TaskRecord) -> TaskRecord | None:
    """Read the task that submitted this one; None where there is none, or where it is gone or hidden."""
    with contextlib.suppress(TaskNotFound):
        if task.parent_id is not None:
            async with reading(api) as read:
                return await _visible(read, who, task.parent_id)
    return None


@get("/tasks/{task_id:str}/as/{form:str}", **of("read"))
async def copy_task(
    request: Request[Any, Any, Any], api: Api, who: Who, number: Number, form: FromPath[str]
) -> Response[Any]:
    """A task as text to copy: JSON, curl, Python."""
    if form not in FORMS:
        raise HttpError(404, f"a task cannot be copied as {form[:80]!r}", hint=f"choose one of {', '.join(FORMS)}")
    async with reading(api) as read:
        task = await _visible(read, who, number)
    base = str(request.base_url).rstrip("/") + link_of(request, "")
    return Response(FORMS[form].write(task, base), media_type="text/plain; charset=utf-8")


@post("/tasks/{task_id:str}/retry", **of("manage"), status_code=200)
async def retry_task(request: Request[Any, Any, Any], api: Api, who: Who, number: Number) -> Response[Any]:
    """Start it again."""
    await form_of(request)
    async with api.audited(who, "task.retry", number) as doing:
        check_touch(who, await api.access.task_queue(number, conn=doing.conn))
        await api.operations.retry_task(number, conn=doing.conn)
    return done(request, f"Task {number} is pending again.", f"/tasks/{number}")


@post("/tasks/{task_id:str}/cancel", **of("manage"), status_code=200)
async def cancel_task(request: Request[Any, Any, Any], api: Api, who: Who, number: Number) -> Response[Any]:
    """Cancel it, or ask it to stop where it runs."""
    await form_of(request)
    async with api.audited(who, "task.cancel", number) as doing:
        check_touch(who, await api.access.task_queue(number, conn=doing.conn))
        status = await api.operations.cancel_task(number, f"cancelled by {who.name}", conn=doing.conn)
    text = f"Task {number} is asked to stop." if status == "running" else f"Task {number} is cancelled."
    return done(request, text, f"/tasks/{number}")


@get("/new", **of("submit"))
async def show_new(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """A form for a new task, filled in from another one where `from` names it."""
    origin = request.query_params.get("from", "")
    fields: dict[str, Any] = dict(NEW)
    async with reading(api) as read:
        queues = [info.name for info in await read(calls.list_queues()) if who.may_touch(info.name)]
        if origin.isascii() and origin.isdecimal() and len(origin) < 19 and who.has_scope("read"):
            fields = _fields_of(await _visible(read, who, int(origin)))
    if len(fields["payload"]) > MOST_BODY:
        raise HttpError(413, "this payload is too large to edit here", hint="copy the task as Python or curl instead")
    return page(request, "new.html", fields=fields, queues=queues, origin=origin, problem=None)


def _fields_of(task: TaskRecord) -> dict[str, Any]:
    return NEW | {
        "task_type": task.task_type,
        "queue_name": task.queue_name,
        "priority": str(task.priority),
        "payload": json.dumps(task.payload, indent=2, ensure_ascii=False),
        "max_retries": str(task.max_retries),
        "timeout": "" if task.timeout is None else str(task.timeout),
        "user_id": task.user_id or "",
        "project_id": task.project_id or "",
    }


@post("/new", **of("submit"), status_code=200)
async def submit_task(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """Submit what the form says, or show it again with what is wrong."""
    fields = await form_of(request)
    try:
        wanted = request_of(fields)
        check_touch(who, wanted.queue_name)
        async with api.audited(who, "task.submit") as doing:
            task = await api.operations.submit_task(wanted, conn=doing.conn)
            doing.target = str(task.task_id)
    except (InvalidInput, QueueNotFound) as error:
        return await _show_again(request, api, who, fields, error)
    return redirect(link_of(request, f"/tasks/{task.task_id}"))


async def _show_again(
    request: Request[Any, Any, Any], api: Context, who: Principal, fields: dict[str, Any], problem: PgqueueError
) -> Response[Any]:
    queues = [info.name for info in await api.operations.list_queues() if who.may_touch(info.name)]
    return page(request, "new.html", status=422, fields=NEW | fields, queues=queues, origin="", problem=problem)


def request_of(fields: dict[str, str]) -> TaskRequest:
    """Return what a form asks for. Raises InvalidInput, naming the field."""
    run_at = fields.get("run_at")
    return TaskRequest(
        task_type=fields.get("task_type", ""),
        queue_name=fields.get("queue_name") or "default",
        priority=number_of(fields, "priority", 5),
        payload=json_of(fields.get("payload") or "{}", "payload"),
        max_retries=number_of(fields, "max_retries", 3),
        timeout=number_of(fields, "timeout", None),
        run_at=datetime.fromisoformat(run_at).replace(tzinfo=UTC) if run_at else None,
        unique_key=fields.get("unique_key") or None,
        user_id=fields.get("user_id") or None,
        project_id=fields.get("project_id") or None,
    )


def number_of(fields: dict[str, str], name: str, default: Any) -> Any:  # noqa: ANN401 - int, or the default's type
    """Return a whole number of a form. Raises InvalidInput."""
    text = fields.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name}: {text[:80]!r} is no whole number", detail={"field": name}) from None


def json_of(text: str, name: str) -> Any:  # noqa: ANN401 - any JSON
    """Return the JSON of a form. Raises InvalidInput."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"{name}: this is no JSON: {error}", detail={"field": name}) from None


HANDLERS = [show_task, copy_task, retry_task, cancel_task, show_new, submit_task]
