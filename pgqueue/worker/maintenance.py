"""What every worker does for the whole: rescue, partitions, leftovers, old history, forgotten operations.

The database lets one at a time do each of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import structlog

from pgqueue import calls, retention
from pgqueue.errors import DatabaseUnavailable, PgqueueError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pgqueue.database import Database
    from pgqueue.settings import Settings

__all__ = ["chores"]

MAINTAIN_S = 10.0
log = structlog.get_logger()


def chores(database: Database, settings: Settings) -> list[Coroutine[Any, Any, None]]:
    """Return what is to be run beside the queues until it is cancelled, each by itself.

    They rescue the tasks of silent workers six times a lease, and tidy up every ten seconds. A task group would cancel
    each only once, and a cancellation that meets a breaking connection can get lost.
    """
    return [
        _again_and_again(lambda: _rescue(database), settings.lease_s / 6),
        _again_and_again(lambda: _tidy(database, settings), MAINTAIN_S),
        _again_and_again(lambda: _expire(database, settings), MAINTAIN_S),
        _again_and_again(lambda: _carry_on(database), MAINTAIN_S),
    ]


async def _again_and_again(work: Callable[[], Awaitable[None]], pause_s: float) -> None:
    while True:
        try:
            await work()
        except DatabaseUnavailable as error:
            log.debug("maintenance waits for the database", error=str(error))
        except PgqueueError as error:
            log.warning("maintenance failed; it is tried again", error=str(error))
        await asyncio.sleep(pause_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter


async def _rescue(database: Database) -> None:
    for worker_id, rescued in await database.run(calls.rescue()):
        log.warning("a worker was lost; its tasks run elsewhere", worker_id=worker_id, tasks=rescued)


async def _tidy(database: Database, settings: Settings) -> None:
    await database.run(calls.maintain(settings.partition_days_ahead))


async def _expire(database: Database, settings: Settings) -> None:
    started = time.monotonic()
    removed = await retention.cleanup(database, settings=settings, every=retention.EVERY)
    if removed:
        log.info("old tasks were deleted", tasks=removed, seconds=round(time.monotonic() - started, 1))


async def _carry_on(database: Database) -> None:
    """Carry bulk operations on whose drivers have gone."""
    carried_on = True
    while carried_on:
        carried_on = await database.run(calls.step_abandoned()) is not None
