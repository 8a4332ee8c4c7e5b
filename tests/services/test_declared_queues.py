"""A queue that a service declares exists as soon as something is submitted to it."""

from __future__ import annotations

import asyncio

from pgqueue import Database, QueueConfig, QueueService, TaskContext, TaskRequest, sync


async def test_a_declared_queue_is_made_by_the_first_submit(dsn: str) -> None:
    async with Database(dsn) as db:
        service = QueueService(db)
        service.register_queue("processing", 10)
        await service.submit_task(TaskRequest(task_type="a", queue_name="processing"))
        stats = await service.get_queue_stats("processing")
    assert (stats.pending, stats.concurrency) == (1, 10)


async def test_so_is_one_that_a_handler_names(dsn: str) -> None:
    async with Database(dsn) as db:
        service = QueueService(db)

        @service.handler("resize", queue_name="images")
        async def resize(_ctx: TaskContext) -> None:
            """Nothing to do."""

        await resize.submit()
        await service.submit_tasks([resize.request(None)])
        stats = await service.get_queue_stats("images")
    assert (stats.pending, stats.concurrency) == (2, 5)


def test_blocking_services_make_theirs_too(dsn: str) -> None:
    with sync.Database(dsn) as db:
        service = sync.QueueService(db)
        service.register_queue("processing", 10)
        service.submit_tasks([TaskRequest(task_type="a", queue_name="processing")])
        assert service.get_queue_stats("processing").concurrency == 10


async def test_a_submit_leaves_an_operators_setting_alone(dsn: str) -> None:
    async with Database(dsn) as db:
        await QueueService(db).create_queue("processing", concurrency=4)
        service = QueueService(db)
        service.register_queue("processing", 10)
        await service.submit_task(TaskRequest(task_type="a", queue_name="processing"))
        assert (await service.get_queue_stats("processing")).concurrency == 4


async def test_a_config_gives_the_slots_of_queues_that_name_none(dsn: str) -> None:
    async with Database(dsn) as db:
        service = QueueService(db, QueueConfig(concurrency=7))
        service.register_queue("processing")
        await service.submit_task(TaskRequest(task_type="a", queue_name="processing"))
        assert (await service.get_queue_stats("processing")).concurrency == 7


async def test_a_drain_of_queues_without_slots_ends(dsn: str) -> None:
    async with Database(dsn) as db:
        service = QueueService(db)
        await service.submit_task(TaskRequest(task_type="a"))
        async with asyncio.timeout(20):
            await service.drain(queues={"default": 0})
        assert (await service.get_queue_stats("default")).pending == 1
