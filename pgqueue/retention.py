"""Old history goes: whole days are dropped, and what remains is deleted in small batches.

Nobody who finishes a task waits for it: the owner of the tables detaches a day concurrently, every statement
gives up after a fifth of a second and is tried again, and batches leave the machine to others in between. What
to do next is said by one generator, for async and blocking services.
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from pgqueue import calls
from pgqueue.calls import Call, Keep
from pgqueue.calls.keeping import checked_age
from pgqueue.database import translated
from pgqueue.errors import PgqueueError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from pgqueue.calls import Expired, Partition, Pass
    from pgqueue.database import Database, SyncDatabase
    from pgqueue.settings import Settings

    Steps = Generator["Step", Any, int]

__all__ = ["cleanup", "cleanup_sync"]

LOCK_TIMEOUT = "set lock_timeout = '200ms'"
TRIES = 25
PAUSE_S = 0.05
REST = 1.0
"""How long to rest after a batch, in multiples of the time it took."""
AT_ONCE = 90
"""How many tables are dropped in one transaction; each takes a lock, and one for each of its indexes."""
IN_THE_WAY = {"55P03", "40P01", "55000", "42P01", "42704"}
"""Locked, deadlocked, or just being removed by somebody else."""
NOT_OURS = "42501"
EVERY = timedelta(minutes=10)
log = structlog.get_logger()


class Statement(NamedTuple):
    """Run this, in autocommit mode, on one dedicated direct connection."""

    text: str


class Wait(NamedTuple):
    """Wait so many seconds."""

    seconds: float


Step = Call[Any] | Statement | Wait
"""Answers are sent in, errors thrown in; the removed count is the generator's own return value."""


def _steps(age: timedelta | None, settings: Settings, *, every: timedelta, direct: bool) -> Steps:
    """Say what to do next; returns how many tasks went."""
    if age is None:
        keep = Keep(*(timedelta(days=days) for days in _days_kept(settings)))
        plan: Pass | None = yield calls.begin_retention(keep, every)
    else:
        keep = Keep(*(checked_age(age),) * 3)
        plan = yield calls.plan_cleanup(age)
    if plan is None:
        return 0
    removed = yield from _drop_days(plan, direct=direct)
    skipped = 0
    for day in plan.days:
        after_id: int | None = None
        while True:
            started = time.monotonic()
            batch: Expired = yield calls.expire(day, after_id, keep, by_queue=age is None)
            removed += batch.removed
            skipped += batch.skipped
            after_id = batch.last_id
            if after_id is None:
                break
            yield Wait((time.monotonic() - started) * REST)
    if age is None and not skipped:
        yield calls.end_retention(plan.started_at)
    return removed


def _days_kept(settings: Settings) -> tuple[float, float, float]:
    return settings.keep_completed_days, settings.keep_failed_days, settings.keep_cancelled_days


def _drop_days(plan: Pass, *, direct: bool) -> Steps:
    """Remove the days that are over; asks again what is left where one is in the way, which then may have gone on."""
    yield from _count_what_goes(plan)
    if direct:
        yield Statement(LOCK_TIMEOUT)
    removed = 0
    tries = TRIES
    while partitions := (yield calls.partitions_before(plan.drop_before)):
        if not tries:
            log.info("a day of history is in use and stays for now", partition=partitions[0].name)
            break
        try:
            size = AT_ONCE if direct else 1
            for first in range(0, len(partitions), size):
                some = partitions[first : first + size]
                if direct:
                    yield from _detach(some)
                removed += yield calls.drop_days([partition.name for partition in some])
                tries = TRIES
        except PgqueueError as error:
            if error.sqlstate == NOT_OURS and direct:
                log.info("this database user does not own pgqueue's tables; days of history are dropped by a function")
                direct = False
            elif error.sqlstate in IN_THE_WAY:
                tries -= 1
                yield Wait(PAUSE_S)
            else:
                raise
    return removed


def _count_what_goes(plan: Pass) -> Generator[Step, Any, None]:
    """Let statistics count what ended, a day at a time: days are dropped after that only."""
    mark, tries = None, TRIES
    while tries and (mark is None or mark < plan.drop_before):
        before, mark = mark, (yield calls.fold_statistics())
        if mark is None or mark == before:
            tries -= 1
            yield Wait(PAUSE_S)


def _detach(partitions: Iterable[Partition]) -> Generator[Step, Any, None]:
    for partition in partitions:
        if partition.detach is not None:
            yield Statement(partition.detach)


async def cleanup(
    database: Database,
    age: timedelta | None = None,
    *,
    settings: Settings | None = None,
    every: timedelta = timedelta(0),
) -> int:
    """Remove what finished longer than `age` ago, or None: what was kept for as long as queues and settings say.

    Returns how many tasks. The latter is left to whoever did it within `every`. A day that somebody reads just
    now is left for the next time. Raises InvalidInput for a negative age.
    """
    direct = database.listen_dsn is not None
    steps = _steps(age, settings or database.settings, every=every, direct=direct)
    answer, error, conn = None, None, None
    try:
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return int(end.value)
            answer, error = None, None
            try:
                if isinstance(step, Wait):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Call):
                    answer = await database.run(step)
                else:
                    conn = conn or await database.connect(database.listen_dsn)
                    with translated():
                        await conn.execute(step.text.encode())
            except PgqueueError as caught:
                error = caught
    finally:
        if conn is not None:
            await conn.close()


def cleanup_sync(database: SyncDatabase, age: timedelta | None = None) -> int:
    """As `cleanup`, blocking."""
    direct = database.listen_dsn is not None
    steps = _steps(age, database.settings, every=timedelta(0), direct=direct)
    answer, error, conn = None, None, None
    try:
        while True:
            try:
                step = steps.send(answer) if error is None else steps.throw(error)
            except StopIteration as end:
                return int(end.value)
            answer, error = None, None
            try:
                if isinstance(step, Wait):
                    time.sleep(step.seconds)
                elif isinstance(step, Call):
                    answer = database.run(step)
                else:
                    conn = conn or database.connect(database.listen_dsn)
                    with translated():
                        conn.execute(step.text.encode())
            except PgqueueError as caught:
                error = caught
    finally:
        if conn is not None:
            conn.close()
