"""What every worker does for the whole: rescue, partitions, leftovers. The database lets one at a time do it."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable, PgqueueError

if TYPE_CHECKING:
    from pgqueue.database import Database
    from pgqueue.settings import Settings

__all__ = ["maintain"]

MAINTAIN_S = 10.0
log = structlog.get_logger()


async def maintain(database: Database, settings: Settings) -> None:
    """Rescue the tasks of silent workers six times a lease, and tidy up every ten seconds, until cancelled."""
    tidy_at = 0.0
    while True:
        try:
            for worker_id, rescued in await database.run(calls.rescue()):
                log.warning("a worker was lost; its tasks run elsewhere", worker_id=worker_id, tasks=rescued)
            if time.monotonic() >= tidy_at:
                tidy_at = time.monotonic() + MAINTAIN_S
                await database.run(calls.maintain(settings.partition_days_ahead))
                while await database.run(calls.step_abandoned()) is not None:
                    pass
        except DatabaseUnavailable as error:
            log.debug("maintenance waits for the database", error=str(error))
        except PgqueueError as error:
            log.warning("maintenance failed; it is tried again", error=str(error))
        await asyncio.sleep(settings.lease_s / 6 * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
