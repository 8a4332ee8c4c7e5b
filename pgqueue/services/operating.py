"""Changing many tasks: whoever asked makes one step after another; what is the same for async and blocking."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable, PgqueueError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgqueue.database import Database
    from pgqueue.models import Operation

__all__ = ["drive", "has_to_wait"]

BATCH = 500
PAUSE_S = 0.1


def has_to_wait(last: Operation | None, now: Operation) -> bool:
    """Whether a step changed nothing: another one drives it, or others hold the tasks that are left."""
    return (last is not None and last.stepped_at == now.stepped_at) or (now.busy > 0 and now.percent >= 100)


async def drive(database: Database, operation_id: int, rest: float = 0.0) -> AsyncIterator[Operation]:
    """Make an operation's steps until it ends, yielding how far it is after each.

    `rest` is the pause between steps, in multiples of the time that the last one took. Raises what a step raises:
    the operation has failed then, except where the database cannot be reached.
    """
    last: Operation | None = None
    clock = asyncio.get_running_loop()
    while last is None or not last.is_final:
        started = clock.time()
        try:
            now = await database.run(calls.step_operation(operation_id, BATCH))
        except DatabaseUnavailable:
            raise
        except PgqueueError as error:
            await database.run(calls.fail_operation(operation_id, str(error)))
            raise
        yield now
        if not now.is_final:
            await asyncio.sleep(PAUSE_S if has_to_wait(last, now) else (clock.time() - started) * rest)
        last = now
