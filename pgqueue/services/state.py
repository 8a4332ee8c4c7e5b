"""Progress, results, statistics; tasks that failed, and history that is no longer wanted."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import structlog

from pgqueue import calls, retention
from pgqueue.calls.keeping import checked_age
from pgqueue.listen import cancel_all, hub_of
from pgqueue.services import shared
from pgqueue.services.bulk import BulkOperations
from pgqueue.services.operations import QueueOperations, Task, async_method, follow_progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from datetime import timedelta

    from pgqueue.database import Database
    from pgqueue.listen import Hub
    from pgqueue.models import TaskFilter, TaskProgress
    from pgqueue.services.shared import TaskPage

    ProgressCallback = Callable[[TaskProgress], object]

__all__ = ["RetryManager", "StateService", "Subscription"]

log = structlog.get_logger()


class Subscription:
    """A running subscription to one task's progress."""

    def __init__(self, task_id: int, task: asyncio.Task[None]) -> None:
        """Made by StateService.subscribe_progress."""
        self.task_id = task_id
        self._task = task

    async def done(self) -> None:
        """Wait until the final state was delivered. Raises what reading the task raised."""
        await asyncio.shield(self._task)

    async def cancel(self) -> None:
        """Deliver no more; returns when a callback that runs has ended."""
        await cancel_all([self._task])


class StateService:
    """Progress, results, lists and statistics."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db
        self._subscriptions: dict[asyncio.Task[None], Subscription] = {}

    async def update_progress(
        self, task_id: int, progress: int, message: str | None = None, *, conn: object = None
    ) -> None:
        """Report percent (0 to 100) and a message of a running task.

        Raises TaskNotFound, InvalidTransition, InvalidInput.
        """
        await self.db.run(calls.update_progress(task_id, progress, message), conn=conn)

    async def update_progress_with_steps(  # noqa: PLR0913 - as in the guide
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
        await self.db.run(call, conn=conn)

    async def subscribe_progress(self, task_id: int, callback: ProgressCallback) -> Subscription:
        """Call back (an async function too) with a task's progress now and at each change; the last is its final state.

        Changes that follow each other closely are told as one. Raises TaskNotFound.
        """
        first = await self.db.run(calls.get_progress(task_id))
        hub = hub_of(self.db)
        await hub.start()
        task = asyncio.create_task(self._deliver(first, callback, hub))
        self._subscriptions[task] = Subscription(task_id, task)
        task.add_done_callback(self._ended)
        return self._subscriptions[task]

    async def unsubscribe_progress(self, which: int | Subscription) -> None:
        """End one subscription, or all of this service to a task."""
        for subscription in list(self._subscriptions.values()):
            if subscription is which or subscription.task_id == which:
                await subscription.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        subscription = self._subscriptions.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("a progress subscription ended early", task_id=subscription.task_id, error=str(error))

    async def _deliver(self, first: TaskProgress, callback: ProgressCallback, hub: Hub) -> None:
        async for progress in follow_progress(self.db, first.task_id, first, hub):
            try:
                answer = callback(progress)
                if inspect.isawaitable(answer):
                    await answer
            except Exception:
                log.exception("a progress callback failed", task_id=first.task_id)

    def follow_progress(self, task_id: int) -> AsyncIterator[TaskProgress]:
        """Yield a task's progress whenever it changed; the last one is its final state. Raises TaskNotFound."""
        return follow_progress(self.db, task_id)

    async def list_tasks(self, task_filter: TaskFilter | None = None) -> TaskPage[Task]:
        """One page, newest first, and the total. Raises InvalidInput."""
        return await QueueOperations(self.db).list_tasks(task_filter)

    async def get_task_result(self, task_id: int, type: Any = Any) -> Any:  # noqa: A002, ANN401 - any JSON, or any connection
        """Return what a task's handler returned or stored so far, converted to `type`.

        Raises TaskNotFound, PayloadError.
        """
        task = await self.db.run(calls.get_task(task_id))
        return shared.convert_result(task_id, task.result_value, type)

    async def set_task_result(self, task_id: int, value: object, *, conn: object = None) -> None:
        """Store a result; a value that the handler returns later replaces it. Raises TaskNotFound, InvalidInput."""
        await self.db.run(calls.set_task_result(task_id, value), conn=conn)

    get_progress = async_method(calls.get_progress)
    get_task_statistics = async_method(calls.task_statistics)
    get_time_series = async_method(calls.task_series)


class RetryManager(BulkOperations):
    """Tasks that failed, one by one or by a filter, and history that is no longer wanted."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db

    async def get_retryable_tasks(self, limit: int = 100, queue_name: str | None = None) -> list[Task]:
        """Failed and cancelled tasks that can be retried now, newest first."""
        operations = QueueOperations(self.db)
        records = await self.db.run(calls.get_retryable_tasks(limit, queue_name))
        return [shared.bind(Task, record, operations) for record in records]

    async def retry_task(self, task_id: int, *, conn: object = None) -> int:
        """Start a failed or cancelled task again: same id. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
        return await self.db.run(calls.retry_task(task_id), conn=conn)

    async def cleanup_old_tasks(self, age: timedelta) -> int:
        """Remove tasks that finished longer ago, with their executions and logs; return how many.

        Raises InvalidInput.
        """
        return await retention.cleanup(self.db, checked_age(age))

    async def apply_retention(self) -> int:
        """Remove tasks that were kept for as long as their queue or the settings say; return how many.

        Workers do this by themselves every ten minutes.
        """
        return await retention.cleanup(self.db)
