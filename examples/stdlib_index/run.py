"""The demo's own part: submit everything, watch until it is done, read back what came of it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pgqueue import Database, QueueService, StateService, Task, TaskFilter, TaskRequest, calls

from .display import Seen
from .sources import shelves
from .summary import Outcome
from .tasks import QUEUES, Catalogue, Check, Shelf, catalogue, check_shelf, index_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from .display import Display
    from .sources import SourceFile
    from .stage import Stage

__all__ = ["run"]

LOOK_S = 0.2
CHECKS = 6
MOST_S = 600


async def run(stage: Stage, files: list[SourceFile], cards: Path, display: Display) -> Outcome:
    """Submit the tasks in one transaction, wait for all of them, and return what the database says of them.

    Raises RuntimeError where a worker ends, TimeoutError after ten minutes.
    """
    async with Database(stage.dsn, settings=stage.settings) as db:
        service = QueueService(db)
        began = await _moment(db)
        for name, concurrency in QUEUES.items():
            await service.create_queue(name, concurrency=concurrency)
        tasks = await service.submit_tasks(_requests(files, cards))
        async with asyncio.timeout(MOST_S):
            await _watch(stage, service, tasks, display)
        return await _read_back(db, began)


def _requests(files: list[SourceFile], cards: Path) -> Iterable[TaskRequest]:
    groups = shelves(files)
    yield catalogue.request(Catalogue(str(cards), [Shelf(name, len(found)) for name, found in groups.items()]))
    names = list(groups)
    for name in names[:: max(1, len(names) // CHECKS)][:CHECKS]:
        yield check_shelf.request(Check(str(cards), name, [file.path for file in groups[name]]), project_id=name)
    for file in files:
        yield index_file.request(file, project_id=file.shelf)


async def _watch(stage: Stage, service: QueueService, tasks: list[Task], display: Display) -> None:
    state = StateService(service.db)
    began = time.monotonic()
    while True:
        stage.check_workers()
        queues = await asyncio.gather(*(service.get_queue_stats(name) for name in QUEUES))
        seen = Seen(
            elapsed_s=time.monotonic() - began,
            total=len(tasks),
            queues=list(queues),
            workers=await service.list_workers(),
            catalogue=await state.get_progress(tasks[0].task_id),
        )
        display.show(seen)
        if seen.ended >= seen.total:
            return
        await asyncio.sleep(LOOK_S)


async def _read_back(db: Database, began: datetime) -> Outcome:
    service, state = QueueService(db), StateService(db)
    statistics = await state.get_task_statistics(began, await _moment(db))
    tasks = await _all_tasks(service)
    tried_again = [task for task in tasks if task.attempt > 1]
    executions = await asyncio.gather(*(service.get_executions(task.task_id) for task in tried_again))
    return Outcome(statistics, tasks, [attempt for attempts in executions for attempt in attempts])


async def _all_tasks(service: QueueService) -> list[Task]:
    found: list[Task] = []
    cursor: int | None = None
    while True:
        page = await service.list_tasks(TaskFilter(page_size=500, before_id=cursor))
        found += page[0]
        cursor = page.next_cursor
        if cursor is None:
            return found


async def _moment(db: Database) -> datetime:
    """Return the database's time, which all its figures are in."""
    return await db.run(calls.clock())
