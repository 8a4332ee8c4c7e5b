"""Schedules are fired: what is due is taken, planned, and proposed to the database, which decides.

Any number of schedulers may run, one in each worker among them. They share what is due by SKIP LOCKED; that no
tick is fired twice rests on the compare-and-swap and the key of the ticks in SQL alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import structlog

from pgqueue import calls
from pgqueue.cron import cron_of
from pgqueue.errors import DatabaseUnavailable, InvalidInput, PgqueueError
from pgqueue.listen import hub_of

if TYPE_CHECKING:
    from pgqueue.cron import Cron
    from pgqueue.database import Database
    from pgqueue.models import DueSchedule

__all__ = ["Scheduler", "plan"]

GRACE = timedelta(minutes=1)
"""A tick that is fired within it is on time, not missed."""
MOMENT = timedelta(microseconds=1)
MOST_TICKS = 500
BATCH = 100
POLL_S = 1.0
QUEUED_POLL_S = 0.25
LASTING = ("QU", "22", "23")
"""SQLSTATE classes of errors that would come again: the schedule is marked instead of tried again."""
log = structlog.get_logger()

Plan = dict[str, object]


def plan(due: DueSchedule) -> Plan:
    """Work out what becomes of a schedule's ticks up to `due.now`, and which one is next.

    Ticks are on time within GRACE; older ones are dealt with as `missed` says, see docs/schedules.md.
    """
    made: Plan = {"id": due.id, "revision": due.revision, "next_run_at": due.next_run_at}
    try:
        cron = cron_of(due.cron_expr, due.time_zone)
    except InvalidInput as error:
        return made | {"error": error.message}
    since = due.since if due.next_run_at is None else due.next_run_at - MOMENT
    if due.starts_at is not None:
        since = max(since, due.starts_at - MOMENT)
    end = due.now if due.ends_at is None else min(due.now, due.ends_at)
    begin = max(since, _first_that_counts(due))
    ticks, following = _walk(cron, begin, end)
    if begin > since:
        if due.missed == "once" and not ticks:
            newest = cron.newest(max(since, due.now - timedelta(seconds=due.catch_up_window)), end)
            ticks = [] if newest is None else [newest]
        made |= _passed_over(cron, due, since, ticks[0] if ticks else end)
    if following is not None and due.ends_at is not None and following > due.ends_at:
        following = None
    return made | {"ticks": ticks, "next": following}


def _first_that_counts(due: DueSchedule) -> datetime:
    """Before it, `missed` lets nothing be fired, or no more than one."""
    on_time = due.now - GRACE
    return min(on_time, due.now - timedelta(seconds=due.catch_up_window)) if due.missed == "all" else on_time


def _walk(cron: Cron, begin: datetime, end: datetime) -> tuple[list[datetime], datetime | None]:
    """Return the ticks after `begin` up to `end`, at most MOST_TICKS, and the one that follows."""
    ticks: list[datetime] = []
    for tick in cron.after(begin):
        if tick > end or len(ticks) == MOST_TICKS:
            return ticks, tick
        ticks.append(tick)
    return ticks, None


def _passed_over(cron: Cron, due: DueSchedule, since: datetime, until: datetime) -> Plan:
    """Say from when to when ticks were missed for good; nothing where none was."""
    first = cron.next(since)
    if first is None or first >= until or first > due.now - GRACE:
        return {}
    reasons = {"skip": "missed", "once": "missed; a later one stands for it", "all": "missed too long ago to catch up"}
    return {"skipped_from": first, "skipped_until": until, "why": reasons[due.missed]}


class Scheduler:
    """Fires what is due, until it is stopped."""

    def __init__(self, database: Database) -> None:
        """Connects on `run`."""
        self._database = database
        self._woken = asyncio.Event()
        self._is_stopping = False

    async def run(self) -> None:
        """Fire until `stop`, or until cancelled; a database that is away is waited for."""
        hub = hub_of(self._database)
        await hub.start()
        hub.subscribe("pgqueue_control", self._hear)
        hub.on_reconnect(self._woken.set)
        try:
            while not self._is_stopping:
                self._woken.clear()
                await self._sleep(await self._fire())
        finally:
            hub.unsubscribe("pgqueue_control", self._hear)
            hub.forget_reconnect(self._woken.set)

    def stop(self) -> None:
        """End `run` after what is being fired."""
        self._is_stopping = True
        self._woken.set()

    def _hear(self, order: str) -> None:
        if '"schedules"' in order:
            self._woken.set()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()

    async def _fire(self) -> float:
        """Fire all that is due; return the seconds until it is worth looking again."""
        try:
            due_in, has_queued = await self._database.run(calls.schedules_due_in())
            if has_queued:
                await self._database.run(calls.release_ticks())
            if due_in is not None and due_in <= 0:
                return 0.0 if await self._fire_batch() else QUEUED_POLL_S
        except DatabaseUnavailable as error:
            log.debug("the scheduler waits for the database", error=str(error))
            return POLL_S
        except PgqueueError as error:
            log.warning("schedules could not be fired; it is tried again", error=str(error))
            return POLL_S
        return min(POLL_S if due_in is None else due_in, QUEUED_POLL_S if has_queued else POLL_S)

    async def _fire_batch(self) -> bool:
        """Take some of what is due; False where other schedulers have taken all of it."""
        plans: list[Plan] = []
        try:
            async with self._database.connection() as conn, conn.transaction():
                due = await self._database.run(calls.due_schedules(BATCH), conn)
                plans = await asyncio.to_thread(lambda: [plan(each) for each in due])
                await self._database.run(calls.fire_schedules(plans), conn)
        except PgqueueError as error:
            if not (error.sqlstate or "").startswith(LASTING):
                raise
            await self._fire_singly(plans)
        return bool(plans)

    async def _fire_singly(self, plans: list[Plan]) -> None:
        """One schedule of a batch cannot be fired: it is marked with the reason, and the others go on."""
        for each in plans:
            try:
                await self._database.run(calls.fire_schedules([each]))
            except PgqueueError as error:
                if not (error.sqlstate or "").startswith(LASTING):
                    raise
                log.warning("a schedule cannot be fired", schedule_id=each["id"], error=str(error))
                kept = {name: each[name] for name in ("id", "revision", "next_run_at")}
                await self._database.run(calls.fire_schedules([kept | {"error": error.message}]))
