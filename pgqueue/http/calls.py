"""One pure function per endpoint: what to send, and how to read the answer. Paths are below /api/v1."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from pgqueue.errors import InvalidInput
from pgqueue.http.call import Call, body_of, field_of
from pgqueue.models import (
    MOST_ID,
    Execution,
    LogLine,
    QueueInfo,
    QueueStats,
    ScheduledTask,
    ScheduledTaskRequest,
    SchedulerStats,
    ScheduleTick,
    Status,
    TaskFilter,
    TaskProgress,
    TaskRecord,
    TaskRequest,
    TaskStatistics,
    WorkerInfo,
    check_number,
    check_text,
    check_time,
    encode_payload,
    encode_request,
    requested,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import httpx

T = TypeVar("T")
B = TypeVar("B", bound=TaskRecord)
JSON = {"Content-Type": "application/json"}


# Tasks


def submit_task(kind: type[B], request: TaskRequest) -> Call[B]:
    """POST /tasks: the task; `created` is False where its unique key was taken."""

    def decode(response: httpx.Response) -> B:
        task = body_of(response, kind)
        task.created = response.status_code == 201
        return task

    return _post("/tasks", decode, encode_request(request), once=True)


class _BatchItem(msgspec.Struct):
    task_id: int
    created: bool


def submit_tasks(kind: type[B], requests: Sequence[TaskRequest]) -> Call[list[B]]:
    """POST /tasks/batch: the tasks, in order; their times are not read back."""

    def decode(response: httpx.Response) -> list[B]:
        items = field_of(response, "tasks", list[_BatchItem])
        return [
            requested(kind, request, item.task_id, created=item.created)
            for request, item in zip(requests, items, strict=True)
        ]

    body = b'{"tasks":[' + b",".join([encode_request(request) for request in requests]) + b"]}"
    return _post("/tasks/batch", decode, body, once=True)


def get_task(kind: type[B], task_id: int, wait_s: int = 0) -> Call[B]:
    """GET /tasks/{task_id}, at its end or after `wait_s` seconds."""
    return _get(_task(task_id), kind, wait_s=wait_s)


class Result(msgspec.Struct):
    """A task's result; where it has not ended, only its status."""

    task_id: int
    status: Status
    result: Any = None


def get_task_result(task_id: int, wait_s: int = 0) -> Call[Result]:
    """GET /tasks/{task_id}/result, at its end or after `wait_s` seconds. Raises TaskFailed, TaskCancelled."""
    return _get(f"{_task(task_id)}/result", Result, wait_s=wait_s)


class TaskPage(tuple[list[B], int], Generic[B]):  # noqa: SLOT001 - a tuple with two more fields
    """(tasks, total) of one page. `total_capped`: there are at least so many. `next_cursor`: pass as cursor."""

    total_capped: bool
    next_cursor: str | None

    def __new__(cls, tasks: list[B], total: int, *, total_capped: bool, next_cursor: str | None) -> Self:
        """Unpacks as (tasks, total)."""
        page = super().__new__(cls, (tasks, total))
        page.total_capped = total_capped
        page.next_cursor = next_cursor
        return page


class _Page(msgspec.Struct, Generic[B]):
    tasks: list[B]
    total: int
    total_capped: bool
    next_cursor: str | None


def list_tasks(kind: type[B], task_filter: TaskFilter | None, cursor: str | None) -> Call[TaskPage[B]]:
    """GET /tasks: one page. Raises InvalidInput."""
    wanted = task_filter or TaskFilter()
    if wanted.before_id is not None or wanted.queue_names is not None:
        hint = "pass the next_cursor of a page as cursor; list one queue at a time"
        raise InvalidInput("before_id and queue_names are not understood over HTTP", hint=hint)

    def decode(response: httpx.Response) -> TaskPage[B]:
        page = body_of(response, _Page[kind])  # type: ignore[valid-type]  # a type at run time
        return TaskPage(page.tasks, page.total, total_capped=page.total_capped, next_cursor=page.next_cursor)

    params = _query(**msgspec.structs.asdict(wanted), cursor=cursor)
    return Call("GET", "/tasks", decode, params, is_repeatable=True)


def get_progress(task_id: int) -> Call[TaskProgress]:
    """GET /tasks/{task_id}/progress."""
    return _get(progress_path(task_id), TaskProgress)


def progress_path(task_id: int) -> str:
    """Return where a task's progress is told and streamed."""
    return f"{_task(task_id)}/progress"


def cancel_task(task_id: int) -> Call[str]:
    """DELETE /tasks/{task_id}: the status then. Raises TaskNotFound, InvalidTransition."""
    return Call("DELETE", _task(task_id), lambda response: body_of(response, TaskRecord).status, is_repeatable=True)


