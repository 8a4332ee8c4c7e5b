"""Progress, results, statistics, retries and history, blocking. Each promises what the async one of its name does."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import structlog

from pgqueue import calls, retention
from pgqueue.calls.keeping import checked_age
from pgqueue.errors import PgqueueError
from pgqueue.services import shared
from pgqueue.sync.bulk import BulkOperations
from pgqueue.sync.ear import Ear, follow_progress, listen
from pgqueue.sync.operations import QueueOperations, Task, sync_method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import timedelta

    from pgqueue.database import SyncDatabase
    from pgqueue.models import TaskFilter, TaskProgress
    from pgqueue.services import TaskPage

    ProgressCallback = Callable[[TaskProgress], object]

__all__ = ["RetryManager", "StateService", "Subscription"]

log = structlog.get_logger()


class Subscription:
    """A running subscription to one task's progress: a thread that ends with the task."""

    def __init__(self, db: SyncDatabase, first: TaskProgress, callback: ProgressCallback) -> None:
        """Made by StateService.subscribe_progress, which has just read `first`."""
        self.task_id = first.task_id
        self._first = first
        self._db = db
        self._callback = callback
        self._ear = Ear(db, first.task_id)
        self._is_cancelled = False
        self._error: PgqueueError | None = None
        self._thread = threading.Thread(target=self._run, name=f"pgqueue-progress-{first.task_id}", daemon=True)

    @property
    def is_running(self) -> bool:
        """Whether more may be delivered."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def done(self) -> None:
        """Wait until the final state was delivered. Raises what reading the task raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def cancel(self) -> None:
        """Deliver no more; returns when a callback that runs has ended."""
        self._is_cancelled = True
        self._ear.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._deliver(self._first)
            if not self._first.is_final:
                with self._ear as ear:
                    self._follow(ear)
        except PgqueueError as error:
            if not self._is_cancelled:
                self._error = error
                log.warning("a progress subscription ended early", task_id=self.task_id, error=str(error))

    def _follow(self, ear: Ear) -> None:
        last = self._first
        for progress in listen(self._db, ear, self.task_id, None):
            if self._is_cancelled:
                return
            if progress != last:
                last = progress
                self._deliver(progress)

    def _deliver(self, progress: TaskProgress) -> None:
        try:
            self._callback(progress)
        except Exception:
            log.exception("a progress callback failed", task_id=self.task_id)


class StateService:
    """Progress, results, lists and statistics."""

    def __init__(self, db: SyncDatabase) -> None:
        """Opens nothing."""
        self.db = db
        self._subscriptions: list[Subscription] = []

    def update_progress(self, task_id: int, progress: int, message: str | None = None, *, conn: object = None) -> None:
        """Report percent (0 to 100) and a message of a running task.

        Raises TaskNotFound, InvalidTransition, InvalidInput.
        """
        self.db.run(calls.update_progress(task_id, progress, message), conn=conn)

    def update_progress_with_steps(  # noqa: PLR0913 - as in the guide
        self,
        task_id: int,
        step: str,
        completed_steps: int,
        total_steps: int,
        message: str | None = None,
        *,
        conn: object = None,
    ) -> None:
        """Report the current step and how many of all are behind it; the percentage follows from them."""
        percent = shared.percent_of(completed_steps, total_steps)
        call = calls.update_progress(
            task_id, percent, message, step=step, completed_steps=completed_steps, total_steps=total_steps
        )
        self.db.run(call, conn=conn)

    def subscribe_progress(self, task_id: int, callback: ProgressCallback) -> Subscription:
        """Call back, in a thread of its own, with a task's progress now and at each change, the last its final state.

        Changes that follow each other closely are told as one. Raises TaskNotFound.
        """
        first = self.db.run(calls.get_progress(task_id))
        subscription = Subscription(self.db, first, callback)
        self._subscriptions = [other for other in self._subscriptions if other.is_running]
        self._subscriptions.append(subscription)
        subscription.start()
        return subscription

    def unsubscribe_progress(self, which: int | Subscription) -> None:
        """End one subscription, or all of this service to a task."""
        for subscription in list(self._subscriptions):
            if subscription is which or subscription.task_id == which:
                self._subscriptions.remove(subscription)
                subscription.cancel()

    def follow_progress(self, task_id: int) -> Iterator[TaskProgress]:
        """Yield a task's progress whenever it changed; the last one is its final state. Raises TaskNotFound."""
        return follow_progress(self.db, task_id)

    def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage[Task]:
        """One page, newest first, and the total. Raises InvalidInput."""
        return QueueOperations(self.db).list_tasks(task_filter)

    def get_task_result(self, task_id: int, type: Any = Any) -> Any:  # noqa: A002, ANN401 - any JSON, or any connection
        """Return what a task's handler returned or stored so far, converted to `type`.

        Raises TaskNotFound, PayloadError.
        """
        task = self.db.run(calls.get_task(task_id))
        return shared.convert_result(task_id, task.result_value, type)

    def set_task_result(self, task_id: int, value: object, *, conn: object = None) -> None:
        """Store a result; a value that the handler returns later replaces it. Raises TaskNotFound, InvalidInput."""
        self.db.run(calls.set_task_result(task_id, value), conn=conn)

    get_progress = sync_method(calls.get_progress)
    get_task_statistics = sync_method(calls.task_statistics)
    get_time_series = sync_method(calls.task_series)


class RetryManager(BulkOperations):
    """Tasks that failed, one by one or by a filter, and history that is no longer wanted."""

    def __init__(self, db: SyncDatabase) -> None:
        """Opens nothing."""
        self.db = db

    def get_retryable_tasks(self, limit: int = 100, queue_name: str | None = None) -> list[Task]:
        """Failed and cancelled tasks that can be retried now, newest first."""
        operations = QueueOperations(self.db)
        records = self.db.run(calls.get_retryable_tasks(limit, queue_name))
        return [shared.bind(Task, record, operations) for record in records]

    def retry_task(self, task_id: int, *, conn: object = None) -> int:
        """Start a failed or cancelled task again: same id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
        return self.db.run(calls.retry_task(task_id), conn=conn)

    def cleanup_old_tasks(self, age: timedelta) -> int:
        """Remove tasks that finished longer ago, with their executions and logs; return how many.

        Raises InvalidInput.
        """
        return retention.cleanup_sync(self.db, checked_age(age))

    def apply_retention(self) -> int:
        """Remove tasks that were kept for as long as their queue or the settings say; return how many.

        Workers do this by themselves every ten minutes.
        """
        return retention.cleanup_sync(self.db)
