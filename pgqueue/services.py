"""What programs do with tasks: one line an operation.

QueueOperations, StateService and RetryManager are asynchronous; `pgqueue.sync` has the same, blocking.
Each method that is made from a call of `calls` raises what that call raises, and DatabaseUnavailable.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import msgspec
import structlog

from pgqueue import calls, retention
from pgqueue.calls import Call
from pgqueue.database import Database
from pgqueue.errors import InvalidInput, PayloadError, TaskCancelled, TaskFailed
from pgqueue.listen import Subscription as Follow
from pgqueue.listen import hub_of
from pgqueue.models import QueueConfig, TaskFilter, TaskProgress, TaskRecord, TaskRequest, TaskStatistics

__all__ = ["FINAL", "QueueOperations", "RetryManager", "StateService", "Subscription", "Task", "TaskPage", "chunks", "result_of"]

P = ParamSpec("P")
T = TypeVar("T")
FINAL = frozenset({"completed", "failed", "cancelled"})
LOOK_S = 5.0
POLL_S = 0.25
CHUNK_TASKS = 5_000
CHUNK_BYTES = 8_000_000
MOST_PAGE = 1000
log = structlog.get_logger()
ProgressCallback = Callable[[TaskProgress], object]


class _HasDatabase(Protocol):
    db: Database


def async_method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """Make a method of a call: `service.get_task(7)` runs `calls.get_task(7)` on the service's database."""

    @functools.wraps(make)
    async def method(self: _HasDatabase, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.db.run(make(*args, **kwargs))

    return method


class Task(TaskRecord, kw_only=True):
    """A task as it was when it was read, with the operations on it."""

    service: Any = None

    async def refresh(self) -> Task:
        """Read it again. Raises TaskNotFound."""
        return await _operations(self).get_task(self.task_id)

    async def wait(self, timeout: float | None = None) -> Task:
        """Wait for its end, at most `timeout` seconds. Raises TimeoutError."""
        return await _operations(self).wait_for(self.task_id, timeout=timeout)

    async def result(self, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002, ANN401 - the type asked for
        """Wait for its end and return its result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TimeoutError, PayloadError where the result does not fit the type.
        """
        return result_of(await self.wait(timeout), type)

    def progress(self) -> AsyncIterator[TaskProgress]:
        """Follow its progress; the last one tells its final status."""
        return StateService(_operations(self).db).follow_progress(self.task_id)

    async def cancel(self, reason: str | None = None) -> str:
        """Cancel it; return the status it has then. Raises InvalidTransition."""
        return await _operations(self).cancel_task(self.task_id, reason)

    async def retry(self) -> int:
        """Start it again after it failed or was cancelled. Raises InvalidTransition, DuplicateTask."""
        return await _operations(self).retry_task(self.task_id)


def _operations(task: Task) -> QueueOperations:
    if task.service is None:
        msg = f"task {task.task_id} was not read through a service"
        raise InvalidInput(msg, hint="read it with queue_service.get_task(…)")
    return task.service  # type: ignore[no-any-return]


class TaskPage(tuple[list[Task], int]):
    """(tasks, total) of one page. `total_capped`: there are at least so many. `next_cursor`: pass as before_id."""

    total_capped: bool
    next_cursor: int | None

    def __new__(cls, tasks: list[Any], total: int, *, total_capped: bool, next_cursor: int | None) -> Self:
        """Unpacks as (tasks, total)."""
        page = super().__new__(cls, (tasks, total))
        page.total_capped = total_capped
        page.next_cursor = next_cursor
        return page


class QueueOperations:
    """Everything about tasks and queues except running them."""

    def __init__(self, db: Database, config: QueueConfig | None = None) -> None:
        """Opens nothing."""
        self.db = db
        self.config = config or QueueConfig()

    async def submit_task(self, request: TaskRequest, *, conn: object = None) -> Task:
        """Submit a task, in the caller's transaction where `conn` is given.

        Where its unique key is taken, the task that has it is returned (`created` False), or DuplicateTask
        is raised, or its payload replaced, as `request.on_conflict` says. Raises InvalidInput, QueueNotFound, QueueFull.
        """
        return task_of(request, await self.db.run(calls.submit_task(request), conn=conn), self)

    async def submit_tasks(self, requests: Iterable[TaskRequest], *, conn: object = None) -> list[Task]:
        """Submit many tasks in one transaction; returns them in their order. Raises as submit_task, and submits none then."""
        given = list(requests)
        if conn is not None:
            return await self._submit_chunks(given, conn)
        async with self.db.connection() as own, own.transaction():
            return await self._submit_chunks(given, own)

    async def _submit_chunks(self, given: list[TaskRequest], conn: object) -> list[Task]:
        answers: list[tuple[int, bool]] = []
        for chunk in chunks(given):
            answers += await self.db.run(calls.submit_many(chunk), conn=conn)
        return [bulk_task_of(request, *answer, self) for request, answer in zip(given, answers, strict=True)]

    async def get_task(self, task_id: int) -> Task:
        """Read a task, live or finished. Raises TaskNotFound."""
        return bind(await self.db.run(calls.get_task(task_id)), self)

    async def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage:
        """One page, newest first. Raises InvalidInput for a page, size or status that does not exist."""
        wanted = checked(task_filter or TaskFilter())
        records = await self.db.run(calls.list_tasks(wanted))
        total, capped = await self.db.run(calls.count_tasks(wanted))
        return page_of([bind(record, self) for record in records], total, capped, wanted)

    async def wait_for(self, task_id: int, timeout: float | None = None) -> Task:
        """Wait for a task's end, at most `timeout` seconds. Raises TimeoutError, which tells its state, and TaskNotFound."""
        status = "unknown"
        try:
            async with asyncio.timeout(timeout):
                async for progress in _changes(self.db, task_id):
                    status = progress.status
        except TimeoutError:
            msg = f"task {task_id} did not end within {timeout:g} s; it is {status}"
            raise TimeoutError(msg) from None
        return await self.get_task(task_id)

    async def cancel_task(self, task_id: int, reason: str | None = None, *, conn: object = None) -> str:
        """Cancel a waiting task at once, ask a running one to stop; return the status then. Raises TaskNotFound, InvalidTransition."""
        return await self.db.run(calls.cancel_task(task_id, reason), conn=conn)

    async def retry_task(self, task_id: int, *, conn: object = None) -> int:
        """Start a failed or cancelled task again: same id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
        return await self.db.run(calls.retry_task(task_id), conn=conn)

    async def create_queue(
        self, name: str, *, concurrency: int | None = None, capacity: int | None = None, max_crashes: int | None = None
    ) -> str:
        """Make a queue, or change what is given; a capacity of 0 takes the limit away. Raises InvalidInput."""
        return await self.db.run(calls.create_queue(name, concurrency=concurrency, capacity=capacity, max_crashes=max_crashes))

    get_executions = async_method(calls.get_executions)
    get_logs = async_method(calls.get_logs)
    get_queue_stats = async_method(calls.queue_stats)
    list_queues = async_method(calls.list_queues)
    pause_queue = async_method(calls.pause_queue)
    resume_queue = async_method(calls.resume_queue)
    delete_queue = async_method(calls.delete_queue)
    list_workers = async_method(calls.list_workers)
    stop_worker = async_method(calls.request_stop)
    why_waiting = async_method(calls.why_waiting)
    overview = async_method(calls.overview)


class Subscription:
    """A running subscription to one task's progress."""

    def __init__(self, task_id: int, task: asyncio.Task[None]) -> None:
        """Made by StateService.subscribe_progress."""
        self.task_id = task_id
        self._task = task

    async def done(self) -> None:
        """Wait until the final state was delivered. Raises what reading the task raised."""
        await self._task

    async def cancel(self) -> None:
        """Deliver no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class StateService:
    """Progress, results, lists and statistics."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db
        self._subscriptions: set[Subscription] = set()

    async def update_progress(self, task_id: int, progress: int, message: str | None = None, *, conn: object = None) -> None:
        """Report percent (0 to 100) and a message of a running task. Raises TaskNotFound, InvalidTransition, InvalidInput."""
        await self.db.run(calls.update_progress(task_id, progress, message), conn=conn)

    async def update_progress_with_steps(  # noqa: PLR0913 - as in the guide
        self, task_id: int, step: str, completed_steps: int, total_steps: int, message: str | None = None, *, conn: object = None
    ) -> None:
        """Report the current step and how many of all are behind it; the percentage follows from them."""
        percent = percent_of(completed_steps, total_steps)
        await self.db.run(calls.update_progress(task_id, percent, message, step=step, completed_steps=completed_steps, total_steps=total_steps), conn=conn)

    async def subscribe_progress(self, task_id: int, callback: ProgressCallback) -> Subscription:
        """Call back (an async function too) with each change of a task's progress; the last is its final state.

        Changes that follow each other closely are told as one. Raises TaskNotFound.
        """
        await self.db.run(calls.get_progress(task_id))
        subscription = Subscription(task_id, asyncio.create_task(self._deliver(task_id, callback)))
        self._subscriptions.add(subscription)
        return subscription

    async def unsubscribe_progress(self, which: int | Subscription) -> None:
        """End one subscription, or all of this service to a task."""
        for subscription in list(self._subscriptions):
            if subscription is which or subscription.task_id == which:
                self._subscriptions.discard(subscription)
                await subscription.cancel()

    async def _deliver(self, task_id: int, callback: ProgressCallback) -> None:
        async for progress in self.follow_progress(task_id):
            try:
                answer = callback(progress)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                log.exception("a progress callback failed", task_id=task_id)

    async def follow_progress(self, task_id: int) -> AsyncIterator[TaskProgress]:
        """Yield a task's progress whenever it changed; the last one is its final state. Raises TaskNotFound."""
        last: TaskProgress | None = None
        async for progress in _changes(self.db, task_id):
            if progress != last:
                last = progress
                yield progress

    async def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage:
        """One page, newest first, and the total. Raises InvalidInput."""
        return await QueueOperations(self.db).list_tasks(task_filter)

    async def get_task_result(self, task_id: int, type: Any = Any) -> Any:  # noqa: A002, ANN401 - the type asked for
        """Return what a task's handler returned or stored so far, converted to `type`. Raises TaskNotFound, PayloadError."""
        return convert_result(await self.db.run(calls.get_task(task_id)), type)

    async def set_task_result(self, task_id: int, value: object, *, conn: object = None) -> None:
        """Store a result; a value that the handler returns later replaces it. Raises TaskNotFound, InvalidInput."""
        await self.db.run(calls.set_task_result(task_id, value), conn=conn)

    async def get_task_statistics(self, start: datetime, end: datetime) -> TaskStatistics:
        """Count what finished from start up to before end; pending and running are now. Raises InvalidInput."""
        return await self.db.run(calls.task_statistics(start, end))

    get_progress = async_method(calls.get_progress)


class RetryManager:
    """Tasks that failed, and history that is no longer wanted."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db

    async def get_retryable_tasks(self, limit: int = 100, queue_name: str | None = None) -> list[Task]:
        """Failed and cancelled tasks that can be retried now, newest first."""
        operations = QueueOperations(self.db)
        return [bind(record, operations) for record in await self.db.run(calls.get_retryable_tasks(limit, queue_name))]

    async def cleanup_old_tasks(self, age: timedelta) -> int:
        """Remove tasks that finished longer ago, with their executions and logs; return how many. Raises InvalidInput."""
        return await retention.cleanup(self.db, age)

    retry_task = async_method(calls.retry_task)


async def _changes(db: Database, task_id: int) -> AsyncIterator[TaskProgress]:
    """Yield the state after every event, and now and then without, until it is final.

    A follower is seen by every transaction that begins after it was registered; until the fence says that
    all others have ended, the state is read again every few milliseconds.
    """
    hub = hub_of(db)
    await hub.start()
    async with hub.follow("task", task_id) as events:
        fence: str | None = await hub.fence()
        pause = 0.005
        while True:
            if fence is not None and await hub.is_settled(fence):
                fence = None
            progress = await db.run(calls.get_progress(task_id))
            yield progress
            if progress.is_final:
                return
            pause = min(POLL_S, pause * 2)
            await _next(events, pause if fence is not None else LOOK_S if hub.is_alive else POLL_S)


async def _next(events: Follow, seconds: float) -> None:
    await events.next(seconds)
    while not events.is_empty():
        await events.next(seconds)


# Shared with pgqueue.sync


def bind(record: TaskRecord, service: object) -> Any:  # noqa: ANN401 - Task, or its blocking twin
    """Give a record the service that its methods use."""
    kind = service.task_type if hasattr(service, "task_type") else Task
    return kind(**{name: getattr(record, name) for name in TaskRecord.__struct_fields__}, service=service)


def task_of(request: TaskRequest, answer: calls.Submitted, service: object) -> Any:  # noqa: ANN401 - as bind
    """The task that a submit answered with."""
    record = _requested(request, answer.task_id, created=answer.created)
    record.status = answer.status  # type: ignore[assignment]
    record.attempt = answer.attempt
    record.run_at = answer.run_at
    record.created_at = answer.created_at
    return bind(record, service)


def bulk_task_of(request: TaskRequest, task_id: int, created: bool, service: object) -> Any:  # noqa: ANN401, FBT001 - as bind
    """The task that one row of a bulk submit answered with; its times are not read back."""
    return bind(_requested(request, task_id, created=created), service)


def _requested(request: TaskRequest, task_id: int, *, created: bool) -> TaskRecord:
    return TaskRecord(
        task_id=task_id,
        task_type=request.task_type,
        queue_name=request.queue_name,
        priority=int(request.priority),
        payload=request.payload,
        status="pending",
        max_retries=request.max_retries,
        timeout=request.timeout,
        run_at=request.run_at,
        unique_key=request.unique_key,
        user_id=request.user_id,
        project_id=request.project_id,
        metadata=request.metadata,
        created=created,
    )


def chunks(requests: Iterable[TaskRequest]) -> list[list[bytes]]:
    """Encode requests, in chunks that one statement can take. Raises InvalidInput, naming the request's place."""
    made: list[list[bytes]] = [[]]
    size = 0
    for position, request in enumerate(requests):
        try:
            encoded = calls.encode_request(request)
        except InvalidInput as error:
            msg = f"task {position}: {error.message}"
            raise InvalidInput(msg, detail={**error.detail, "position": position}, hint=error.hint) from error
        if made[-1] and (len(made[-1]) >= CHUNK_TASKS or size + len(encoded) > CHUNK_BYTES):
            made.append([])
            size = 0
        made[-1].append(encoded)
        size += len(encoded)
    return made if made[-1] else []


def checked(task_filter: TaskFilter) -> TaskFilter:
    """Raise InvalidInput for a page that does not exist."""
    f = task_filter
    if f.page < 1 or not 1 <= f.page_size <= MOST_PAGE:
        msg = f"there is no page {f.page} of {f.page_size} tasks"
        raise InvalidInput(msg, detail={"page": f.page, "page_size": f.page_size}, hint=f"pages start at 1 and hold 1 to {MOST_PAGE} tasks")
    return f


def page_of(tasks: list[Any], total: int, capped: bool, task_filter: TaskFilter) -> TaskPage:  # noqa: FBT001 - a decoded row
    """Put a page together."""
    next_cursor = tasks[-1].task_id if len(tasks) == task_filter.page_size else None
    return TaskPage(tasks, total, total_capped=capped, next_cursor=next_cursor)


def percent_of(completed_steps: int, total_steps: int) -> int:
    """Percent from steps. Raises InvalidInput where 0 <= completed_steps <= total_steps does not hold."""
    if total_steps < 1 or not 0 <= completed_steps <= total_steps:
        msg = f"{completed_steps} of {total_steps} steps: completed_steps must lie between 0 and total_steps, which is at least 1"
        raise InvalidInput(msg, detail={"completed_steps": completed_steps, "total_steps": total_steps})
    return 100 * completed_steps // total_steps


def result_of(task: TaskRecord, type: Any) -> Any:  # noqa: A002, ANN401 - the type asked for
    """The result of an ended task. Raises TaskFailed, TaskCancelled, PayloadError."""
    detail: dict[str, object] = {"task_id": task.task_id, "task_type": task.task_type, "attempt": task.attempt, "error": task.error}
    if task.status == "failed":
        msg = f"task {task.task_id} ({task.task_type}) failed after {task.attempt} attempts: {task.error}"
        raise TaskFailed(msg, detail=detail, hint="get_executions shows each attempt's traceback; retry_task starts it again")
    if task.status == "cancelled":
        msg = f"task {task.task_id} ({task.task_type}) was cancelled: {task.error or 'no reason given'}"
        raise TaskCancelled(msg, detail=detail)
    return convert_result(task, type)


def convert_result(task: TaskRecord, type: Any) -> Any:  # noqa: A002, ANN401 - the type asked for
    """Convert a task's result. Raises PayloadError."""
    if type is Any:
        return task.result_value
    try:
        return msgspec.convert(task.result_value, type)
    except msgspec.ValidationError as error:
        msg = f"the result of task {task.task_id} is no {type}: {error}"
        raise PayloadError(msg, detail={"task_id": task.task_id}) from error


