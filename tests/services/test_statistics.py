"""Statistics, time series and long lists, async and blocking."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pgqueue import InvalidInput, QueueService, StateService, TaskFilter, TaskRequest, sync

if TYPE_CHECKING:
    from tests.services.conftest import Engine

FINISHED = """
insert into pgqueue.finished_tasks (
    id, task_type, queue_name, priority, payload, status, max_retries, run_at, attempt, failures, crashes, created_at,
    started_at, finished_at
)
select
    n, case when n <= 3 then 'rare' else 'usual' end, 'default', 5, '{}', 'completed', 3, now(), 1, 0, 0, now(),
    now(), now()
from generate_series(1, %s) n
"""


async def test_a_time_series_by_queue(service: QueueService, state: StateService, engine: Engine) -> None:
    await service.create_queue("other")
    for name in ("default", "other"):
        task = await service.submit_task(TaskRequest(task_type="report", queue_name=name))
        engine.finish(task.task_id, engine.claim(queue_name=name)[task.task_id])
    end = datetime.now(UTC) + timedelta(seconds=1)
    points = await state.get_time_series(end - timedelta(hours=2), end, "hour", by=["queue_name"])
    assert {(point.queue_name, point.task_type) for point in points} == {("default", None), ("other", None)}
    assert sum(point.completed for point in points) == 2
    assert {point.bucket.tzinfo for point in points} == {UTC}
    assert len(points) in (4, 6)
    only = await state.get_time_series(end - timedelta(hours=2), end, "day", queue_name="other", task_type="report")
    assert sum(point.total for point in only) == 1
    assert max(point.p50_duration_ms for point in only) > 0


def test_the_blocking_one_is_the_same(sync_db: sync.Database) -> None:
    state = sync.StateService(sync_db)
    end = datetime(2030, 1, 1, 12, 30, tzinfo=UTC)
    points = state.get_time_series(end - timedelta(minutes=3), end, "minute")
    assert [point.bucket for point in points] == [end - timedelta(minutes=n) for n in (3, 2, 1)]
    assert {point.total for point in points} == {0}


@pytest.mark.parametrize(
    ("step", "days", "by"), [("week", 1, []), ("minute", 30, []), ("day", -1, []), ("day", 1, ["status"])]
)
async def test_nonsense_is_refused(state: StateService, step: str, days: int, by: list[str]) -> None:
    now = datetime.now(UTC)
    with pytest.raises(InvalidInput):
        await state.get_time_series(now - timedelta(days=days), now, step, by=by)


async def test_a_long_queue_tells_when_it_was_counted(service: QueueService, engine: Engine) -> None:
    await service.submit_tasks(TaskRequest(task_type="report") for _ in range(10_001))
    engine.run("select pgqueue.maintain()")
    stats = await service.get_queue_stats("default")
    assert (stats.pending, stats.queue_size) == (10_001, 10_001)
    assert stats.counted_at is not None
    engine.run("delete from pgqueue.tasks where id = (select min(id) from pgqueue.tasks)")
    stats = await service.get_queue_stats("default")
    assert (stats.pending, stats.counted_at) == (10_000, None)


async def test_what_is_rare_is_found_by_going_on(
    service: QueueService, blocking: sync.QueueService, engine: Engine
) -> None:
    engine.run(FINISHED, 12_000)
    for status in (None, "completed"):
        wanted = TaskFilter(task_type="rare", status=status, page_size=2)
        found: list[int] = []
        looks = 0
        while looks == 0 or wanted.before_id is not None:
            page = await service.list_tasks(wanted)
            assert blocking.list_tasks(wanted).next_cursor == page.next_cursor
            assert (page[1], page.total_capped) == (3, False)
            found += [task.task_id for task in page[0]]
            wanted.before_id = page.next_cursor
            looks += 1
        assert found == [3, 2, 1]
        assert looks == 5


async def test_a_full_last_page_has_no_next_one(service: QueueService, engine: Engine) -> None:
    engine.run(FINISHED, 20)
    first = await service.list_tasks(TaskFilter(page_size=10))
    assert first.next_cursor == 11
    last = await service.list_tasks(TaskFilter(page_size=10, before_id=11))
    assert ([task.task_id for task in last[0]], last.next_cursor) == (list(range(10, 0, -1)), None)


async def test_pages_end_at_row_ten_thousand_and_the_cursor_goes_on(service: QueueService, engine: Engine) -> None:
    engine.run(FINISHED, 10_500)
    last = await service.list_tasks(TaskFilter(page_size=1000, page=10))
    assert (last[0][-1].task_id, last.next_cursor) == (501, 501)
    beyond = await service.list_tasks(TaskFilter(page_size=1000, before_id=last.next_cursor))
    assert ([task.task_id for task in beyond[0]], beyond.next_cursor) == (list(range(500, 0, -1)), None)
    with pytest.raises(InvalidInput, match="pages end at row 10000"):
        await service.list_tasks(TaskFilter(page_size=1000, page=11))
