"""SchedulerService: tasks by the clock."""

from __future__ import annotations

import itertools
from datetime import timedelta
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.cron import cron_of
from pgqueue.errors import InvalidInput
from pgqueue.models import ScheduledTask, ScheduledTaskRequest, SchedulerStats, ScheduleTick, check_number, check_time
from pgqueue.scheduler import Scheduler, plan
from pgqueue.services.operations import async_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pgqueue.database import Database
    from pgqueue.services.operations import QueueOperations

__all__ = ["SchedulerService", "changes_of", "next_runs", "preview", "ticks_in"]

MOST_PREVIEW = 1000
MOST_BACKFILL = 10_000
MOMENT = timedelta(microseconds=1)


class SchedulerService:
    """Makes and changes schedules, and fires them with `start`; every worker fires them too.

    `conn=` joins the caller's transaction.
    """

    def __init__(self, db: Database, queue_service: QueueOperations | None = None) -> None:
        """Opens no connection. `queue_service` is where the tasks go, for symmetry with the guide; it is not needed."""
        self.db = db
        self.queue_service = queue_service
        self._scheduler = Scheduler(db)

    async def start(self) -> None:
        """Fire what is due, until cancelled or `stop`. A database that is away is waited for."""
        try:
            async with self.db.for_as_long():
                await self._scheduler.run()
        finally:
            self._scheduler = Scheduler(self.db)

    def stop(self) -> None:
        """End `start`, also where it has not begun yet."""
        self._scheduler.stop()

    async def create_scheduled_task(self, request: ScheduledTaskRequest, *, conn: object = None) -> ScheduledTask:
        """Make a schedule; the answer says when it runs next.

        Raises InvalidInput for an expression, zone or value that makes no sense, QueueNotFound, and DuplicateTask
        where the name is taken (unless on_conflict is return or replace).
        """
        await self.db.run(calls.create_schedule(request), conn=conn)
        return await self._planned(str(request.name), conn)

    async def update_scheduled_task(
        self,
        name: str,
        request: ScheduledTaskRequest | None = None,
        *,
        conn: object = None,
        **changes: object,
    ) -> ScheduledTask:
        """Change what is set in the request, or given by keyword: `update_scheduled_task("x", cron_expr="@daily")`.

        Raises ScheduleNotFound, InvalidInput, QueueNotFound.
        """
        wanted = changes_of(request, changes)
        before = await self.get_scheduled_task(name, conn=conn)
        cron_of(wanted.cron_expr or before.cron_expr, wanted.time_zone or before.time_zone)
        await self.db.run(calls.update_schedule(name, wanted), conn=conn)
        return await self._planned(wanted.name or name, conn)

    async def pause_scheduled_task(self, name: str, reason: str | None = None, *, conn: object = None) -> None:
        """Fire nothing more until it is resumed. Raises ScheduleNotFound."""
        await self.db.run(calls.pause_schedule(name, reason), conn=conn)

    async def resume_scheduled_task(self, name: str, *, conn: object = None) -> ScheduledTask:
        """Go on with the next tick from now. Raises ScheduleNotFound."""
        await self.db.run(calls.resume_schedule(name), conn=conn)
        return await self._planned(name, conn)

    async def run_scheduled_task_now(self, name: str, *, conn: object = None) -> int:
        """Submit its task at once, whatever `overlap` says; return its id. Raises ScheduleNotFound, QueueFull."""
        return await self.db.run(calls.run_schedule_now(name), conn=conn)

    async def delete_scheduled_task(self, name: str, *, conn: object = None) -> None:
        """Delete it and its history; its tasks stay. Raises ScheduleNotFound."""
        await self.db.run(calls.delete_schedule(name), conn=conn)

    async def get_scheduled_task(self, name: str, *, conn: object = None) -> ScheduledTask:
        """Read one. Raises ScheduleNotFound."""
        return await self.db.run(calls.get_schedule(name), conn=conn)

    async def backfill_scheduled_task(
        self, name: str, start: datetime, end: datetime, *, dry_run: bool = False
    ) -> list[ScheduleTick]:
        """Fire the ticks from `start` up to `end` that were never fired; `dry_run` only says which (state due).

        Where the schedule's overlap is not allow, they run one after the other. Raises ScheduleNotFound, and
        InvalidInput for a range that is not over, or has more than 10,000 ticks.
        """
        ticks, following = ticks_in(await self.get_scheduled_task(name), start, end)
        return await self.db.run(calls.backfill_schedule(name, ticks, following, dry_run=dry_run))

    async def get_next_runs(self, name: str, count: int = 5) -> list[datetime]:
        """Return the next ticks of a schedule, from now, within its bounds. Raises ScheduleNotFound."""
        return next_runs(await self.get_scheduled_task(name), count, await self.db.run(calls.clock()))

    async def preview(self, cron_expr: str, time_zone: str = "UTC", count: int = 5) -> tuple[str, list[datetime]]:
        """Say in plain words what an expression means, and when it would run next. Raises InvalidInput."""
        words = cron_of(cron_expr, time_zone).describe()
        return words, preview(cron_expr, time_zone, count, await self.db.run(calls.clock()))

    async def get_scheduler_stats(self, queue_names: Sequence[str] | None = None) -> SchedulerStats:
        """Count schedules by state, in all queues or some, and say how late the oldest due tick is."""
        return await self.db.run(calls.scheduler_stats(queue_names))

    list_scheduled_tasks = async_method(calls.list_schedules)
    get_scheduled_task_history = async_method(calls.get_schedule_ticks)

    async def _planned(self, name: str, conn: object) -> ScheduledTask:
        """Plan it here and now, as a scheduler would within a second."""
        plans = [plan(due) for due in await self.db.run(calls.due_schedules(1, name), conn=conn)]
        if plans:
            await self.db.run(calls.fire_schedules(plans), conn=conn)
        return await self.get_scheduled_task(name, conn=conn)


