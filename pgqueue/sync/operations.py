"""Tasks and queues, blocking. Each method promises what the async one of its name does."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from pgqueue import calls, telemetry
from pgqueue.errors import PgqueueError
from pgqueue.models import QueueConfig, TaskFilter, TaskProgress, TaskRecord, TaskRequest
from pgqueue.schema import check
from pgqueue.services import shared
from pgqueue.sync.ear import changes, follow_progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import timedelta

    from pgqueue.calls import Call
    from pgqueue.database import SyncDatabase
    from pgqueue.models import QueueInfo
    from pgqueue.schema import Status
    from pgqueue.services import TaskPage

__all__ = ["QueueOperations", "Task", "sync_method"]

P = ParamSpec("P")
T = TypeVar("T")


class _HasDatabase(Protocol):
    @property
    def db(self) -> SyncDatabase: ...


def sync_method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a method of a call: `service.get_logs(7)` runs `calls.get_logs(7)` on the service's database."""

    def method(self: _HasDatabase, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.db.run(make(*args, **kwargs))

    functools.update_wrapper(method, make)
    return method


class Task(TaskRecord, kw_only=True, dict=True):
    """A task as it was when it was read, with the operations on it."""

    def refresh(self) -> Task:
        """Read it again. Raises TaskNotFound."""
        return self._service().get_task(self.task_id)

    def wait(self, timeout: float | None = None) -> Task:
        """Wait for its end, at most `timeout` seconds. Raises TimeoutError."""
        return self._service().wait_for(self.task_id, timeout=timeout)

    @overload
    def result(self, type: type[T], timeout: float | None = None) -> T: ...

    @overload
    def result(self, type: Any = Any, timeout: float | None = None) -> Any: ...  # noqa: ANN401 - any JSON, or any connection

    def result(self, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002 - as in the contract
        """Wait for its end and return its result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TimeoutError, PayloadError where the result does not fit the type.
        """
        return shared.result_of(self.wait(timeout), type)

    def progress(self) -> Iterator[TaskProgress]:
        """Follow its progress; the last one tells its final status."""
        return follow_progress(self._service().db, self.task_id)

    def cancel(self, reason: str | None = None) -> str:
        """Cancel it; return the status it has then. Raises InvalidTransition."""
        return self._service().cancel_task(self.task_id, reason)

    def retry(self) -> int:
        """Start it again after it failed or was cancelled. Raises InvalidTransition, DuplicateTask."""
        return self._service().retry_task(self.task_id)

    def _service(self) -> QueueOperations:
        service: QueueOperations = shared.service_of(self)
        return service


class QueueOperations:
    """Everything about tasks and queues except running them."""

    def __init__(self, db: SyncDatabase, config: QueueConfig | None = None) -> None:
        """Opens nothing."""
        self.db = db
        self.config = config or QueueConfig()

    def submit_task(self, request: TaskRequest, *, conn: object = None) -> Task:
        """Submit a task, in the caller's transaction where `conn` is given.

        Where its unique key is taken, the task that has it is returned (`created` False; in a transaction
        of the caller's it is not read back: `refresh` it), or DuplicateTask
        is raised, or its payload replaced, as `request.on_conflict` says.
        Raises InvalidInput, QueueNotFound, QueueFull.
        """
        [request] = given = shared.with_parents([request])
        with telemetry.sending(given) as send:
            answer = self.db.run(calls.submit_task(send.requests[0]), conn=conn)
            send.sent(answer.task_id)
        if not answer.created and conn is None:
            with contextlib.suppress(PgqueueError):  # it is submitted, whether or not it may be read
                return self.get_task(answer.task_id)
        return shared.task_of(Task, request, answer, self)

    def submit_tasks(self, requests: Iterable[TaskRequest], *, conn: object = None) -> list[Task]:
        """Submit many tasks in one transaction; returns them in order. Raises as submit_task, and submits none then."""
        given = shared.with_parents(requests)
        with telemetry.sending(given, is_batch=True) as send:
            chunks = shared.chunks_of(send.requests)
            if conn is not None:
                # What cannot be encoded must be found before any of them is in the caller's transaction.
                return self._submit_chunks(given, list(chunks), conn)
            first = list(itertools.islice(chunks, 1))
            if sum(len(chunk.rows) for chunk in first) == len(given):
                # One statement is a transaction of its own, in one round trip instead of three.
                return self._submit_chunks(given, first, None)
            with self.db.connection() as own, own.transaction():
                return self._submit_chunks(given, itertools.chain(first, chunks), own)

    def _submit_chunks(self, given: list[TaskRequest], chunks: Iterable[shared.Chunk], conn: object) -> list[Task]:
        tasks: dict[int, Task] = {}
        for chunk in chunks:
            answers = self.db.run(calls.submit_many(chunk.rows), conn=conn)
            for position, answer in zip(chunk.positions, answers, strict=True):
                tasks[position] = shared.bulk_task_of(Task, given[position], answer, self)
        return [tasks[position] for position in range(len(given))]

    def get_task(self, task_id: int, *, conn: object = None) -> Task:
        """Read a task, live or finished. Raises TaskNotFound."""
        return shared.bind(Task, self.db.run(calls.get_task(task_id), conn=conn), self)

    def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage[Task]:
        """One page, newest first. Raises InvalidInput for a page, size or status that does not exist."""
        wanted = shared.checked(task_filter)
        records = self.db.run(calls.list_tasks(wanted))
        counted = self.db.run(calls.count_tasks(wanted))
        found_too_few = len(records) <= wanted.page_size
        stopped_before = self.db.run(calls.list_cursor(wanted)) if found_too_few else None
        tasks = [shared.bind(Task, record, self) for record in records]
        return shared.page_of(tasks, counted, wanted, stopped_before)

    def wait_for(self, task_id: int, timeout: float | None = None) -> Task:
        """Wait for a task's end, at most `timeout` seconds.

        Raises TimeoutError, which tells its state, and TaskNotFound.
        """
        shared.checked_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        progress: TaskProgress | None = None
        for progress in changes(self.db, task_id, deadline=deadline):  # noqa: B007 - the last one counts
            pass
        if progress is None or not progress.is_final:
            raise shared.timed_out(task_id, timeout, progress.status if progress is not None else "not read yet")
        return self.get_task(task_id)

    def cancel_task(self, task_id: int, reason: str | None = None, *, conn: object = None) -> str:
        """Cancel a waiting task at once, ask a running one to stop; return the status then.

        Raises TaskNotFound, InvalidTransition.
        """
        return self.db.run(calls.cancel_task(task_id, reason), conn=conn)

    def retry_task(self, task_id: int, *, conn: object = None) -> int:
        """Start a failed or cancelled task again: same id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
        return self.db.run(calls.retry_task(task_id), conn=conn)

    def delete_task(self, task_id: int, *, conn: object = None) -> None:
        """Delete a task that has ended, with its executions and logs. Raises TaskNotFound, InvalidTransition."""
        self.db.run(calls.delete_task(task_id), conn=conn)

    def create_queue(  # noqa: PLR0913 - as in SQL
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
        return self.db.run(call, conn=conn)

    def pause_queue(self, name: str, reason: str | None = None, *, conn: object = None) -> None:
        """Let nothing more of a queue start; what runs goes on. Raises QueueNotFound."""
        self.db.run(calls.pause_queue(name, reason), conn=conn)

    def resume_queue(self, name: str, *, conn: object = None) -> None:
        """Undo pause_queue. Raises QueueNotFound."""
        self.db.run(calls.resume_queue(name), conn=conn)

    def delete_queue(self, name: str, *, conn: object = None) -> None:
        """Remove a queue that has no live tasks. Raises QueueNotFound, InvalidTransition."""
        self.db.run(calls.delete_queue(name), conn=conn)

    def list_queues(self, *, conn: object = None) -> list[QueueInfo]:
        """The queues, by name."""
        return self.db.run(calls.list_queues(), conn=conn)

    def check_schema(self) -> Status:
        """Return how the database's schema compares with this release. Raises SchemaMismatch where it does not fit."""
        with self.db.connection() as conn:
            return check(conn)

    clock = sync_method(calls.clock)
    get_executions = sync_method(calls.get_executions)
    get_logs = sync_method(calls.get_logs)
    get_queue_stats = sync_method(calls.queue_stats)
    list_workers = sync_method(calls.list_workers)
    stop_worker = sync_method(calls.request_stop)
    pause_worker = sync_method(calls.pause_worker)
    resume_worker = sync_method(calls.resume_worker)
    why_waiting = sync_method(calls.why_waiting)
    overview = sync_method(calls.overview)
