"""Reading and changing tasks, queues and history, async and blocking."""

from __future__ import annotations

import asyncio
import inspect
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest

from pgqueue import (
    DuplicateTask,
    InvalidTransition,
    PayloadError,
    QueueConfig,
    QueueNotFound,
    QueueService,
    RetryManager,
    StateService,
    TaskCancelled,
    TaskFailed,
    TaskFilter,
    TaskNotFound,
    TaskRequest,
    sync,
)
from pgqueue import services as async_services

if TYPE_CHECKING:
    from tests.services.conftest import Engine


class Answer(msgspec.Struct):
    words: int
    at: datetime | None = None


def request(**options: Any) -> TaskRequest:  # noqa: ANN401 - any value
    return TaskRequest(**({"task_type": "report"} | options))


PAIRS = [
    (async_services.QueueOperations, sync.QueueService),
    (QueueService, sync.QueueService),
    (StateService, sync.StateService),
    (RetryManager, sync.RetryManager),
    (async_services.Task, sync.Task),
    (async_services.Subscription, sync.Subscription),
]
ONLY_ASYNC = {"worker", "declared_queues", "slots_of", "to_make", "note_made"}


@pytest.mark.parametrize(("kind", "blocking"), PAIRS, ids=[kind.__name__ for kind, _ in PAIRS])
def test_the_blocking_services_have_the_same_names_and_parameters(kind: type, blocking: type) -> None:
    names = {name for name, value in inspect.getmembers(kind, callable) if not name.startswith("_")} - ONLY_ASYNC
    assert names <= set(dir(blocking))
    for name in names - {"start"}:
        here, there = inspect.signature(getattr(kind, name)), inspect.signature(getattr(blocking, name))
        assert list(here.parameters) == list(there.parameters), name
        assert [p.default for p in here.parameters.values()] == [p.default for p in there.parameters.values()], name


async def test_typed_results(service: QueueService, engine: Engine) -> None:
    task = await service.submit_task(request())
    engine.complete(task.task_id, {"words": 3, "at": "2030-01-01T00:00:00Z"})
    assert await task.result() == {"words": 3, "at": "2030-01-01T00:00:00Z"}
    answer = await task.result(Answer)
    assert (answer.words, answer.at) == (3, datetime(2030, 1, 1, tzinfo=UTC))
    state = StateService(service.db)
    assert await state.get_task_result(task.task_id, Answer) == answer
    assert await state.get_task_result(task.task_id) == await task.result()
    with pytest.raises(PayloadError, match=r"the result of task \d+ does not fit .*str"):
        await task.result(str)
    counts = await service.submit_task(request())
    engine.complete(counts.task_id, {"1": 2})
    assert await counts.result(dict[int, int]) == {1: 2}


async def test_the_result_of_a_failed_or_cancelled_task_says_why(
    service: QueueService, blocking: sync.QueueService, engine: Engine
) -> None:
    failed = await service.submit_task(request())
    engine.fail(failed.task_id, "no such file")
    cancelled = await service.submit_task(request())
    assert await cancelled.cancel("not needed") == "cancelled"
    with pytest.raises(TaskFailed, match=r"failed after 1 attempts: .*no such file") as caught:
        await failed.result()
    assert caught.value.detail["task_id"] == failed.task_id
    with pytest.raises(TaskCancelled, match="was cancelled: not needed"):
        await cancelled.result()
    with pytest.raises(TaskFailed, match="no such file"):
        await asyncio.to_thread(blocking.get_task(failed.task_id).result)


async def test_a_result_stored_early_stays_where_the_handler_returns_none(
    service: QueueService, state: StateService, engine: Engine
) -> None:
    task = await service.submit_task(request())
    attempt = engine.claim()[task.task_id]
    await state.set_task_result(task.task_id, {"part": 1})
    assert await state.get_task_result(task.task_id) == {"part": 1}
    engine.finish(task.task_id, attempt)
    assert await task.result() == {"part": 1}


def test_everything_about_one_task_blocking(
    blocking: sync.QueueService, sync_db: sync.Database, engine: Engine
) -> None:
    state = sync.StateService(sync_db)
    task = blocking.submit_task(request(payload={"n": 1}))
    assert blocking.why_waiting(task.task_id).startswith("it is due")
    attempt = engine.claim()[task.task_id]
    state.update_progress(task.task_id, 20, "begun")
    state.update_progress_with_steps(task.task_id, "parse", 1, 4, "half")
    progress = state.get_progress(task.task_id)
    assert (progress.progress, progress.step, progress.completed_steps, progress.total_steps) == (25, "parse", 1, 4)
    assert (progress.status, progress.message, progress.is_final) == ("running", "half", False)
    state.set_task_result(task.task_id, {"words": 2})
    engine.finish(task.task_id, attempt)
    assert task.wait(5).status == "completed"
    assert task.result(Answer) == Answer(2)
    assert state.get_task_result(task.task_id, Answer) == Answer(2)
    assert [p.status for p in task.progress()] == ["completed"]
    with pytest.raises(InvalidTransition):
        task.cancel()
    with pytest.raises(InvalidTransition):
        task.retry()
    [execution] = blocking.get_executions(task.task_id)
    assert (execution.attempt, execution.outcome, execution.worker_id) == (1, "completed", engine.worker_id)
    now = datetime.now(UTC)
    statistics = state.get_task_statistics(now - timedelta(hours=1), now + timedelta(hours=1))
    assert (statistics.total, statistics.completed, statistics.success_rate) == (1, 1, 100.0)


