"""Old history goes: whole days are detached and dropped, what remains is deleted.

Nobody who finishes a task waits for it: detaching is concurrent, and every statement gives up after a
fifth of a second and is tried again.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta

import psycopg
import structlog

from pgqueue import calls
from pgqueue.calls import Partition
from pgqueue.database import Database

__all__ = ["cleanup"]

LOCK_TIMEOUT = "set lock_timeout = '200ms'"
TRIES = 25
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
log = structlog.get_logger()


async def cleanup(database: Database, age: timedelta) -> int:
    """Remove what finished longer than `age` ago; return how many tasks.

    A day that somebody reads just now is left for the next time. Raises InvalidInput for a negative age.
    """
    if age < timedelta(0):
        return await database.run(calls.cleanup(age))
    removed = 0
    for partition in await database.run(calls.partitions_older(age)):
        rows = await database.run(calls.partition_rows(partition.name)) if partition.parent == "finished_tasks" else 0
        if await _drop(database, partition):
            removed += rows
    return removed + await database.run(calls.cleanup(age))


async def _drop(database: Database, partition: Partition) -> bool:
    conn = await database.connect()
    async with conn:
        await conn.execute(LOCK_TIMEOUT)
        for statement in partition.statements:
            if not await _insist(conn, statement):
                log.info("a day of history is in use and stays for now", partition=partition.name)
                return False
    return True


async def _insist(conn: psycopg.AsyncConnection[tuple[object, ...]], statement: str) -> bool:
    for _ in range(TRIES):
        try:
            await conn.execute(statement.encode())
        except BUSY:
            await asyncio.sleep(0.05)
        except psycopg.errors.ObjectNotInPrerequisiteState:
            return False
        else:
            return True
    return False
