"""What handlers submit is a child of their task, whatever runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pgqueue import QueueService, TaskContext, TaskFilter, TaskRequest
from tests.worker import work

if TYPE_CHECKING:
    from pgqueue.handlers import Executor


@pytest.fixture
def service(service: QueueService) -> QueueService:
    async def leaf(ctx: TaskContext) -> None:
        """Does nothing."""

    service.register_handler("leaf", leaf)
    service.register_queue("default", concurrency=5)
    return service


async def test_a_handler_on_the_loop_is_the_parent(service: QueueService) -> None:
    """Of single tasks and of many, also from tasks of its own; several handlers at once do not mix."""

    async def branch(ctx: TaskContext) -> None:
        await asyncio.sleep(0)
        alone = await service.submit_task(TaskRequest(task_type="leaf"))
        assert alone.parent_id == ctx.task_id
        many = await service.submit_tasks(TaskRequest(task_type="leaf") for _ in range(2))
        assert [task.parent_id for task in many] == [ctx.task_id] * 2
        later = asyncio.create_task(service.submit_task(TaskRequest(task_type="leaf")))
        assert (await later).parent_id == ctx.task_id

    service.register_handler("branch", branch)
    parents = await service.submit_tasks(TaskRequest(task_type="branch") for _ in range(4))
    assert [task.parent_id for task in parents] == [None] * 4
    await service.drain()
    for task in parents:
        assert (await task.refresh()).status == "completed"
        children, total = await service.list_tasks(TaskFilter(parent_id=task.task_id))
        assert (total, {child.parent_id for child in children}) == (4, {task.task_id})
        assert {child.status for child in children} == {"completed"}


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_so_is_one_in_a_thread_or_process_unless_another_is_named(
    service: QueueService, executor: Executor, dsn: str
) -> None:
    service.register_handler("submits", work.submits, executor=executor)
    task = await service.submit_task(TaskRequest(task_type="submits", payload={"dsn": dsn, "other": 4711}))
    await service.drain()
    child, of_another = await task.result(list[int], timeout=20)
    assert (await service.get_task(child)).parent_id == task.task_id
    assert (await service.get_task(of_another)).parent_id == 4711


async def test_a_retried_task_keeps_its_parent(service: QueueService) -> None:
    async def fails(ctx: TaskContext) -> None:
        raise RuntimeError("broken")

    service.register_handler("fails", fails)
    task = await service.submit_task(TaskRequest(task_type="fails", parent_id=12, max_retries=0))
    await service.drain()
    await task.retry()
    assert (await task.refresh()).parent_id == 12
