"""A report each hour, another each morning in Berlin, made once and changed with the program.

A deployment starts this program again and again: `on_conflict="replace"` gives the schedules the settings
that stand here, and leaves alone whether somebody paused them. The report takes its period from the tick, so
that one that runs late, or is filled in afterwards, is about the right hour.

    pgqueue up                      # once: database and schema; or set PGQUEUE_DSN and `pgqueue migrate`
    python examples/schedules.py    # makes the schedules, fills in the last three hours, shows them
    pgqueue worker schedules:queue_service      # in examples/: fires them from then on
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec

from pgqueue import Database, QueueService, ScheduledTaskRequest, SchedulerService, TaskContext, log

HOUR = timedelta(hours=1)
SCHEDULES = (
    ScheduledTaskRequest(
        name="hourly_report",
        task_type="report_generation",
        cron_expr="0 * * * *",
        queue_name="reports",
        payload={"report_type": "hourly"},
        missed="all",
        on_conflict="replace",
    ),
    ScheduledTaskRequest(
        name="daily_summary",
        task_type="report_generation",
        cron_expr="0 9 * * MON-FRI",
        time_zone="Europe/Berlin",
        queue_name="reports",
        payload={"report_type": "daily"},
        on_conflict="replace",
    ),
)

queue_service = QueueService(Database())
queue_service.register_queue("reports", concurrency=1)


class Report(msgspec.Struct):
    """Which report."""

    report_type: str


@queue_service.handler("report_generation", queue_name="reports")
async def report_generation(ctx: TaskContext, report: Report) -> str:
    """Stands for a report on the hour before the tick."""
    end = datetime.fromisoformat(ctx.metadata["tick"])
    return f"{report.report_type}: {end - HOUR:%H:%M} to {end:%H:%M} UTC"


async def main() -> None:
    """Make the schedules, fill in the last three hours, and run those reports here."""
    scheduler = SchedulerService(queue_service.db, queue_service)
    async with queue_service.db:
        await queue_service.create_queue("reports")
        for request in SCHEDULES:
            made = await scheduler.create_scheduled_task(request)
            words, _ = await scheduler.preview(made.cron_expr, made.time_zone)
            print(f"{made.name}: {words}, next {made.next_run_at}")
        now = datetime.now(UTC)
        ticks = await scheduler.backfill_scheduled_task("hourly_report", now - 3 * HOUR, now)
        await queue_service.drain()
        for tick in ticks:
            if tick.task_id is not None:
                print((await queue_service.wait_for(tick.task_id)).result_value)


if __name__ == "__main__":
    log.configure("warning")
    asyncio.run(main())