def retry_task(task_id: int) -> Call[int]:
    """POST /tasks/{task_id}/retry: its id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
    return _post(f"{_task(task_id)}/retry", lambda response: body_of(response, TaskRecord).task_id)


def get_executions(task_id: int) -> Call[list[Execution]]:
    """GET /tasks/{task_id}/executions: the ended attempts, in order."""
    return _get_field(f"{_task(task_id)}/executions", "executions", list[Execution])


def get_logs(task_id: int, after: int = 0, limit: int = 1000) -> Call[list[LogLine]]:
    """GET /tasks/{task_id}/logs: lines after the one with this id."""
    return _get_field(f"{_task(task_id)}/logs", "logs", list[LogLine], _query(after=after, limit=limit))


def get_task_statistics(start: datetime | None = None, end: datetime | None = None) -> Call[TaskStatistics]:
    """GET /tasks/statistics: what finished in a window, the last 24 hours by default."""
    return _get("/tasks/statistics", TaskStatistics, params=_query(start_time=start, end_time=end))


# Queues


def list_queues() -> Call[list[QueueInfo]]:
    """GET /queues: by name."""
    return _get_field("/queues", "queues", list[QueueInfo])


def create_queue(
    name: str, *, concurrency: int | None = None, capacity: int | None = None, max_crashes: int | None = None
) -> Call[str]:
    """POST /queues: make a queue, or change what is given; a capacity of 0 takes the limit away."""
    given = {"name": name, "concurrency": concurrency, "capacity": capacity, "max_crashes": max_crashes}
    return _post("/queues", lambda response: field_of(response, "name", str), _json(given), once=True)


def pause_queue(name: str, reason: str | None = None) -> Call[None]:
    """POST /queues/{name}/pause: nothing more of it starts; what runs goes on."""
    return _post(f"{_queue(name)}/pause", _nothing, _json({"reason": reason}), repeatable=True)


def resume_queue(name: str) -> Call[None]:
    """POST /queues/{name}/resume: undo a pause."""
    return _post(f"{_queue(name)}/resume", _nothing, repeatable=True)


def get_queue_stats(name: str) -> Call[QueueStats]:
    """GET /queues/{name}/stats: what waits and runs now."""
    return _get(f"{_queue(name)}/stats", QueueStats)


def list_workers() -> Call[list[WorkerInfo]]:
    """GET /workers: the worker processes."""
    return _get_field("/workers", "workers", list[WorkerInfo])


def pause_worker(worker_id: int, reason: str | None = None) -> Call[None]:
    """POST /workers/{worker_id}/pause: it claims nothing more; what it runs goes on. Raises WorkerNotFound."""
    return _post(f"{_worker(worker_id)}/pause", _nothing, _json({"reason": reason}), repeatable=True)


def resume_worker(worker_id: int) -> Call[None]:
    """POST /workers/{worker_id}/resume: undo a pause. Raises WorkerNotFound."""
    return _post(f"{_worker(worker_id)}/resume", _nothing, repeatable=True)


def stop_worker(worker_id: int) -> Call[None]:
    """POST /workers/{worker_id}/stop: it ends what it runs and leaves. Raises WorkerNotFound."""
    return _post(f"{_worker(worker_id)}/stop", _nothing, repeatable=True)


# Schedules


def create_scheduled_task(request: ScheduledTaskRequest) -> Call[ScheduledTask]:
    """POST /scheduled-tasks: the schedule, which says when it runs next. Raises InvalidInput, DuplicateTask."""
    return _post("/scheduled-tasks", _reader(ScheduledTask), _schedule_body(request), once=True)


def update_scheduled_task(
    name: str, request: ScheduledTaskRequest | None = None, **changes: object
) -> Call[ScheduledTask]:
    """PUT /scheduled-tasks/{name}: change what is set in the request, or given by keyword."""
    given = {} if request is None else {field: getattr(request, field) for field in request.__struct_fields__}
    unknown = changes.keys() - set(ScheduledTaskRequest.__struct_fields__)
    if unknown:
        msg = f"a schedule has no field {', '.join(sorted(unknown))}"
        raise InvalidInput(msg, hint="its fields are " + ", ".join(ScheduledTaskRequest.__struct_fields__))
    wanted = ScheduledTaskRequest(**{**given, **changes})
    body, repeatable = _schedule_body(wanted), wanted.name is UNSET
    return Call("PUT", _schedule(name), _reader(ScheduledTask), None, body, JSON, is_repeatable=repeatable)


def get_scheduled_task(name: str) -> Call[ScheduledTask]:
    """GET /scheduled-tasks/{name}. Raises ScheduleNotFound."""
    return _get(_schedule(name), ScheduledTask)


def list_scheduled_tasks(limit: int = 1000, after: str | None = None) -> Call[list[ScheduledTask]]:
    """GET /scheduled-tasks: by name, those after `after`."""
    params = _query(limit=limit, after=after)
    return _get_field("/scheduled-tasks", "scheduled_tasks", list[ScheduledTask], params)


def pause_scheduled_task(name: str, reason: str | None = None) -> Call[None]:
    """POST /scheduled-tasks/{name}/pause: it fires nothing more until it is resumed."""
    return _post(f"{_schedule(name)}/pause", _nothing, _json({"reason": reason}), repeatable=True)


def resume_scheduled_task(name: str) -> Call[ScheduledTask]:
    """POST /scheduled-tasks/{name}/resume: it goes on with the next tick from now."""
    return _post(f"{_schedule(name)}/resume", _reader(ScheduledTask), repeatable=True)


def run_scheduled_task_now(name: str) -> Call[int]:
    """POST /scheduled-tasks/{name}/run: the id of its task, which is submitted at once."""
    path = f"{_schedule(name)}/run"
    return _post(path, lambda response: body_of(response, TaskRecord).task_id, once=True)


def delete_scheduled_task(name: str) -> Call[None]:
    """DELETE /scheduled-tasks/{name}: with its history; its tasks stay."""
    return Call("DELETE", _schedule(name), _nothing)


def get_next_runs(name: str, count: int = 5) -> Call[list[datetime]]:
    """GET /scheduled-tasks/{name}/next: the next moments, whether it is paused or not."""
    return _get_field(f"{_schedule(name)}/next", "next_runs", list[datetime], _query(count=count))


def get_scheduled_task_history(name: str, limit: int = 100, before: datetime | None = None) -> Call[list[ScheduleTick]]:
    """GET /scheduled-tasks/{name}/history: what became of its ticks, newest first."""
    return _get_field(f"{_schedule(name)}/history", "ticks", list[ScheduleTick], _query(limit=limit, before=before))


def get_scheduler_stats() -> Call[SchedulerStats]:
    """GET /scheduler/stats: the schedules by state, and how late the oldest due tick is."""
    return _get("/scheduler/stats", SchedulerStats)


# Parts of calls


def _get(path: str, kind: type[T], params: Mapping[str, str] | None = None, wait_s: int = 0) -> Call[T]:
    return Call("GET", path, _reader(kind), params, is_repeatable=True, wait_s=wait_s)


def _get_field(path: str, name: str, kind: type[T], params: Mapping[str, str] | None = None) -> Call[T]:
    return Call("GET", path, lambda response: field_of(response, name, kind), params, is_repeatable=True)


def _post(
    path: str,
    decode: Callable[[httpx.Response], T],
    body: bytes | None = None,
    *,
    once: bool = False,
    repeatable: bool = False,
) -> Call[T]:
    """`once`: a key tells the server that a repetition is one."""
    headers = dict(JSON) if body is not None else {}
    if once:
        headers["Idempotency-Key"] = str(uuid.uuid4())
    return Call("POST", path, decode, None, body, headers, is_repeatable=once or repeatable)


def _reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    return lambda response: body_of(response, kind)


def _nothing(_response: httpx.Response) -> None:
    return None


def _task(task_id: int) -> str:
    check_number(task_id, "task_id", -MOST_ID - 1, MOST_ID)
    return f"/tasks/{task_id}"


def _queue(name: str) -> str:
    check_text(name, "name")
    return f"/queues/{quote(name, safe='')}"


def _worker(worker_id: int) -> str:
    check_number(worker_id, "worker_id", 1, MOST_ID)
    return f"/workers/{worker_id}"


def _schedule(name: str) -> str:
    check_text(name, "name")
    return f"/scheduled-tasks/{quote(name, safe='')}"


def _query(**given: object) -> dict[str, str]:
    """Write a query string; what is None is left out. Raises InvalidInput for a time without a zone."""
    written: dict[str, str] = {}
    for name, value in given.items():
        if isinstance(value, datetime):
            check_time(value, name)
            written[name] = value.isoformat()
        elif value is not None:
            written[name] = str(value)
    return written


def _json(given: Mapping[str, object]) -> bytes:
    return encode_payload({name: value for name, value in given.items() if value is not None}, "the request").encode()


def _schedule_body(request: ScheduledTaskRequest) -> bytes:
    if not isinstance(request, ScheduledTaskRequest):
        msg = f"a schedule is described by a ScheduledTaskRequest, not {type(request).__name__}"
        raise InvalidInput(msg, hint="write ScheduledTaskRequest(name=…, task_type=…, cron_expr=…)")
    for name in ("starts_at", "ends_at"):
        check_time(getattr(request, name) or None, name)
    return encode_payload(request, "schedule").encode()