def changes_of(request: ScheduledTaskRequest | None, changes: dict[str, object]) -> ScheduledTaskRequest:
    """Return the fields of a request and those given by keyword as one. Raises InvalidInput for unknown ones."""
    unknown = changes.keys() - set(ScheduledTaskRequest.__struct_fields__)
    if unknown:
        msg = f"a schedule has no field {', '.join(sorted(unknown))}"
        raise InvalidInput(msg, hint="its fields are " + ", ".join(ScheduledTaskRequest.__struct_fields__))
    given = {} if request is None else {name: getattr(request, name) for name in request.__struct_fields__}
    return ScheduledTaskRequest(**{**given, **changes})


def preview(cron_expr: str, time_zone: str, count: int, now: datetime) -> list[datetime]:
    """Return the next `count` ticks after `now`. Raises InvalidInput."""
    check_number(count, "count", 1, MOST_PREVIEW)
    return list(itertools.islice(cron_of(cron_expr, time_zone).after(now), count))


def next_runs(schedule: ScheduledTask, count: int, now: datetime) -> list[datetime]:
    """Return its next `count` ticks after `now`, or as many as its bounds leave. Raises InvalidInput."""
    check_number(count, "count", 1, MOST_PREVIEW)
    if schedule.max_runs is not None:
        count = min(count, max(schedule.max_runs - schedule.run_count, 0))
    begin = now if schedule.starts_at is None else max(now, schedule.starts_at - MOMENT)
    ticks = itertools.islice(cron_of(schedule.cron_expr, schedule.time_zone).after(begin), count)
    return [tick for tick in ticks if schedule.ends_at is None or tick <= schedule.ends_at]


def ticks_in(schedule: ScheduledTask, start: datetime, end: datetime) -> tuple[list[datetime], datetime | None]:
    """Return the ticks from `start` to `end`, and the one that follows. Raises InvalidInput for more than 10,000."""
    check_time(start, "start")
    check_time(end, "end")
    cron = cron_of(schedule.cron_expr, schedule.time_zone)
    ticks = list(itertools.islice(cron.between(start - MOMENT, end), MOST_BACKFILL + 1))
    if len(ticks) > MOST_BACKFILL:
        msg = f"{schedule.cron_expr!r} names more than {MOST_BACKFILL} moments from {start} to {end}"
        raise InvalidInput(msg, detail={"start": start, "end": end}, hint="fill in a shorter range at a time")
    return ticks, cron.next(max(start, end))
