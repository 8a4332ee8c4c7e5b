"""One life of a worker: from its registration until it stops, or until its lease is lost.

A worker whose lease was lost is dead to the database: it drops what it held, without settling, and
begins a new life under a new id.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import structlog

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.handlers import Registry, TaskContext
from pgqueue.worker.attempts import Attempt, StopReason
from pgqueue.worker.blocker import Blocker
from pgqueue.worker.exchange import Answer, Claim, Lines, round_trip, settle
from pgqueue.worker.heart import Heart, boottime
from pgqueue.worker.ledger import Ledger
from pgqueue.worker.queue_loop import QueueLoop
from pgqueue.worker.reports import NOTHING, Reports

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from pgqueue.database import Database, SyncDatabase
    from pgqueue.listen import Hub
    from pgqueue.models import Orders
    from pgqueue.settings import Settings
    from pgqueue.worker.executors import Executors

__all__ = ["Session"]

Row = tuple[Any, ...]
TICK_S = 0.05
log = structlog.get_logger()


class Session:
    """Holds the attempts of this life and what the queue loops share."""

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        *,
        worker_id: int,
        registry: Registry,
        database: Database,
        heart_database: SyncDatabase,
        hub: Hub,
        settings: Settings,
        slots: Mapping[str, int],
        stop_worker: Callable[[], None],
        following: Collection[str] = (),
    ) -> None:
        """`slots` maps queues to concurrency, those `following` change with their row; `worker_id` was registered."""
        self.worker_id = worker_id
        self.database = database
        self.hub = hub
        self.settings = settings
        self.is_stopping = False
        self.is_paused = False
        self.is_over = False
        self.is_lost = False
        self.ledger = Ledger()
        self.lines = Lines(database, min(2 * len(slots) + 1, 6))
        self.queues = {name: QueueLoop(self, name, count) for name, count in slots.items()}
        self.attempts: dict[int, Attempt] = {}
        self.idle = asyncio.Event()
        self._idle_queues: set[str] = set()
        loop = asyncio.get_running_loop()
        self.reports = Reports(loop, self._holds)
        self._blocker = Blocker(lambda: self._executors.current if self._executors is not None else None)
        self.heart = Heart(
            database=heart_database,
            worker_id=worker_id,
            ledger=self.ledger,
            interval_s=settings.heartbeat_s,
            status=self._status,
            on_beat=lambda orders: _call(loop, self._obey, orders),
            on_blocked=self._blocker.name,
        )
        self._following = following
        self._stop_worker = stop_worker
        self._registry = registry
        self._loop = loop
        self._executors: Executors | None = None
        self._timeouts: dict[int, float] = {}
        self._unavailable_since: float | None = None
        self._pause = 0.1
        self._over = asyncio.Event()

    async def run(self, executors: Executors) -> None:
        """Serve the queues until `stop` has drained them, or the lease is lost."""
        self._executors = executors
        self.heart.start()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for queue in self.queues.values():
                    group.create_task(queue.run())
                helpers = [group.create_task(self._tick()), group.create_task(self._write_reports())]
                await self._over.wait()
                for helper in helpers:
                    helper.cancel()
        finally:
            await asyncio.to_thread(self.heart.stop)
            await self.lines.close()

    @property
    def takes_nothing(self) -> bool:
        """Whether it claims no more: it stops or is paused."""
        return self.is_stopping or self.is_paused

    # The life of an attempt

    def receive(self, queue: QueueLoop, rows: Sequence[Row], claim_no: int) -> list[Attempt]:
        """Make attempts of a claimed batch."""
        self._idle_queues.clear()
        name, reports, attempts = queue.name, self.reports, self.attempts
        batch = []
        for row in rows:
            attempt = Attempt(TaskContext(row, name, reports), self._registry.find(row[4]), claim_no, queue)
            attempts[row[0]] = attempt
            batch.append(attempt)
        if self.is_lost:
            for attempt in batch:
                attempt.stop("lost")
        return batch

    def begin(self, batch: Sequence[Attempt]) -> None:
        """Start the handlers of attempts that got slots; from here on their timeouts count."""
        assert self._executors is not None  # noqa: S101 - run() was given them
        for attempt in batch:
            if attempt.ctx.row[6] is not None:
                self._timeouts[attempt.ctx.row[0]] = time.monotonic() + attempt.ctx.row[6]
        self._executors.start(batch)

    def ended(self, attempt: Attempt) -> None:
        """A handler is over: hand its end to its queue, unless the lease is lost."""
        task_id = attempt.ctx.row[0]
        if self._timeouts and self.attempts.get(task_id) is attempt:
            self._timeouts.pop(task_id, None)
        if attempt.home is None:
            return
        if self.is_over or attempt.stop_reason == "lost":
            self.forget(attempt)
            attempt.home.dropped(attempt)
        else:
            attempt.home.ended(attempt)

    async def exchange(self, ended: Sequence[Attempt], claim: Claim | None) -> Answer:
        """One round trip; what ended attempts reported goes before their end."""
        reporters = [a.ctx for a in ended if a.ctx in self.reports.reporters] if self.reports.reporters else []
        if not reporters:
            async with self.lines.take() as conn:
                return await round_trip(conn, ended, NOTHING, claim)
        async with self.reports.writing, self.lines.take() as conn:
            batch = self.reports.take(reporters)
            try:
                return await round_trip(conn, ended, batch, claim)
            except BaseException:
                self.reports.give_back(batch)
                raise

    def settled(self, settled: Sequence[Attempt], late: Sequence[Attempt]) -> None:
        """These attempts are settled; the late ones are to be settled singly."""
        self._unavailable_since = None
        for attempt in settled:
            self.forget(attempt)
        if late:
            self._group.create_task(self.settle_one_by_one(late))
        elif self.is_stopping and not self.attempts:
            self.finish()

    def forget(self, attempt: Attempt) -> None:
        """This attempt is over. Its task may run here again already, in another attempt."""
        task_id = attempt.ctx.row[0]
        if self.attempts.get(task_id) is attempt:
            del self.attempts[task_id]
        self.ledger.settled(attempt.claim_no)
        if attempt.span is not None:
            attempt.span.settled()
        if self.reports.reporters:
            self.reports.forget(attempt.ctx)

    async def settle_one_by_one(self, ended: Sequence[Attempt]) -> None:
        """Settle attempts singly, waiting for whoever holds their rows; at last without their result."""
        for attempt in ended:
            await self._settle_one(attempt)
            self.forget(attempt)
        if self.is_stopping and not self.attempts:
            self.finish()

    async def _settle_one(self, attempt: Attempt) -> None:
        reports = self.reports.take([attempt.ctx])
        about = {"task_id": attempt.ctx.task_id, "attempt": attempt.ctx.attempt}
        is_bare = False
        while not self.is_over:
            try:
                async with self.reports.writing, self.lines.take() as conn:
                    if not await settle(conn, attempt, reports):
                        log.warning("the lease was lost before the task's end was settled", **about)
                    return
            except DatabaseUnavailable as error:
                await self.wait_for_database(error)
            except PgqueueError as error:
                log.warning("a task's end cannot be written as it is", error=str(error), **about)
                if is_bare:
                    return
                is_bare, reports = True, NOTHING
                attempt.replace_what_cannot_be_written(error)

    # Stopping and losing

    def stop(self) -> None:
        """Claim nothing more; what runs goes on, what was claimed ahead goes back."""
        self.is_stopping = True
        self._release_waiting()
        self.wake_all()
        if not self.attempts:
            self.finish()

    def _obey_pause(self, is_paused: bool) -> None:  # noqa: FBT001 - on or off
        """What runs goes on, what was claimed ahead goes back."""
        self.is_paused = is_paused
        log.info("worker is paused" if is_paused else "worker is resumed", worker_id=self.worker_id)
        if is_paused:
            self._release_waiting()
        self.wake_all()

    def _release_waiting(self) -> None:
        for queue in self.queues.values():
            queue.release_waiting()

    def stop_attempts(self, reason: StopReason) -> None:
        """Ask every handler to stop."""
        for attempt in list(self.attempts.values()):
            attempt.stop(reason)
        self._release_waiting()

    def lose(self) -> None:
        """The lease is lost: stop everything, settle nothing."""
        if not self.is_lost:
            self.is_lost = True
            self.heart.fall_silent()
            log.error(
                "this worker's lease was lost: its handlers are stopped and their tasks run elsewhere",
                worker_id=self.worker_id,
            )
            self.stop_attempts("lost")
            self.finish()

    def finish(self) -> None:
        """End this life."""
        self.is_over = True
        self.is_stopping = True
        self._over.set()
        self.wake_all()

    def wake(self, queue_name: str) -> None:
        """A notification for a queue came."""
        queue = self.queues.get(queue_name)
        if queue is not None:
            queue.wake()

    def note_idle(self, queue: QueueLoop) -> None:
        """A queue has nothing to do; `idle` is set once that is true of all that have slots."""
        self._idle_queues.add(queue.name)
        with_slots = {name for name, other in self.queues.items() if other.slots > 0}
        if not self.attempts and with_slots <= self._idle_queues:
            self.idle.set()

    def refresh_soon(self, queue_name: str) -> None:
        """A queue's settings changed."""
        if not self.is_over:
            self._group.create_task(self._refresh(queue_name))

    async def _refresh(self, queue_name: str) -> None:
        queue = self.queues[queue_name]
        try:
            rows = await self.database.run(calls.list_queues())
        except PgqueueError as error:
            log.warning("a queue's new settings could not be read", queue=queue_name, error=str(error))
            return
        for row in rows:
            if row.name == queue_name and queue_name in self._following:
                queue.line.slots = row.concurrency
                queue.line.move()
        queue.wake()

    def report_from_process(self, report: Mapping[str, Any]) -> None:
        """Progress or a log line of a handler that runs in a process."""
        attempt = self.attempts.get(report["task_id"])
        if attempt is None or attempt.ctx.attempt != report["attempt"]:
            return
        if "progress" in report:
            self.reports.report_progress(attempt.ctx, report["progress"])
        else:
            self.reports.report_line(attempt.ctx, *report["line"])

    def wake_all(self) -> None:
        """Notifications may be lost, or what may be claimed has changed."""
        for queue in self.queues.values():
            queue.wake()

    def cancel(self, task_ids: Iterable[int]) -> None:
        """Cancel these tasks where they run here."""
        for task_id in task_ids:
            attempt = self.attempts.get(task_id)
            if attempt is not None:
                attempt.stop("cancelled")

    def _holds(self, ctx: TaskContext) -> bool:
        attempt = self.attempts.get(ctx.row[0])
        return attempt is not None and attempt.ctx is ctx and not self.is_lost

    def _obey(self, orders: Orders) -> None:
        if orders.is_lost:
            self.lose()
        elif orders.stop_requested and not self.is_stopping:
            self._stop_worker()
        elif orders.is_paused != self.is_paused:
            self._obey_pause(orders.is_paused)
        self.cancel(orders.cancel_ids)

    # What goes on beside the queues

    async def _tick(self) -> None:
        """Twenty times a second: deadlines, and the worker's own fence."""
        while not self.is_over:
            self.heart.loop_seen = time.monotonic()
            self._blocker.turned()
            if boottime() - self.heart.last_good > self.settings.lease_s:
                self.lose()
            if self._timeouts:
                self._stop_the_late(time.monotonic())
            for queue in self.queues.values():
                queue.release_stuck()
            await asyncio.sleep(TICK_S)

    def _stop_the_late(self, now: float) -> None:
        for task_id in [task_id for task_id, deadline in self._timeouts.items() if deadline <= now]:
            del self._timeouts[task_id]
            if task_id in self.attempts:
                self.attempts[task_id].stop("timed_out")

    async def _write_reports(self) -> None:
        while not self.is_over:
            await self.reports.wait()
            async with self.reports.writing:
                batch = self.reports.take()
                try:
                    await self._write(batch.progress_json(), batch.lines_json())
                except DatabaseUnavailable:
                    self.reports.give_back(batch)
                    await asyncio.sleep(1)
                except PgqueueError as error:
                    log.warning("reports could not be written", error=str(error))

    async def _write(self, progress: str | None, lines: str | None) -> None:
        if progress is not None:
            lost = await self.database.run(calls.report_progress(progress))
            self._lose_tasks(lost)
        if lines is not None:
            await self.database.run(calls.write_logs(lines))

    def _lose_tasks(self, task_ids: Iterable[int]) -> None:
        for task_id in task_ids:
            attempt = self.attempts.get(task_id)
            if attempt is not None:
                attempt.stop("lost")

    async def wait_for_database(self, error: PgqueueError) -> None:
        """Wait with backoff and jitter; say so once."""
        if self._unavailable_since is None:
            self._unavailable_since = time.monotonic()
            self._pause = 0.1
            log.warning("the database cannot be reached; trying again", error=str(error))
        else:
            self._pause = min(self._pause * 1.5, 5.0)
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def _status(self) -> dict[str, Any]:
        return {
            "listener": self.hub.is_alive,
            "wakes": "notify" if self.hub.is_alive else "poll",
            "running": len(self.attempts),
            "stopping": self.is_stopping,
            "loop_lag_ms": round(max(0.0, time.monotonic() - self.heart.loop_seen - TICK_S) * 1000),
        }


def _call(loop: asyncio.AbstractEventLoop, function: Any, *arguments: Any) -> None:  # noqa: ANN401 - any callback
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *arguments)
