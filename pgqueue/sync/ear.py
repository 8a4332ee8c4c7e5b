"""Following a task from a plain thread: a LISTEN connection of its own, for as long as the thread waits."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Self

import structlog
from psycopg import sql

from pgqueue import calls
from pgqueue.database import SyncDatabase, translated
from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.listen import EVENTS, KEEP_S, PROBE_S, events_of
from pgqueue.models import TaskProgress
from pgqueue.services.following import Pause, closed, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

__all__ = ["Ear", "changes", "follow_progress"]

SLICE_S = 0.2
TRY_S = 1.0
LEAVE_S = 2.0
log = structlog.get_logger()


class Ear:
    """Hears the events of one task. As long as it is not alive, its owner must look for itself."""

    def __init__(self, db: SyncDatabase, task_id: int) -> None:
        """Connects on entering."""
        self.is_alive = False
        self.generation = 0
        self._db = db
        self._task_id = task_id
        self._hub_id = str(uuid.uuid4())
        self._probe_channel = "pgqueue_probe_" + self._hub_id.replace("-", "")
        self._conn: psycopg.Connection[Any] | None = None
        self._is_heard = False
        self._tried_at = self._probed_at = self._renewed_at = float("-inf")
        self._over = threading.Event()
        self._gone = threading.Event()
        self._owner = 0

    def __enter__(self) -> Self:
        """Follow the task. Raises DatabaseUnavailable."""
        self._owner = threading.get_ident()
        self._db.before_close(self._close)
        self._renew()
        with contextlib.suppress(DatabaseUnavailable):
            self._try_to_connect()
        return self

    def __exit__(self, *_error: object) -> None:
        """Follow it no more."""
        self._db.forget_closer(self._close)
        self._drop()
        with contextlib.suppress(PgqueueError):
            self._db.run(calls.unfollow(self._hub_id))
        self._gone.set()

    @property
    def is_stopped(self) -> bool:
        """True once the database is closed or `stop` was called."""
        return self._over.is_set()

    def stop(self) -> None:
        """Make `wait` return within a fraction of a second; for other threads."""
        self._over.set()

    def _close(self) -> None:
        """The database is about to be closed: wait until the ear's owner has left it."""
        self.stop()
        if threading.get_ident() != self._owner:
            self._gone.wait(LEAVE_S)

    def wait(self, seconds: float) -> None:
        """Wait for an event, a change of `generation`, or so many seconds."""
        deadline = time.monotonic() + seconds
        try:
            self._see_to_it()
            if self._conn is None:
                self._over.wait(seconds)
                return
            while not self._hear(self._conn, min(SLICE_S, deadline - time.monotonic())):
                if self.is_stopped or time.monotonic() >= deadline:
                    return
        except DatabaseUnavailable as error:
            log.debug("the listener of a task is cut off; it is polled for", task_id=self._task_id, error=str(error))
            self._drop()
            self._over.wait(min(SLICE_S, seconds))

    def _see_to_it(self) -> None:
        """Connect again, probe and renew what is due."""
        now = time.monotonic()
        if self._conn is None and now - self._tried_at > TRY_S:
            self._try_to_connect()
        if self._conn is not None and now - self._probed_at > PROBE_S:
            self._probe()
        if now - self._renewed_at > KEEP_S:
            self._renew()

    def _try_to_connect(self) -> None:
        dsn = self._db.listen_dsn
        self._tried_at = time.monotonic()
        if dsn is None:
            return
        conn = self._db.connect(dsn)
        try:
            with translated():
                for channel in (EVENTS, self._probe_channel):
                    conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
            self._renew()
            self._is_heard = True
            self._probe()
        except BaseException:
            conn.close()
            raise
        self._conn = conn

    def _probe(self) -> None:
        """Send a word to oneself, which makes the ear alive. Raises DatabaseUnavailable if the last was unheard."""
        if not self._is_heard:
            raise DatabaseUnavailable(
                "LISTEN does not get through", hint="set PGQUEUE_LISTEN_DSN to a direct connection"
            )
        self._is_heard, self._probed_at = False, time.monotonic()
        self._db.run(calls.notify(self._probe_channel, "probe"))

    def _renew(self) -> None:
        self._renewed_at = time.monotonic()
        self._db.run(calls.follow(self._hub_id, "task", self._task_id))

    def _hear(self, conn: psycopg.Connection[Any], seconds: float) -> bool:
        """Listen for a while; tell whether there was news."""
        is_news = False
        with translated():
            for notify in conn.notifies(timeout=max(0.0, seconds), stop_after=1):
                is_news = self._is_news(notify)
        return is_news

    def _is_news(self, notify: psycopg.Notify) -> bool:
        if notify.channel != self._probe_channel:
            return any(event.task_id == self._task_id for event in events_of(notify.payload))
        self._is_heard = True
        if self.is_alive:
            return False
        self.is_alive = True
        self.generation += 1
        return True

    def _drop(self) -> None:
        conn, self._conn, self.is_alive = self._conn, None, False
        if conn is not None:
            conn.close()


def changes(db: SyncDatabase, task_id: int, *, deadline: float | None = None) -> Iterator[TaskProgress]:
    """Yield the state of a task now and after every change, until it is final or the deadline (monotonic) is over.

    Raises TaskNotFound, and DatabaseUnavailable after a minute without the database or when it is closed.
    """
    progress = db.run(calls.get_progress(task_id))
    yield progress
    if not progress.is_final:
        with Ear(db, task_id) as ear:
            yield from listen(db, ear, task_id, deadline)


def listen(db: SyncDatabase, ear: Ear, task_id: int, deadline: float | None) -> Iterator[TaskProgress]:
    """Follow the protocol of `watch` in this thread."""
    steps = watch(task_id, ear)
    step = next(steps, None)
    while step is not None:
        answer: Any = None
        if ear.is_stopped:
            raise closed(task_id)
        if isinstance(step, TaskProgress):
            yield step
        elif isinstance(step, Pause):
            left = step.seconds if deadline is None else min(step.seconds, deadline - time.monotonic())
            if left <= 0:
                return
            ear.wait(left)
        else:
            try:
                answer = db.run(step)
            except DatabaseUnavailable as error:
                step = steps.throw(error)
                continue
        try:
            step = steps.send(answer)
        except StopIteration:
            return


def follow_progress(db: SyncDatabase, task_id: int) -> Iterator[TaskProgress]:
    """Yield a task's progress whenever it changed; the last one is its final state. Raises TaskNotFound."""
    last: TaskProgress | None = None
    for progress in changes(db, task_id):
        if progress != last:
            last = progress
            yield progress
