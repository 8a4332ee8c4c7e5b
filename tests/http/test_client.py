"""The client does over HTTP what the services do with the database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from pgqueue import (
    DuplicateTask,
    InvalidInput,
    InvalidTransition,
    PayloadError,
    QueueFull,
    QueueNotFound,
    QueueService,
    ScheduledTaskRequest,
    ScheduleNotFound,
    TaskCancelled,
    TaskFailed,
    TaskFilter,
    TaskNotFound,
    TaskRequest,
    WorkerNotFound,
)
from pgqueue.http import Client, SyncClient
from tests.polling import until
from tests.web.conftest import DEADLINE_S, working

if TYPE_CHECKING:
    from pgqueue_web import Server


class TestTasks:
    async def test_a_task_is_submitted_read_and_its_result_waited_for(
        self, client: Client, service: QueueService
    ) -> None:
        task = await client.submit_task(TaskRequest(task_type="greet", payload={"name": "Ann"}, priority=7))
        assert (task.created, task.status, task.priority, task.payload) == (True, "pending", 7, {"name": "Ann"})
        assert (await client.get_task(task.task_id)).created_at == task.created_at
        async with working(service):
            assert await task.result(str, timeout=DEADLINE_S) == "Hello, Ann!"
        ended = await client.wait_for(task.task_id)
        assert (ended.status, ended.attempt) == ("completed", 1)
        assert await client.get_task_result(task.task_id) == "Hello, Ann!"
        with pytest.raises(PayloadError, match="does not fit"):
            await client.get_task_result(task.task_id, type=int)
        (execution,) = await client.get_executions(task.task_id)
        assert execution.outcome == "completed"
        (line,) = await client.get_logs(task.task_id)
        assert (line.message, line.fields) == ("greeting", {"name": "Ann"})
        assert await client.get_logs(task.task_id, after=line.id) == []

    async def test_many_are_submitted_at_once_or_none(self, client: Client) -> None:
        tasks = await client.submit_tasks(TaskRequest(task_type="greet", payload=n) for n in range(3))
        assert [(task.payload, task.created) for task in tasks] == [(0, True), (1, True), (2, True)]
        assert await client.submit_tasks([]) == []
        with pytest.raises(QueueNotFound):
            await client.submit_tasks(
                [TaskRequest(task_type="greet"), TaskRequest(task_type="greet", queue_name="nowhere")]
            )
        (_, total) = await client.list_tasks()
        assert total == 3

    async def test_lists_are_paged_by_cursor(self, client: Client) -> None:
        made = await client.submit_tasks([TaskRequest(task_type="greet", user_id="u") for _ in range(5)])
        wanted = TaskFilter(user_id="u", page_size=2)
        page = await client.list_tasks(wanted)
        found = [task.task_id for task in page[0]]
        while page.next_cursor is not None:
            page = await client.list_tasks(wanted, cursor=page.next_cursor)
            found += [task.task_id for task in page[0]]
        assert found == [task.task_id for task in reversed(made)]
        assert (page[1], page.total_capped) == (5, False)
        later = await client.list_tasks(TaskFilter(created_from=datetime.now(UTC) + timedelta(hours=1)))
        assert later == ([], 0)

    async def test_a_taken_unique_key_returns_the_task_or_raises(self, client: Client) -> None:
        request = TaskRequest(task_type="greet", unique_key="k")
        first, second = await client.submit_task(request), await client.submit_task(request)
        assert (second.task_id, second.created) == (first.task_id, False)
        with pytest.raises(DuplicateTask):
            await client.submit_task(TaskRequest(task_type="greet", unique_key="k", on_conflict="raise"))

    async def test_a_task_is_cancelled_and_retried(self, client: Client) -> None:
        task = await client.submit_task(TaskRequest(task_type="greet"))
        with pytest.raises(InvalidTransition):
            await task.retry()
        assert await task.cancel() == "cancelled"
        assert await task.cancel() == "cancelled"
        with pytest.raises(TaskCancelled):
            await task.result()
        assert await task.retry() == task.task_id
        assert (await task.refresh()).status == "pending"

    async def test_a_failure_is_raised_with_its_message(self, client: Client, service: QueueService) -> None:
        task = await client.submit_task(TaskRequest(task_type="refuse", max_retries=0))
        async with working(service):
            with pytest.raises(TaskFailed, match="never") as raised:
                await task.result(timeout=DEADLINE_S)
        assert raised.value.detail["task_id"] == task.task_id

    async def test_waiting_ends_with_its_timeout(self, client: Client) -> None:
        task = await client.submit_task(TaskRequest(task_type="greet"))
        assert await client.get_task_result(task.task_id) is None
        for timeout in (0, 0.1, 1.05):
            with pytest.raises(TimeoutError, match="it is pending"):
                await task.wait(timeout)
        with pytest.raises(InvalidInput):
            await task.wait(-1)

    async def test_what_is_wrong_is_told_as_by_the_services(self, client: Client) -> None:
        with pytest.raises(TaskNotFound) as raised:
            await client.get_task(404)
        assert (raised.value.sqlstate, raised.value.detail) == ("QU102", {"task_id": 404})
        with pytest.raises(InvalidInput, match=r"payload\.x is nan"):
            await client.submit_task(TaskRequest(task_type="greet", payload={"x": float("nan")}))
        with pytest.raises(InvalidInput, match="task_type") as refused:
            await client.submit_task(TaskRequest(task_type="x" * 201))
        assert refused.value.detail["field"] == "/task_type"
        with pytest.raises(InvalidInput, match="cursor"):
            await client.list_tasks(TaskFilter(before_id=3))
        await client.create_queue("small", capacity=1)
        await client.submit_task(TaskRequest(task_type="greet", queue_name="small"))
        async with Client(client.url, retries=0) as hasty:
            with pytest.raises(QueueFull) as full:
                await hasty.submit_task(TaskRequest(task_type="greet", queue_name="small"))
        assert full.value.detail["capacity"] == 1

    async def test_statistics_are_those_of_the_window(self, client: Client, service: QueueService) -> None:
        task = await client.submit_task(TaskRequest(task_type="greet", payload={"name": "Ann"}))
        async with working(service):
            await task.wait(DEADLINE_S)
        now = datetime.now(UTC)
        assert (await client.get_task_statistics()).completed == 1
        assert (await client.get_task_statistics(now - timedelta(days=2), now - timedelta(days=1))).completed == 0


class TestProgress:
    async def test_each_change_is_told_until_the_end(self, client: Client, service: QueueService) -> None:
        task = await client.submit_task(TaskRequest(task_type="greet", payload={"name": "Ann"}))
        progress = task.progress()
        told = [await anext(progress)]
        async with working(service):
            told += [state async for state in progress]
        assert (told[0].status, told[-1].status, told[-1].progress) == ("pending", "completed", 100)
        assert len(told) == len(set(told))
        assert [progress async for progress in task.progress()] == told[-1:]
        assert await client.get_progress(task.task_id) == told[-1]

    async def test_a_task_that_is_not_there_is_told(self, client: Client) -> None:
        with pytest.raises(TaskNotFound):
            await anext(client.follow_progress(404))


class TestQueues:
    async def test_queues_are_made_changed_paused_and_counted(self, client: Client) -> None:
        name = "a/b ü"
        assert await client.create_queue(name, concurrency=3) == name
        assert await client.create_queue(name, capacity=9) == name
        await client.pause_queue(name, "holidays")
        queue = next(queue for queue in await client.list_queues() if queue.name == name)
        assert (queue.concurrency, queue.capacity, queue.pause_reason) == (3, 9, "holidays")
        assert (await client.get_queue_stats(name)).paused
        await client.resume_queue(name)
        assert not (await client.get_queue_stats(name)).paused
        with pytest.raises(QueueNotFound):
            await client.get_queue_stats("nowhere")

    async def test_workers_are_listed_paused_resumed_and_stopped(self, client: Client, service: QueueService) -> None:
        assert await client.list_workers() == []

        async def is_seen() -> bool:
            return [worker.queues for worker in await client.list_workers()] == [["default"]]

        async with working(service):
            await until(is_seen)
            [worker] = await client.list_workers()
            await client.pause_worker(worker.id, "disk full")
            [paused] = await client.list_workers()
            assert (paused.state, paused.pause_reason) == ("paused", "disk full")
            await client.resume_worker(worker.id)
            assert (await client.list_workers())[0].state == "alive"
            await client.stop_worker(worker.id)

            async def is_gone() -> bool:
                return await client.list_workers() == []

            await until(is_gone)
            with pytest.raises(WorkerNotFound):
                await client.stop_worker(worker.id)


class TestSchedules:
    async def test_a_schedule_is_made_changed_run_and_deleted(self, client: Client) -> None:
        request = ScheduledTaskRequest(name="nightly", task_type="greet", cron_expr="0 3 * * *", payload={"name": "N"})
        made = await client.create_scheduled_task(request)
        assert made.next_run_at is not None
        with pytest.raises(DuplicateTask):
            await client.create_scheduled_task(request)
        changed = await client.update_scheduled_task("nightly", time_zone="Europe/Berlin")
        assert (changed.time_zone, changed.payload) == ("Europe/Berlin", {"name": "N"})
        await client.pause_scheduled_task("nightly", "not now")
        assert (await client.get_scheduled_task("nightly")).pause_reason == "not now"
        assert (await client.resume_scheduled_task("nightly")).is_active
        task_id = await client.run_scheduled_task_now("nightly")
        assert (await client.get_task(task_id)).payload == {"name": "N"}
        assert len(await client.get_next_runs("nightly", 3)) == 3
        assert [tick.task_id for tick in await client.get_scheduled_task_history("nightly")] == [task_id]
        assert (await client.get_scheduler_stats()).active_jobs == 1
        assert [schedule.name for schedule in await client.list_scheduled_tasks()] == ["nightly"]
        await client.delete_scheduled_task("nightly")
        with pytest.raises(ScheduleNotFound):
            await client.get_scheduled_task("nightly")

    async def test_fields_that_do_not_exist_are_refused(self, client: Client) -> None:
        with pytest.raises(InvalidInput, match="no field colour"):
            await client.update_scheduled_task("nightly", colour="red")


class TestBlocking:
    async def test_the_blocking_client_does_the_same(self, api: Server, service: QueueService) -> None:
        def use() -> None:
            with SyncClient(api.url) as client:
                task = client.submit_task(TaskRequest(task_type="greet", payload={"name": "Ann"}))
                told = list(task.progress())
                assert told[-1].status == "completed"
                assert task.result(str, timeout=DEADLINE_S) == "Hello, Ann!"
                assert task.refresh().status == task.wait().status == "completed"
                assert client.get_task_result(task.task_id) == "Hello, Ann!"
                (found,), total = client.list_tasks()
                assert (found.task_id, total) == (task.task_id, 1)
                client.create_queue("later")
                (other,) = client.submit_tasks([TaskRequest(task_type="other", queue_name="later")])
                assert other.cancel() == "cancelled"
                assert other.retry() == other.task_id
                with pytest.raises(TimeoutError):
                    other.wait(0.01)
                assert [queue.name for queue in client.list_queues()] == ["default", "later"]
                with pytest.raises(TaskNotFound):
                    next(client.follow_progress(404))

        async with working(service):
            await asyncio.to_thread(use)

    def test_both_clients_have_the_same_methods(self) -> None:
        def names(kind: type) -> set[str]:
            return {name for name in dir(kind) if not name.startswith("_")}

        assert names(Client) == names(SyncClient)
