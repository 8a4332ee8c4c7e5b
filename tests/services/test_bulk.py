"""RetryManager with a filter, async and blocking; operations outlive their drivers."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from pgqueue import BulkFilter, Database, InvalidInput, QueueService, RetryManager, TaskRequest, sync
from pgqueue.errors import InvalidTransition, OperationNotFound, TaskNotFound
from tests.polling import until

if TYPE_CHECKING:
    from pgqueue import TaskContext

FAILED = "fails"


async def fail(service: QueueService, count: int) -> None:
    """Fill the queue with tasks that have failed."""

    async def fails(_ctx: TaskContext) -> None:
        raise ValueError(FAILED)

    if FAILED not in {handler.task_type for handler in service.registry}:
        service.register_handler(FAILED, fails)
    await service.submit_tasks(TaskRequest(task_type=FAILED, max_retries=0) for _ in range(count))
    await service.drain()


async def test_all_that_a_filter_chooses_is_retried_cancelled_deleted(service: QueueService, db: Database) -> None:
    await fail(service, 30)
    manager = RetryManager(db)
    chosen = BulkFilter(task_type=FAILED)
    seen = await manager.preview("retry", chosen)
    assert (seen.matched, seen.is_capped, len(seen.sample)) == (30, False, 20)
    retried = await manager.retry_tasks(chosen, requested_by="ada")
    assert (retried.state, retried.done, retried.requested_by, retried.share) == ("completed", 30, "ada", 1.0)
    cancelled = await manager.cancel_tasks(BulkFilter(all=True), reason="enough")
    assert cancelled.done == 30
    deleted = await manager.delete_tasks(BulkFilter(status="cancelled"))
    assert deleted.done == 30
    assert [each.kind for each in await manager.list_operations()] == ["delete", "cancel", "retry"]
    assert await manager.get_operation(deleted.id) == deleted
    assert (await service.list_tasks())[1] == 0


async def test_one_that_has_ended_is_deleted(service: QueueService, sync_db: sync.Database) -> None:
    await fail(service, 2)
    live = await service.submit_task(TaskRequest(task_type="work"))
    (_, second, first), _ = await service.list_tasks()
    await service.delete_task(first.task_id)
    sync.QueueService(sync_db).delete_task(second.task_id)
    assert [task.task_id for task in (await service.list_tasks())[0]] == [live.task_id]
    with pytest.raises(InvalidTransition):
        await service.delete_task(live.task_id)
    with pytest.raises(TaskNotFound):
        await service.delete_task(first.task_id)


async def test_blocking_does_the_same(service: QueueService, sync_db: sync.Database) -> None:
    await fail(service, 3)

    def work() -> None:
        manager = sync.RetryManager(sync_db)
        assert manager.preview("retry", BulkFilter(all=True)).matched == 3
        assert manager.retry_tasks(BulkFilter(all=True)).done == 3
        assert manager.cancel_tasks(BulkFilter(queue_name="default"), reason="enough").done == 3
        operation_id = manager.start_operation("delete", BulkFilter(all=True))
        assert [each.state for each in manager.follow_operation(operation_id)][-1] == "completed"
        assert manager.cancel_operation(operation_id) == "completed"
        assert manager.get_operation(operation_id).done == 3
        assert len(manager.list_operations()) == 3

    await asyncio.to_thread(work)


async def test_progress_is_seen_by_whoever_follows(service: QueueService, db: Database) -> None:
    await fail(service, 450)
    manager = RetryManager(db)
    operation_id = await manager.start_operation("retry", BulkFilter(all=True))
    seen = [each async for each in manager.follow_operation(operation_id)]
    assert [each.done for each in seen] == [200, 400, 450, 450]
    assert [each.share for each in seen] == sorted(each.share for each in seen)


@pytest.mark.parametrize("chosen", [BulkFilter(), BulkFilter(status="completed"), BulkFilter(queue_name="\x00"), None])
async def test_nobody_touches_all_by_leaving_something_out(db: Database, chosen: BulkFilter) -> None:
    manager = RetryManager(db)
    with pytest.raises(InvalidInput):
        await manager.retry_tasks(chosen)
    with pytest.raises(InvalidInput):
        await manager.preview("retry", chosen)


async def test_an_operation_that_there_is_not(db: Database) -> None:
    with pytest.raises(OperationNotFound, match="no bulk operation 7"):
        await RetryManager(db).get_operation(7)
    with pytest.raises(OperationNotFound):
        await anext(RetryManager(db).follow_operation(7))


DRIVER = """
import asyncio, os, signal, sys, pgqueue
async def main():
    async with pgqueue.Database(sys.argv[1]) as db:
        manager = pgqueue.RetryManager(db)
        operation_id = await manager.start_operation("retry", pgqueue.BulkFilter(all=True))
        async for _ in manager.follow_operation(operation_id):
            os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


async def test_workers_carry_on_when_the_driver_is_killed(service: QueueService, db: Database, dsn: str) -> None:
    await fail(service, 300)
    driver = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", DRIVER, dsn], check=False)
    assert driver.returncode == -signal.SIGKILL
    manager = RetryManager(db)
    assert (await manager.list_operations())[0].done == 200
    async with db.connection() as conn:
        await conn.execute("update pgqueue.operations set updated_at = updated_at - interval '1 minute'")
    worker = asyncio.create_task(service.start(queues={"default": 0}, handle_signals=False))

    async def is_done() -> bool:
        return (await manager.list_operations())[0].state == "completed"

    await until(is_done)
    worker.cancel()
    await asyncio.wait([worker])
    assert (await manager.list_operations())[0].done == 300
