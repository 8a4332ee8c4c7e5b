"""SchedulerService, async and blocking: the guide's operations, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import (
    Database,
    DuplicateTask,
    InvalidInput,
    QueueNotFound,
    QueueService,
    ScheduledTaskRequest,
    ScheduleNotFound,
    SchedulerService,
    sync,
)
from pgqueue.listen import hub_of
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

HOURLY = ScheduledTaskRequest(
    name="hourly_report",
    task_type="report_generation",
    cron_expr="0 * * * *",
    queue_name="processing",
    payload={"report_type": "hourly"},
)


@pytest.fixture
async def scheduler(db: Database, service: QueueService) -> SchedulerService:
    await service.create_queue("processing")
    return SchedulerService(db, service)


@pytest.fixture
async def firing(scheduler: SchedulerService) -> AsyncIterator[SchedulerService]:
    """A scheduler that runs."""
    running = asyncio.create_task(scheduler.start())
    yield scheduler
    scheduler.stop()
    await running


async def test_the_guide_in_its_order(scheduler: SchedulerService, service: QueueService) -> None:
    made = await scheduler.create_scheduled_task(HOURLY)
    assert made.is_active
    assert made.next_run_at is not None
    assert made.next_run_at.minute == 0
    await scheduler.pause_scheduled_task("hourly_report", "holiday")
    paused = await scheduler.get_scheduled_task("hourly_report")
    assert (paused.is_active, paused.pause_reason, paused.next_run_at) == (False, "holiday", None)
    assert (await scheduler.resume_scheduled_task("hourly_report")).next_run_at == made.next_run_at
    task = await service.get_task(await scheduler.run_scheduled_task_now("hourly_report"))
    assert (task.task_type, task.queue_name, task.payload) == (
        "report_generation",
        "processing",
        {"report_type": "hourly"},
    )
    changed = await scheduler.update_scheduled_task("hourly_report", ScheduledTaskRequest(cron_expr="*/30 * * * *"))
    assert changed.next_run_at is not None
    assert (changed.cron_expr, changed.payload, changed.next_run_at.minute % 30) == (
        "*/30 * * * *",
        {"report_type": "hourly"},
        0,
    )
    assert [each.name for each in await scheduler.list_scheduled_tasks()] == ["hourly_report"]
    stats = await scheduler.get_scheduler_stats()
    assert (stats.active_jobs, stats.paused_jobs, stats.next_run_at, stats.lag) == (1, 0, changed.next_run_at, 0)
    await scheduler.delete_scheduled_task("hourly_report")
    with pytest.raises(ScheduleNotFound, match="no schedule 'hourly_report'"):
        await scheduler.get_scheduled_task("hourly_report")


def test_blocking_does_the_same(sync_db: sync.Database, blocking: sync.QueueService) -> None:
    blocking.create_queue("processing")
    scheduler = sync.SchedulerService(sync_db, blocking)
    made = scheduler.create_scheduled_task(HOURLY)
    assert made.next_run_at is not None
    scheduler.pause_scheduled_task("hourly_report")
    assert scheduler.get_scheduled_task("hourly_report").next_run_at is None
    assert scheduler.resume_scheduled_task("hourly_report").next_run_at == made.next_run_at
    task_id = scheduler.run_scheduled_task_now("hourly_report")
    assert blocking.get_task(task_id).task_type == "report_generation"
    assert (
        scheduler.update_scheduled_task("hourly_report", ScheduledTaskRequest(name="daily"), cron_expr="@daily").name
        == "daily"
    )
    assert [each.name for each in scheduler.list_scheduled_tasks()] == ["daily"]
    assert scheduler.get_scheduler_stats().active_jobs == 1
    assert len(scheduler.get_next_runs("daily", 3)) == 3
    assert scheduler.preview("@daily", "UTC", 1)[0] == "At 00:00 (UTC)"
    assert [tick.kind for tick in scheduler.get_scheduled_task_history("daily")] == ["manual"]
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert [tick.state for tick in scheduler.backfill_scheduled_task("daily", yesterday, datetime.now(UTC))] == [
        "fired"
    ]
    scheduler.delete_scheduled_task("daily")
    assert scheduler.list_scheduled_tasks() == []


async def test_a_row_of_psql_is_fired_by_a_running_scheduler(
    firing: SchedulerService, db: Database, aconn: psycopg.AsyncConnection
) -> None:
    await aconn.execute(
        "insert into pgqueue.schedules (name, task_type, cron_expr) values ('psql', 't', '* * * * * *')"
    )
    await until(lambda: has_run(firing, "psql", 2))


async def has_run(scheduler: SchedulerService, name: str, times: int) -> bool:
    return (await scheduler.get_scheduled_task(name)).run_count >= times


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_scheduler_that_is_stopped_leaves_nothing_running_that_it_began(dsn: str, *, is_open: bool) -> None:
    """What goes on in the event loop would have to be cancelled by whoever ends that, once, which can get lost."""
    db = Database(dsn)
    if is_open:
        await db.open()
    scheduler = SchedulerService(db)
    running = asyncio.create_task(scheduler.start())
    await until(lambda: hub_of(db).is_alive)
    scheduler.stop()
    async with asyncio.timeout(20):
        await running
    assert (hub_of(db).is_stopped, db.is_open) == (not is_open, is_open)
    await db.close()


async def test_a_worker_fires_too(db: Database) -> None:
    done = asyncio.Event()
    service = QueueService(db)

    @service.handler("tick")
    async def tick(_ctx: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401 - a context
        assert payload == {"from": "the clock"}
        done.set()

    await SchedulerService(db).create_scheduled_task(
        ScheduledTaskRequest(name="s", task_type="tick", cron_expr="* * * * * *", payload={"from": "the clock"})
    )
    running = asyncio.create_task(service.start())
    async with asyncio.timeout(20):
        await done.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_queued_ticks_run_when_the_task_before_them_has_ended(
    firing: SchedulerService, service: QueueService
) -> None:
    request = ScheduledTaskRequest(name="s", task_type="t", cron_expr="* * * * * *", overlap="queue")
    await firing.create_scheduled_task(request)

    async def waits() -> bool:
        return (await firing.get_scheduler_stats()).queued_ticks > 0

    await until(waits)
    first = (await firing.get_scheduled_task("s")).last_task_id
    assert first is not None
    await service.cancel_task(first)
    await until(lambda: has_run(firing, "s", 2))


async def test_changes_join_the_callers_transaction(scheduler: SchedulerService, db: Database) -> None:
    async with await db.connect() as conn, conn.transaction(force_rollback=True):
        made = await scheduler.create_scheduled_task(HOURLY, conn=conn)
        assert made.next_run_at is not None
    assert await scheduler.list_scheduled_tasks() == []


async def test_a_backfill_can_be_looked_at_first(scheduler: SchedulerService, service: QueueService) -> None:
    await scheduler.create_scheduled_task(HOURLY)
    end = datetime.now(UTC)
    planned = await scheduler.backfill_scheduled_task("hourly_report", end - timedelta(hours=3), end, dry_run=True)
    assert len(planned) == 3
    assert (await service.list_tasks())[1] == 0
    made = await scheduler.backfill_scheduled_task("hourly_report", end - timedelta(hours=3), end)
    assert [(tick.tick, tick.state) for tick in made] == [(tick.tick, "fired") for tick in planned]
    assert (await service.list_tasks())[1] == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("cron_expr", "nonsense"),
            ("cron_expr", "0 0 31 2 *"),
            ("cron_expr", 5),
            ("time_zone", "Mars/Phobos"),
            ("time_zone", None),
            ("name", ""),
            ("name", "x" * 201),
            ("name", "nul\x00"),
            ("name", "\ud800"),
            ("task_type", ""),
            ("payload", {"n": float("nan")}),
            ("payload", "x" * 2_000_000),
            ("priority", 40_000),
            ("max_retries", -1),
            ("timeout", -5),
            ("missed", "maybe"),
            ("overlap", "x"),
            ("jitter", -1),
            ("jitter", 1.5),
            ("catch_up_window", -1),
            ("starts_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - the point
            ("max_runs", 0),
            ("is_active", "yes"),
            ("on_conflict", "x"),
            ("metadata", [1]),
        ],
    )
    async def test_bad_values_are_named_and_nothing_is_made(
        self, scheduler: SchedulerService, field: str, value: object
    ) -> None:
        values: dict[str, Any] = {"name": "n", "task_type": "t", "cron_expr": "* * * * *", field: value}
        with pytest.raises(InvalidInput) as caught:
            await scheduler.create_scheduled_task(ScheduledTaskRequest(**values))
        assert field in f"{caught.value} {caught.value.detail}"
        assert caught.value.hint
        assert await scheduler.list_scheduled_tasks() == []

    @pytest.mark.parametrize("missing", ["name", "task_type", "cron_expr"])
    async def test_what_a_schedule_needs(self, scheduler: SchedulerService, missing: str) -> None:
        values = {"name": "n", "task_type": "t", "cron_expr": "* * * * *"}
        del values[missing]
        with pytest.raises(InvalidInput, match=f"{missing} is missing"):
            await scheduler.create_scheduled_task(ScheduledTaskRequest(**values))  # type: ignore[arg-type]

    async def test_a_bad_update_leaves_it_as_it_was(self, scheduler: SchedulerService) -> None:
        before = await scheduler.create_scheduled_task(HOURLY)
        for changes in ({"cron_expr": "x"}, {"time_zone": "x"}, {"payload": {"n": float("inf")}}, {"unknown": 1}):
            with pytest.raises(InvalidInput):
                await scheduler.update_scheduled_task("hourly_report", **changes)
        with pytest.raises(QueueNotFound):
            await scheduler.update_scheduled_task("hourly_report", queue_name="nowhere")
        assert await scheduler.get_scheduled_task("hourly_report") == before

    async def test_a_taken_name(self, scheduler: SchedulerService) -> None:
        first = await scheduler.create_scheduled_task(HOURLY)
        with pytest.raises(DuplicateTask, match="a schedule 'hourly_report' already"):
            await scheduler.create_scheduled_task(HOURLY)
        other = ScheduledTaskRequest(name="other", task_type="t", cron_expr="@daily")
        await scheduler.create_scheduled_task(other)
        with pytest.raises(DuplicateTask):
            await scheduler.update_scheduled_task("other", ScheduledTaskRequest(name="hourly_report"))
        assert await scheduler.get_scheduled_task("hourly_report") == first

    @pytest.mark.parametrize("name", ["a/b/c", "../..", "日報 📅", "a b", "%2F", "'; drop table x; --", "x" * 200])
    async def test_any_text_is_a_name(self, scheduler: SchedulerService, name: str) -> None:
        await scheduler.create_scheduled_task(ScheduledTaskRequest(name=name, task_type="t", cron_expr="@daily"))
        assert (await scheduler.get_scheduled_task(name)).name == name
        assert (await scheduler.get_next_runs(name, 2))[0] > datetime.now(UTC)

    async def test_a_range_that_is_too_long(self, scheduler: SchedulerService) -> None:
        await scheduler.create_scheduled_task(ScheduledTaskRequest(name="s", task_type="t", cron_expr="* * * * * *"))
        end = datetime.now(UTC)
        with pytest.raises(InvalidInput, match="more than 10000 moments"):
            await scheduler.backfill_scheduled_task("s", end - timedelta(days=1), end)


async def test_a_stop_that_comes_before_the_start_ends_it(scheduler: SchedulerService) -> None:
    scheduler.stop()
    async with asyncio.timeout(20):
        await scheduler.start()

    await scheduler.create_scheduled_task(ScheduledTaskRequest(name="s", task_type="t", cron_expr="* * * * * *"))
    running = asyncio.create_task(scheduler.start())

    async def has_fired() -> bool:
        return (await scheduler.get_scheduled_task("s")).run_count > 0

    await until(has_fired)
    scheduler.stop()
    await running


def test_a_stop_that_comes_before_the_start_ends_a_blocking_one_too(sync_db: sync.Database) -> None:
    scheduler = sync.SchedulerService(sync_db)
    scheduler.stop()
    running = threading.Thread(target=scheduler.start, daemon=True)
    running.start()
    running.join(20)
    assert not running.is_alive()


def test_a_blocking_scheduler_fires(sync_db: sync.Database, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = sync.SchedulerService(sync_db)
    scheduler.create_scheduled_task(ScheduledTaskRequest(name="s", task_type="t", cron_expr="* * * * * *"))
    running = threading.Thread(target=scheduler.start)
    running.start()

    async def has_fired() -> bool:
        return scheduler.get_scheduled_task("s").run_count > 0

    asyncio.run(until(has_fired))
    scheduler.stop()
    running.join(20)
    assert not running.is_alive()