async def test_executions_logs_and_workers(service: QueueService, engine: Engine) -> None:
    task = await service.submit_task(request())
    attempt = engine.claim()[task.task_id]
    lines = [
        {
            "task_id": task.task_id,
            "attempt": attempt,
            "level": "info",
            "message": f"line {n}",
            "fields": {"n": n},
            "ago": 0,
        }
        for n in range(5)
    ]
    engine.run("select pgqueue.write_logs(%s::jsonb)", msgspec.json.encode(lines).decode())
    found = await service.get_logs(task.task_id)
    assert [(line.message, line.fields, line.level) for line in found] == [
        (f"line {n}", {"n": n}, "info") for n in range(5)
    ]
    assert [line.message for line in await service.get_logs(task.task_id, after=found[2].id)] == ["line 3", "line 4"]
    assert len(await service.get_logs(task.task_id, limit=2)) == 2
    [worker] = await service.list_workers()
    assert (worker.id, worker.hostname, worker.state, worker.running) == (engine.worker_id, "here", "alive", 1)
    assert await service.overview("running_tasks")
    assert await service.overview("health")
    failure = {"outcome": "failed", "error_type": "E", "error_message": "m", "traceback": "tb", "permanent": True}
    engine.finish(task.task_id, attempt, failure=failure)
    [execution] = await service.get_executions(task.task_id)
    assert (execution.outcome, execution.error_type, execution.error_message, execution.traceback) == (
        "failed",
        "E",
        "m",
        "tb",
    )


async def test_a_failed_task_is_retried_under_its_id(service: QueueService, engine: Engine) -> None:
    retries = RetryManager(service.db)
    failed = await service.submit_task(request(unique_key="k"))
    engine.fail(failed.task_id)
    [one] = await retries.get_retryable_tasks()
    assert (one.task_id, one.status) == (failed.task_id, "failed")
    taken = await service.submit_task(request(unique_key="k"))
    assert await retries.get_retryable_tasks() == []
    with pytest.raises(DuplicateTask):
        await failed.retry()
    await taken.cancel()
    assert await retries.retry_task(failed.task_id) == failed.task_id
    again = await failed.refresh()
    assert (again.status, again.attempt, again.failures, again.error) == ("pending", 1, 0, None)
    assert await retries.get_retryable_tasks(queue_name="default") == []
    await again.cancel()
    found = await retries.get_retryable_tasks(queue_name="default")
    assert [task.task_id for task in found] == [taken.task_id, failed.task_id]


async def test_queues_are_made_changed_paused_and_deleted(service: QueueService, blocking: sync.QueueService) -> None:
    assert await service.create_queue("q", concurrency=3, capacity=10) == "q"
    await service.create_queue("q", concurrency=4)
    await service.pause_queue("q", "maintenance")
    stats = await service.get_queue_stats("q")
    assert (stats.concurrency, stats.queue_capacity, stats.paused) == (4, 10, True)
    [info] = [queue for queue in blocking.list_queues() if queue.name == "q"]
    assert info.pause_reason == "maintenance"
    task = await service.submit_task(request(queue_name="q"))
    assert "paused" in await service.why_waiting(task.task_id)
    with pytest.raises(InvalidTransition):
        await service.delete_queue("q")
    blocking.resume_queue("q")
    assert not blocking.get_queue_stats("q").paused
    await task.cancel()
    blocking.pause_queue("q")
    blocking.delete_queue("q")
    with pytest.raises(QueueNotFound):
        blocking.get_queue_stats("q")
    assert QueueService(service.db, QueueConfig(concurrency=2)).config.concurrency == 2


