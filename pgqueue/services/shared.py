"""What the async and the blocking services have in common: requests to chunks, answers to tasks and pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

import msgspec

from pgqueue.errors import InvalidInput, TaskCancelled, TaskFailed
from pgqueue.log import task_fields
from pgqueue.models import (
    FINAL,
    TaskFilter,
    TaskRecord,
    TaskRequest,
    check_number,
    checked_timeout,
    convert_result,
    encode_request,
    requested,
    timed_out,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pgqueue import calls

__all__ = [
    "FINAL",
    "Chunk",
    "TaskPage",
    "bind",
    "bulk_task_of",
    "checked",
    "checked_timeout",
    "chunks_of",
    "convert_result",
    "page_of",
    "percent_of",
    "result_of",
    "service_of",
    "task_of",
    "timed_out",
    "with_parents",
]

B = TypeVar("B", bound=TaskRecord)
T = TypeVar("T")
CHUNK_TASKS = 1_000
CHUNK_BYTES = 8_000_000
MOST_PAGE = 1000
FIELDS = TaskRecord.__struct_fields__


class TaskPage(tuple[list[B], int], Generic[B]):  # noqa: SLOT001 - a tuple with two more fields
    """(tasks, total) of one page. `total_capped`: the total is not exact. `next_cursor`: pass as before_id."""

    total_capped: bool
    next_cursor: int | None

    def __new__(cls, tasks: list[B], total: int, *, total_capped: bool, next_cursor: int | None) -> Self:
        """Unpacks as (tasks, total)."""
        page = super().__new__(cls, (tasks, total))
        page.total_capped = total_capped
        page.next_cursor = next_cursor
        return page


def bind(kind: type[B], record: TaskRecord, service: object) -> B:
    """Give a record the service that its methods use."""
    return _bound(kind(**{name: getattr(record, name) for name in FIELDS}), service)


def _bound(task: B, service: object) -> B:
    task.__dict__["service"] = service
    return task


def service_of(task: TaskRecord) -> Any:  # noqa: ANN401 - any JSON, or any connection
    """The service of a bound task. Raises InvalidInput where there is none."""
    service = task.__dict__.get("service")
    if service is None:
        msg = f"task {task.task_id} was not read through a service"
        raise InvalidInput(msg, hint="read it with queue_service.get_task(…)")
    return service


def task_of(kind: type[B], request: TaskRequest, answer: calls.Submitted, service: object) -> B:
    """The task that a submit answered with."""
    task = bulk_task_of(kind, request, (answer.task_id, answer.created), service)
    task.status = answer.status  # type: ignore[assignment]  # the database knows no other
    task.attempt = answer.attempt
    task.run_at = answer.run_at
    task.created_at = answer.created_at
    return task


def bulk_task_of(kind: type[B], request: TaskRequest, answer: tuple[int, bool], service: object) -> B:
    """The task that one row of a bulk submit answered with; its times are not read back."""
    task_id, created = answer
    return _bound(requested(kind, request, task_id, created=created), service)


def with_parents(requests: Iterable[T]) -> list[T]:
    """Within a handler: the requests as its task's children, unless they name another parent."""
    task = task_fields.get()
    if task is None:
        return list(requests)
    return [
        msgspec.structs.replace(request, parent_id=task.task_id)
        if isinstance(request, TaskRequest) and request.parent_id is None
        else request
        for request in requests
    ]


class Chunk(NamedTuple):
    """What one statement of a bulk submit takes: the places of its requests among all, and each as JSON."""

    positions: list[int]
    rows: list[bytes]


def chunks_of(requests: Sequence[TaskRequest]) -> Iterator[Chunk]:
    """Encode requests, a chunk at a time. Raises InvalidInput, naming the request's place.

    Unique keys come in the order of their bytes, as `submit_many` takes them, so that two transactions of
    several chunks never deadlock.
    """
    order: Sequence[int] = range(len(requests))
    if any(getattr(request, "unique_key", None) is not None for request in requests):
        for position in order:
            _encoded(position, requests[position])
        order = sorted(order, key=lambda position: _key_order(requests[position]))
    chunk, size = Chunk([], []), 0
    for position in order:
        row = _encoded(position, requests[position])
        if chunk.rows and (size + len(row) > CHUNK_BYTES or len(chunk.rows) >= CHUNK_TASKS):
            yield chunk
            chunk, size = Chunk([], []), 0
        chunk.positions.append(position)
        chunk.rows.append(row)
        size += len(row)
    if chunk.rows:
        yield chunk


def _encoded(position: int, request: TaskRequest) -> bytes:
    try:
        return encode_request(request)
    except InvalidInput as error:
        msg = f"task {position}: {error.message}"
        raise InvalidInput(msg, detail={**error.detail, "position": position}, hint=error.hint) from error


def _key_order(request: TaskRequest) -> tuple[str, str]:
    return (request.unique_key, request.task_type) if request.unique_key is not None else ("", "")


def checked(task_filter: TaskFilter | None) -> TaskFilter:
    """Raise InvalidInput for a page that does not exist."""
    wanted = task_filter or TaskFilter()
    check_number(wanted.page, "page", 1, 2**31 - 1)
    check_number(wanted.page_size, "page_size", 1, MOST_PAGE)
    return wanted


def page_of(
    tasks: list[B], counted: tuple[int, bool], task_filter: TaskFilter, stopped_before: int | None
) -> TaskPage[B]:
    """Put a page together; `tasks` may have one more, `stopped_before` is where the search for more ended early."""
    total, capped = counted
    shown = tasks[: task_filter.page_size]
    next_cursor = shown[-1].task_id if len(tasks) > len(shown) else stopped_before
    if next_cursor is not None and shown:
        next_cursor = min(next_cursor, shown[-1].task_id)
    return TaskPage(shown, total, total_capped=capped, next_cursor=next_cursor)


def percent_of(completed_steps: int, total_steps: int) -> int:
    """Percent from steps. Raises InvalidInput where 0 <= completed_steps <= total_steps does not hold."""
    check_number(total_steps, "total_steps", 1, 2**31 - 1)
    check_number(completed_steps, "completed_steps", 0, total_steps)
    return 100 * completed_steps // total_steps


def result_of(task: TaskRecord, type: Any) -> Any:  # noqa: A002, ANN401 - any JSON, or any connection
    """The result of an ended task. Raises TaskFailed, TaskCancelled, PayloadError."""
    detail: dict[str, object] = {name: getattr(task, name) for name in ("task_id", "task_type", "attempt", "error")}
    if task.status == "failed":
        msg = f"task {task.task_id} ({task.task_type}) failed after {task.attempt} attempts: {task.error}"
        raise TaskFailed(msg, detail=detail, hint="get_executions shows each attempt; retry_task starts it again")
    if task.status == "cancelled":
        msg = f"task {task.task_id} ({task.task_type}) was cancelled: {task.error or 'no reason given'}"
        raise TaskCancelled(msg, detail=detail)
    return convert_result(task.task_id, task.result_value, type)
