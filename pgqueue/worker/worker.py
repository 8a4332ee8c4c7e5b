"""A worker process: lives one session after another until it is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from pgqueue import __version__, calls, schema
from pgqueue.database import SyncDatabase
from pgqueue.errors import ConfigurationError, DatabaseUnavailable
from pgqueue.listen import cancel_all, hub_of
from pgqueue.log import configure
from pgqueue.scheduler import Scheduler
from pgqueue.worker.executors import Executors
from pgqueue.worker.maintenance import chores
from pgqueue.worker.processes import Processes
from pgqueue.worker.session import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgqueue.database import Database
    from pgqueue.handlers import Registry
    from pgqueue.settings import Settings

__all__ = ["Worker"]

THREADS_END_S = 5.0
DEFAULT_SLOTS = 5
log = structlog.get_logger()


class Worker:
    """Runs the handlers of a registry.

    `slots` maps queues to concurrency; None follows the queue's row. `declared` is written to those rows at the start.
    """

    def __init__(
        self,
        registry: Registry,
        database: Database,
        settings: Settings,
        slots: Mapping[str, int | None],
        declared: Mapping[str, int] | None = None,
    ) -> None:
        """Raises ConfigurationError where there is nothing to run."""
        if not slots:
            raise ConfigurationError(
                "the worker has no queue to serve", hint="register a queue or a handler, or name queues"
            )
        self._registry = registry
        self._database = database
        self._settings = settings
        self._wanted = dict(slots)
        self._declared = dict(declared or {})
        self._hub = hub_of(database)
        self._session: Session | None = None
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self, *, handle_signals: bool = False, until_idle: bool = False) -> None:
        """Serve until `stop`, a signal, an operator's request, or (`until_idle`) until nothing is due.

        Raises SchemaMismatch for a database that was not migrated, DatabaseUnavailable if it cannot be
        reached at the start; later it is waited for.
        """
        if not structlog.is_configured():
            configure(self._settings.log_level, self._settings.log_format, standard_library=False)
        if handle_signals and threading.current_thread() is threading.main_thread():
            self._listen_to_signals()
        async with self._database.for_as_long():
            async with self._database.connection() as conn:
                await schema.check_async(conn)
            await self._hub.start()
            self._hub.subscribe("pgqueue_wake", self._wake)
            self._hub.subscribe("pgqueue_control", self._control)
            self._hub.on_reconnect(self._reconnected)
            beside = [*chores(self._database, self._settings), Scheduler(self._database).run()]
            helpers = [asyncio.create_task(each) for each in beside]
            try:
                await self._live_on(until_idle=until_idle)
            finally:
                await cancel_all(helpers)
                self._hub.unsubscribe("pgqueue_wake", self._wake)
                self._hub.unsubscribe("pgqueue_control", self._control)
                self._hub.forget_reconnect(self._reconnected)

    async def _live_on(self, *, until_idle: bool) -> None:
        """Live one session after another: after a lost lease, under a new id."""
        pause = 0.1
        while not self._stopping.is_set():
            try:
                await self._live(until_idle=until_idle)
                pause = 0.1
            except DatabaseUnavailable as error:
                log.warning("the worker cannot register; trying again", error=str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, 5.0)
            if until_idle:
                return

    def stop(self) -> None:
        """Claim nothing more, let running tasks end within the grace period; the second call cancels them."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        if self._session is not None:
            self._session.stop()

    async def _live(self, *, until_idle: bool) -> None:
        slots = await self._slots()
        worker_id = await self._database.run(
            calls.register_worker(
                socket.gethostname(), os.getpid(), list(slots), slots, self._settings.lease_s, __version__
            )
        )
        heart_database = SyncDatabase(self._database.dsn, settings=self._settings)
        following = [name for name, count in self._wanted.items() if count is None]
        session = Session(
            worker_id=worker_id,
            registry=self._registry,
            database=self._database,
            heart_database=heart_database,
            hub=self._hub,
            settings=self._settings,
            slots=slots,
            stop_worker=self.stop,
            following=following,
        )
        processes = self._processes(session, slots)
        executors = Executors(processes, session.ended)
        if processes is not None:
            await processes.start()
        log.info("worker started", worker_id=worker_id, queues=slots, wakes="notify" if self._hub.is_alive else "poll")
        self._session = session
        try:
            async with asyncio.TaskGroup() as group:
                waiters = [group.create_task(self._see_to_the_end(session, until_idle=until_idle))]
                await session.run(executors)
                for waiter in waiters:
                    waiter.cancel()
        finally:
            self._session = None
            await executors.stop()
            if not session.is_lost:
                await self._leave(session)

    async def _slots(self) -> dict[str, int]:
        """What each queue gets: the number wanted, or what its row says. A queue that is missing is made."""
        for name, slots in self._declared.items():
            await self._database.run(calls.create_queue(name, concurrency=slots))
        rows = {queue.name: queue.concurrency for queue in await self._database.run(calls.list_queues())}
        for name in self._wanted.keys() - rows.keys():
            await self._database.run(calls.create_queue(name))
            rows[name] = DEFAULT_SLOTS
        return {name: rows[name] if slots is None else slots for name, slots in self._wanted.items()}

    def _processes(self, session: Session, slots: Mapping[str, int]) -> Processes | None:
        queues = {handler.queue_name for handler in self._registry if handler.executor == "process"}
        if not queues:
            return None
        count = sum(slots.get(name, 0) for name in queues) or max(slots.values())
        return Processes(max(1, count), session.report_from_process)

    async def _see_to_the_end(self, session: Session, *, until_idle: bool) -> None:
        """Drain for the grace period, then release what is left; the second signal shortens it."""
        if until_idle:
            await session.idle.wait()
            session.stop()
            return
        await self._stopping.wait()
        log.info("worker stops: it claims nothing more", running=len(session.attempts))
        session.stop()
        try:
            async with asyncio.timeout(self._settings.grace_s):
                await self._hurry.wait()
        except TimeoutError:
            log.info("the grace period is over", running=len(session.attempts))
        session.stop_attempts("released")
        await asyncio.sleep(THREADS_END_S)
        if session.attempts:
            stuck = sorted({attempt.ctx.task_type for attempt in session.attempts.values()})
            log.warning(
                "handlers do not stop; their tasks are released", running=len(session.attempts), task_types=stuck
            )
        session.finish()

    async def _leave(self, session: Session) -> None:
        try:
            released = await self._database.run(calls.stop_worker(session.worker_id))
        except DatabaseUnavailable as error:
            log.warning("the database cannot be told of the stop; tasks are rescued after the lease", error=str(error))
        else:
            log.info("worker stopped", worker_id=session.worker_id, released=released)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def _wake(self, queue_name: str) -> None:
        if self._session is not None:
            self._session.wake(queue_name)

    def _reconnected(self) -> None:
        if self._session is not None:
            self._session.wake_all()

    def _control(self, text: str) -> None:
        """Orders are hints: what counts is in the tables, and comes with the next heartbeat too."""
        session = self._session
        try:
            order: dict[str, Any] = msgspec.json.decode(text, type=dict)
        except msgspec.DecodeError:
            log.warning("an order that is no JSON was ignored", order=text[:200])
            return
        if session is None:
            return
        if order.get("kind") in ("cancel", "stop", "pause", "resume") and order.get("worker_id") == session.worker_id:
            session.heart.beat_soon()
        elif order.get("kind") == "queue" and order.get("queue_name") in self._wanted:
            session.refresh_soon(str(order["queue_name"]))
