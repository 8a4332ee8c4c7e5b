"""Tasks and queues: everything except running them. One line an operation."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from pgqueue import calls, telemetry
from pgqueue.errors import PgqueueError
from pgqueue.listen import hub_of
from pgqueue.models import QueueConfig, TaskFilter, TaskProgress, TaskRecord, TaskRequest
from pgqueue.schema import check_async
from pgqueue.services import shared
from pgqueue.services.following import changes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
    from datetime import timedelta

    from pgqueue.calls import Call
    from pgqueue.database import Database
    from pgqueue.listen import Hub
    from pgqueue.models import QueueInfo
    from pgqueue.schema import Status
    from pgqueue.services.shared import TaskPage

__all__ = ["QueueOperations", "Task", "async_method", "follow_progress"]

P = ParamSpec("P")
T = TypeVar("T")


class _HasDatabase(Protocol):
    @property
    def db(self) -> Database: ...


def async_method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make a method of a call: `service.get_logs(7)` runs `calls.get_logs(7)` on the service's database."""

    async def method(self: _HasDatabase, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.db.run(make(*args, **kwargs))

    functools.update_wrapper(method, make)
    return method


class Task(TaskRecord, kw_only=True, dict=True):
    """A task as it was when it was read, with the operations on it."""

    async def refresh(self) -> Task:
        """Read it again. Raises TaskNotFound."""
        return await self._service().get_task(self.task_id)

    async def wait(self, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - as in the contract
        """Wait for its end, at most `timeout` seconds. Raises TimeoutError."""
        return await self._service().wait_for(self.task_id, timeout=timeout)

    @overload
    async def result(self, type: type[T], timeout: float | None = None) -> T: ...  # noqa: ASYNC109 - as in the contract

    @overload
    async def result(self, type: Any = Any, timeout: float | None = None) -> Any: ...  # noqa: ANN401, ASYNC109 - any JSON, or any connection

    async def result(self, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002, ASYNC109 - as in the contract
        """Wait for its end and return its result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TimeoutError, PayloadError where the result does not fit the type.
        """
        return shared.result_of(await self.wait(timeout), type)

    def progress(self) -> AsyncIterator[TaskProgress]:
        """Follow its progress; the last one tells its final status."""
        return follow_progress(self._service().db, self.task_id)

    async def cancel(self, reason: str | None = None) -> str:
        """Cancel it; return the status it has then. Raises InvalidTransition."""
        return await self._service().cancel_task(self.task_id, reason)

    async def retry(self) -> int:
        """Start it again after it failed or was cancelled. Raises InvalidTransition, DuplicateTask."""
        return await self._service().retry_task(self.task_id)

    def _service(self) -> QueueOperations:
        service: QueueOperations = shared.service_of(self)
        return service


async def follow_progress(
    db: Database, task_id: int, first: TaskProgress | None = None, hub: Hub | None = None
) -> AsyncIterator[TaskProgress]:
    """Yield a task's progress (`first` where it was just read) and each change; the last one is its final state.

    Raises TaskNotFound.
    """
    last = first if first is not None else (await db.run(calls.get_progress(task_id)))
    yield last
    if last.is_final:
        return
    if hub is None:
        hub = hub_of(db)
        await hub.start()
    async for progress in changes(db, task_id, hub):
        if progress != last:
            last = progress
            yield progress


class QueueOperations:
    """Everything about tasks and queues except running them."""

    def __init__(self, db: Database, config: QueueConfig | None = None) -> None:
        """Opens nothing."""
        self.db = db
        self.config = config or QueueConfig()

    async def submit_task(self, request: TaskRequest, *, conn: object = None) -> Task:
        """Submit a task, in the caller's transaction where `conn` is given.

        Where its unique key is taken, the task that has it is returned (`created` False; in a transaction
        of the caller's it is not read back: `refresh` it), or DuplicateTask
        is raised, or its payload replaced, as `request.on_conflict` says.
        Raises InvalidInput, QueueNotFound, QueueFull.
        """
        [request] = given = shared.with_parents([request])
        with telemetry.sending(given) as send:
            answer = await self.db.run(calls.submit_task(send.requests[0]), conn=conn)
            send.sent(answer.task_id)
        if not answer.created and conn is None:
            with contextlib.suppress(PgqueueError):  # it is submitted, whether or not it may be read
                return await self.get_task(answer.task_id)
        return shared.task_of(Task, request, answer, self)

    async def submit_tasks(self, requests: Iterable[TaskRequest], *, conn: object = None) -> list[Task]:
        """Submit many tasks in one transaction; returns them in order. Raises as submit_task, and submits none then."""
        given = shared.with_parents(requests)
        with telemetry.sending(given, is_batch=True) as send:
            chunks = shared.chunks_of(send.requests)
            if conn is not None:
                # What cannot be encoded must be found before any of them is in the caller's transaction.
                return await self._submit_chunks(given, list(chunks), conn)
            first = list(itertools.islice(chunks, 1))
            if sum(len(chunk.rows) for chunk in first) == len(given):
                # One statement is a transaction of its own, in one round trip instead of three.
                return await self._submit_chunks(given, first, None)
            async with self.db.connection() as own, own.transaction():
                return await self._submit_chunks(given, itertools.chain(first, chunks), own)

    async def _submit_chunks(
        self, given: list[TaskRequest], chunks: Iterable[shared.Chunk], conn: object
    ) -> list[Task]:
        """While one chunk is under way, the answer to the last one is read and the next one is encoded."""
        tasks: dict[int, Task] = {}
        sent: asyncio.Task[list[tuple[int, bool]]] | None = None
        last = shared.Chunk([], [])
        try:
            for chunk in itertools.chain(chunks, (None,)):
                answers = [] if sent is None else await sent
                sent = None if chunk is None else asyncio.create_task(self.db.run(calls.submit_many(chunk.rows), conn))
                await asyncio.sleep(0)
                for position, answer in zip(last.positions, answers, strict=True):
                    tasks[position] = shared.bulk_task_of(Task, given[position], answer, self)
                last = chunk or last
        finally:
            if sent is not None:
                await asyncio.gather(sent, return_exceptions=True)
        return [tasks[position] for position in range(len(given))]

    async def get_task(self, task_id: int, *, conn: object = None) -> Task:
        """Read a task, live or finished. Raises TaskNotFound."""
        return shared.bind(Task, await self.db.run(calls.get_task(task_id), conn=conn), self)

    async def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage[Task]:
        """One page, newest first. Raises InvalidInput for a page, size or status that does not exist."""
        wanted = shared.checked(task_filter)
        records = await self.db.run(calls.list_tasks(wanted))
        counted = await self.db.run(calls.count_tasks(wanted))
        found_too_few = len(records) <= wanted.page_size
        stopped_before = await self.db.run(calls.list_cursor(wanted)) if found_too_few else None
        tasks = [shared.bind(Task, record, self) for record in records]
        return shared.page_of(tasks, counted, wanted, stopped_before)

    async def wait_for(self, task_id: int, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - as in the contract
        """Wait for a task's end, at most `timeout` seconds.

        Raises TimeoutError, which tells its state, and TaskNotFound.
        """
        shared.checked_timeout(timeout)
        progress = first = await self.db.run(calls.get_progress(task_id))
        clock = asyncio.timeout(timeout)
        try:
            async with clock:
                async for progress in follow_progress(self.db, task_id, first):  # noqa: B007 - the last one counts
                    pass
        except TimeoutError:
            if clock.expired():
                raise shared.timed_out(task_id, timeout, progress.status) from None
            raise
        return await self.get_task(task_id)

    async def cancel_task(self, task_id: int, reason: str | None = None, *, conn: object = None) -> str:
        """Cancel a waiting task at once, ask a running one to stop; return the status then.

        Raises TaskNotFound, InvalidTransition.
        """
        return await self.db.run(calls.cancel_task(task_id, reason), conn=conn)

    async def retry_task(self, task_id: int, *, conn: object = None) -> int:
        """Start a failed or cancelled task again: same id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
        return await self.db.run(calls.retry_task(task_id), conn=conn)

    async def delete_task(self, task_id: int, *, conn: object = None) -> None:
        """Delete a task that has ended, with its executions and logs. Raises TaskNotFound, InvalidTransition."""
        await self.db.run(calls.delete_task(task_id), conn=conn)

    async def create_queue(  # noqa: PLR0913 - as in SQL
        self,
        name: str,
        *,
        concurrency: int | None = None,
        capacity: int | None = None,
        max_crashes: int | None = None,
        keep_completed: timedelta | None = None,
        keep_failed: timedelta | None = None,
        keep_cancelled: timedelta | None = None,
        conn: object = None,
    ) -> str:
        """Make a queue, or change what is given; a capacity of 0 takes the limit away.

        keep_… is how long its finished tasks are kept, by their status. Raises InvalidInput.
        """
        call = calls.create_queue(
            name,
            concurrency=concurrency,
            capacity=capacity,
            max_crashes=max_crashes,
            keep_completed=keep_completed,
            keep_failed=keep_failed,
            keep_cancelled=keep_cancelled,
        )
        return await self.db.run(call, conn=conn)

    async def pause_queue(self, name: str, reason: str | None = None, *, conn: object = None) -> None:
        """Let nothing more of a queue start; what runs goes on. Raises QueueNotFound."""
        await self.db.run(calls.pause_queue(name, reason), conn=conn)

    async def resume_queue(self, name: str, *, conn: object = None) -> None:
        """Undo pause_queue. Raises QueueNotFound."""
        await self.db.run(calls.resume_queue(name), conn=conn)

    async def delete_queue(self, name: str, *, conn: object = None) -> None:
        """Remove a queue that has no live tasks. Raises QueueNotFound, InvalidTransition."""
        await self.db.run(calls.delete_queue(name), conn=conn)

    async def list_queues(self, *, conn: object = None) -> list[QueueInfo]:
        """The queues, by name."""
        return await self.db.run(calls.list_queues(), conn=conn)

    async def check_schema(self) -> Status:
        """Return how the database's schema compares with this release. Raises SchemaMismatch where it does not fit."""
        async with self.db.connection() as conn:
            return await check_async(conn)

    clock = async_method(calls.clock)
    get_executions = async_method(calls.get_executions)
    get_logs = async_method(calls.get_logs)
    get_queue_stats = async_method(calls.queue_stats)
    list_workers = async_method(calls.list_workers)
    stop_worker = async_method(calls.request_stop)
    pause_worker = async_method(calls.pause_worker)
    resume_worker = async_method(calls.resume_worker)
    why_waiting = async_method(calls.why_waiting)
    overview = async_method(calls.overview)