async def test_lists_filter_page_and_follow_a_cursor(
    service: QueueService, state: StateService, blocking: sync.QueueService, engine: Engine
) -> None:
    await service.create_queue("other")
    mine = await service.submit_tasks(request(user_id="u", project_id="p", payload={"n": n}) for n in range(25))
    await service.submit_tasks(request(task_type="noise", queue_name="other") for _ in range(5))
    mine_only: dict[str, Any] = {
        "queue_name": "default",
        "task_type": "report",
        "user_id": "u",
        "project_id": "p",
        "status": "pending",
    }
    tasks, total = await service.list_tasks(TaskFilter(**mine_only))
    ids = [task.task_id for task in mine][::-1]
    assert ([task.task_id for task in tasks], total) == (ids[:20], 25)
    second = await state.list_tasks(TaskFilter(**mine_only, page=2))
    assert [task.task_id for task in second[0]] == ids[20:]
    assert second.next_cursor is None
    first = blocking.list_tasks(TaskFilter(**mine_only, page_size=10))
    rest = blocking.list_tasks(TaskFilter(**mine_only, page_size=15, before_id=first.next_cursor))
    assert [task.task_id for task in [*first[0], *rest[0]]] == ids
    assert not first.total_capped
    engine.complete(mine[0].task_id)
    assert (await service.list_tasks(TaskFilter(status="completed")))[1] == 1
    assert (await service.list_tasks(TaskFilter(status="running")))[1] == 24
    assert (await service.list_tasks(TaskFilter(created_from=datetime.now(UTC) + timedelta(days=1))))[1] == 0
    assert (await service.list_tasks(TaskFilter(created_to=datetime.now(UTC) + timedelta(days=1))))[1] == 30
    assert (await service.list_tasks(TaskFilter(page=99)))[0] == []


async def test_a_long_list_says_that_its_total_is_capped(service: QueueService) -> None:
    await service.submit_tasks(request() for _ in range(10_001))
    page = await service.list_tasks()
    assert (page[1], page.total_capped) == (10_000, True)


def aged(engine: Engine, days: int, count: int) -> list[int]:
    """Finish tasks, and move them into a day that is over."""
    ids = [engine.value("select pgqueue.submit('old')") for _ in range(count)]
    for task_id, attempt in engine.claim().items():
        engine.finish(task_id, attempt)
    for table in ("finished_tasks", "attempts"):
        engine.run(
            "select pgqueue._make_partition(%s, 'finished_at', (now() at time zone 'UTC')::date - %s)", table, days
        )
        age = f"update pgqueue.{table} set finished_at = finished_at - make_interval(days => %s) where finished_at > %s"
        engine.run(age, days, datetime.now(UTC) - timedelta(days=1))
    return ids


def days_kept(engine: Engine) -> set[str]:
    rows = engine.conn.execute("select relname from pg_class where relname ~ '^finished_tasks_[0-9]{8}$'").fetchall()
    return {row[0] for row in rows}


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_cleanup_drops_whole_days_and_deletes_the_rest(
    service: QueueService, sync_db: sync.Database, engine: Engine, kind: str
) -> None:
    old, newer = aged(engine, 40, 3), aged(engine, 20, 2)
    today = await service.submit_task(request())
    engine.complete(today.task_id)
    days = days_kept(engine)

    async def cleanup(age: timedelta) -> int:
        if kind == "async":
            return await RetryManager(service.db).cleanup_old_tasks(age)
        return await asyncio.to_thread(sync.RetryManager(sync_db).cleanup_old_tasks, age)

    assert await cleanup(timedelta(days=30)) == 3
    assert len(days - days_kept(engine)) == 1
    for task_id in old:
        with pytest.raises(TaskNotFound):
            await service.get_task(task_id)
    assert (await service.get_task(newer[0])).status == "completed"
    assert await cleanup(timedelta(days=300_000)) == 0
    assert await cleanup(timedelta(0)) == 3
    assert (await service.list_tasks())[1] == 0


async def test_cleanup_leaves_a_day_that_is_read_and_takes_it_the_next_time(
    service: QueueService, engine: Engine, dsn: str
) -> None:
    aged(engine, 40, 3)
    retries = RetryManager(service.db)
    days = days_kept(engine)
    async with await psycopg.AsyncConnection.connect(dsn) as reader:
        await reader.execute("select count(*) from pgqueue.finished_tasks")
        cleaning = asyncio.create_task(retries.cleanup_old_tasks(timedelta(days=30)))
        task = await service.submit_task(request())
        engine.complete(task.task_id)
        removed = await cleaning
    again = await retries.cleanup_old_tasks(timedelta(days=30))
    assert removed + again == 3
    assert days_kept(engine) < days
    assert (await task.refresh()).status == "completed"


async def test_two_cleanups_at_once_end_well(service: QueueService, engine: Engine) -> None:
    aged(engine, 40, 3)
    aged(engine, 41, 2)
    retries = RetryManager(service.db)
    removed = await asyncio.gather(*(retries.cleanup_old_tasks(timedelta(days=30)) for _ in range(3)))
    assert sum(removed) + await retries.cleanup_old_tasks(timedelta(days=30)) >= 5
    assert (await service.list_tasks())[1] == 0
