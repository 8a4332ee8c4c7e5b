"""Old history goes: whole days are detached and dropped, what remains is deleted.

Nobody who finishes a task waits for it: detaching is concurrent, and every statement gives up after a
fifth of a second and is tried again. What to do next is said by one generator, for async and blocking services.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import structlog

from pgqueue import calls
from pgqueue.calls import Call
from pgqueue.database import translated
from pgqueue.errors import SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Generator
    from datetime import timedelta

    from pgqueue.calls import Partition
    from pgqueue.database import Database, SyncDatabase

__all__ = ["cleanup", "cleanup_sync"]

LOCK_TIMEOUT = "set lock_timeout = '200ms'"
TRIES = 25
PAUSE_S = 0.05
BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
GONE = (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedObject)
TAKEN = psycopg.errors.ObjectNotInPrerequisiteState
REPORTED: tuple[type[psycopg.Error], ...] = (*BUSY, *GONE, TAKEN)
CAUGHT: tuple[type[Exception], ...] = (*REPORTED, SchemaMismatch)
log = structlog.get_logger()


class Statement(NamedTuple):
    """Run this, in autocommit mode, on the one dedicated connection; an error of PostgreSQL's is thrown in."""

    text: str


class Wait(NamedTuple):
    """Wait so many seconds."""

    seconds: float


Step = Call[Any] | Statement | Wait
"""Answers are sent in; the removed count is the generator's own return value."""


def _steps(age: timedelta) -> Generator[Step, Any, int]:
    """Say what to do next, until all that is older than `age` is gone; returns how many tasks went."""
    removed = 0
    partitions: list[Partition] = yield calls.partitions_older(age)
    if partitions:
        yield Statement(LOCK_TIMEOUT)
    for partition in partitions:
        rows = yield from _rows(partition)
        if (yield from _drop(partition)):
            removed += rows
        else:
            log.info("a day of history is in use and stays for now", partition=partition.name)
    left: int = yield calls.cleanup(age)
    return removed + left


def _rows(partition: Partition) -> Generator[Step, Any, int]:
    """Count the tasks of a day; none where another session has just dropped it."""
    if partition.parent != "finished_tasks":
        return 0
    try:
        return int((yield calls.partition_rows(partition.name)))
    except SchemaMismatch:
        return 0


def _drop(partition: Partition) -> Generator[Step, Any, bool]:
    for statement in partition.statements:
        if not (yield from _insist(statement)):
            return False
    return True


def _insist(statement: str) -> Generator[Step, Any, bool]:
    """Try for a few seconds; False where somebody holds it, or does the same just now."""
    for _ in range(TRIES):
        try:
            yield Statement(statement)
        except BUSY:
            yield Wait(PAUSE_S)
        except (TAKEN, *GONE):
            return False
        else:
            return True
    return False


async def cleanup(database: Database, age: timedelta) -> int:
    """Remove what finished longer than `age` ago; return how many tasks.

    A day that somebody reads just now is left for the next time. Raises InvalidInput for a negative age.
    """
    steps, answer, error = _steps(age), None, None
    async with await database.connect(database.listen_dsn) as conn:
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return int(end.value)
            answer, error = None, None
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
                continue
            try:
                with translated(REPORTED):
                    if isinstance(step, Call):
                        answer = await database.run(step)
                    else:
                        await conn.execute(step.text.encode())
            except CAUGHT as caught:
                error = caught


def cleanup_sync(database: SyncDatabase, age: timedelta) -> int:
    """As `cleanup`, blocking."""
    steps, answer, error = _steps(age), None, None
    with database.connect(database.listen_dsn) as conn:
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return int(end.value)
            answer, error = None, None
            if isinstance(step, Wait):
                time.sleep(step.seconds)
                continue
            try:
                with translated(REPORTED):
                    if isinstance(step, Call):
                        answer = database.run(step)
                    else:
                        conn.execute(step.text.encode())
            except CAUGHT as caught:
                error = caught
