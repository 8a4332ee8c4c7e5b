"""SchedulerService, blocking. Each method promises what the async one of its name does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.cron import cron_of
from pgqueue.database import Database
from pgqueue.scheduler import Scheduler, plan
from pgqueue.services.scheduling import changes_of, next_runs, preview, ticks_in
from pgqueue.sync.operations import sync_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pgqueue.database import SyncDatabase
    from pgqueue.models import ScheduledTask, ScheduledTaskRequest, SchedulerStats, ScheduleTick
    from pgqueue.sync.operations import QueueOperations

__all__ = ["SchedulerService"]


class SchedulerService:
    """Makes and changes schedules, and fires them with `start`; every worker fires them too."""

    def __init__(self, db: SyncDatabase, queue_service: QueueOperations | None = None) -> None:
        """Opens no connection."""
        self.db = db
        self.queue_service = queue_service
        self._running: tuple[asyncio.AbstractEventLoop, Scheduler] | None = None
        self._is_stopping = False

    def start(self) -> None:
        """Fire what is due, until interrupted (Ctrl-C), or until another thread calls `stop`."""
        asyncio.run(self._run())

    async def _run(self) -> None:
        async with Database(self.db.given_dsn, settings=self.db.settings) as database:
            scheduler = Scheduler(database)
            self._running = asyncio.get_running_loop(), scheduler
            if self._is_stopping:
                scheduler.stop()
            try:
                await scheduler.run()
            finally:
                self._running, self._is_stopping = None, False

    def stop(self) -> None:
        """End `start`, also where it has not begun yet."""
        self._is_stopping = True
        if (running := self._running) is not None:
            loop, scheduler = running
            loop.call_soon_threadsafe(scheduler.stop)

    def create_scheduled_task(self, request: ScheduledTaskRequest, *, conn: object = None) -> ScheduledTask:
        """Make a schedule. Raises InvalidInput, QueueNotFound, DuplicateTask where the name is taken."""
        self.db.run(calls.create_schedule(request), conn=conn)
        return self._planned(str(request.name), conn)

    def update_scheduled_task(
        self,
        name: str,
        request: ScheduledTaskRequest | None = None,
        *,
        conn: object = None,
        **changes: object,
    ) -> ScheduledTask:
        """Change what is set, or given by keyword. Raises ScheduleNotFound, InvalidInput, QueueNotFound."""
        wanted = changes_of(request, changes)
        before = self.get_scheduled_task(name, conn=conn)
        cron_of(wanted.cron_expr or before.cron_expr, wanted.time_zone or before.time_zone)
        self.db.run(calls.update_schedule(name, wanted), conn=conn)
        return self._planned(wanted.name or name, conn)

    def pause_scheduled_task(self, name: str, reason: str | None = None, *, conn: object = None) -> None:
        """Fire nothing more until it is resumed. Raises ScheduleNotFound."""
        self.db.run(calls.pause_schedule(name, reason), conn=conn)

    def resume_scheduled_task(self, name: str, *, conn: object = None) -> ScheduledTask:
        """Go on with the next tick from now. Raises ScheduleNotFound."""
        self.db.run(calls.resume_schedule(name), conn=conn)
        return self._planned(name, conn)

    def run_scheduled_task_now(self, name: str, *, conn: object = None) -> int:
        """Submit its task at once; return the task's id. Raises ScheduleNotFound, QueueFull."""
        return self.db.run(calls.run_schedule_now(name), conn=conn)

    def delete_scheduled_task(self, name: str, *, conn: object = None) -> None:
        """Delete it and its history; its tasks stay. Raises ScheduleNotFound."""
        self.db.run(calls.delete_schedule(name), conn=conn)

    def get_scheduled_task(self, name: str, *, conn: object = None) -> ScheduledTask:
        """Read one. Raises ScheduleNotFound."""
        return self.db.run(calls.get_schedule(name), conn=conn)

    def backfill_scheduled_task(
        self, name: str, start: datetime, end: datetime, *, dry_run: bool = False
    ) -> list[ScheduleTick]:
        """Fire the ticks of a past range that were never fired. Raises ScheduleNotFound, InvalidInput."""
        ticks, following = ticks_in(self.get_scheduled_task(name), start, end)
        return self.db.run(calls.backfill_schedule(name, ticks, following, dry_run=dry_run))

    def get_next_runs(self, name: str, count: int = 5) -> list[datetime]:
        """Return the next ticks of a schedule, from now, within its bounds. Raises ScheduleNotFound."""
        return next_runs(self.get_scheduled_task(name), count, self.db.run(calls.clock()))

    def preview(self, cron_expr: str, time_zone: str = "UTC", count: int = 5) -> tuple[str, list[datetime]]:
        """Say in plain words what an expression means, and when it would run next. Raises InvalidInput."""
        words = cron_of(cron_expr, time_zone).describe()
        return words, preview(cron_expr, time_zone, count, self.db.run(calls.clock()))

    def get_scheduler_stats(self, queue_names: Sequence[str] | None = None) -> SchedulerStats:
        """Count schedules by state, in all queues or some, and say how late the oldest due tick is."""
        return self.db.run(calls.scheduler_stats(queue_names))

    list_scheduled_tasks = sync_method(calls.list_schedules)
    get_scheduled_task_history = sync_method(calls.get_schedule_ticks)

    def _planned(self, name: str, conn: object) -> ScheduledTask:
        plans = [plan(due) for due in self.db.run(calls.due_schedules(1, name), conn=conn)]
        if plans:
            self.db.run(calls.fire_schedules(plans), conn=conn)
        return self.get_scheduled_task(name, conn=conn)
