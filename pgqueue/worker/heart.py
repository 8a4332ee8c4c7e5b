"""The heartbeat: a thread and a connection of its own, so that a blocked event loop is no death.

It tells the database which claims are open and brings back orders. It also watches the loop, and names
the handler that blocks it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg
import structlog

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable, PgqueueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.database import SyncDatabase
    from pgqueue.models import Orders
    from pgqueue.worker.ledger import Ledger

__all__ = ["Heart", "boottime"]

BLOCKED_S = 1.0
log = structlog.get_logger()


def boottime() -> float:
    """Seconds on a clock that goes on while the machine sleeps and never jumps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Heart:
    """Beats every `interval_s` until stopped; `on_beat` and `on_blocked` are called in its thread."""

    def __init__(  # noqa: PLR0913 - what a heartbeat carries
        self,
        *,
        database: SyncDatabase,
        worker_id: int,
        ledger: Ledger,
        interval_s: float,
        status: Callable[[], dict[str, Any]],
        on_beat: Callable[[Orders], None],
        on_blocked: Callable[[float], None],
    ) -> None:
        """`status` is what the worker says of itself; it is called in the heart's thread."""
        self.last_good = boottime()
        self.loop_seen = time.monotonic()
        self._database = database
        self._worker_id = worker_id
        self._ledger = ledger
        self._interval_s = interval_s
        self._status = status
        self._on_beat = on_beat
        self._on_blocked = on_blocked
        self._soon = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="pgqueue-heart", daemon=True)

    def start(self) -> None:
        """Start beating."""
        self._thread.start()

    def beat_soon(self) -> None:
        """Beat at once: a claim's answer was lost."""
        self._soon.set()

    def fall_silent(self) -> None:
        """Beat no more, from any thread; at once, but for a beat that is under way."""
        self._stopped = True
        self._soon.set()

    def stop(self) -> None:
        """Stop beating; returns when the thread has ended, or after two seconds."""
        self.fall_silent()
        self._thread.join(2)

    def _run(self) -> None:
        conn: psycopg.Connection[Any] | None = None
        due = 0.0
        while not self._stopped:
            if self._soon.is_set() or time.monotonic() >= due:
                self._soon.clear()
                conn, succeeded = self._beat(conn)
                due = time.monotonic() + (self._interval_s if succeeded else min(0.5, self._interval_s))
            self._watch_loop()
            self._soon.wait(min(0.25, max(0.0, due - time.monotonic())))
        if conn is not None:
            conn.close()

    def _beat(self, conn: psycopg.Connection[Any] | None) -> tuple[psycopg.Connection[Any] | None, bool]:
        sent_at = boottime()
        last, open_claims = self._ledger.open_claims()
        try:
            if conn is None or conn.closed:
                conn = self._database.connect()
            if self._stopped:
                return conn, True
            orders = self._database.run(calls.heartbeat(self._worker_id, last, open_claims, self._status()), conn=conn)
        except PgqueueError as error:
            if not isinstance(error, DatabaseUnavailable):
                log.warning("heartbeat failed", error=str(error))
            if conn is not None:
                with contextlib.suppress(psycopg.Error):
                    conn.close()
            return None, False
        if not orders.is_lost:
            self.last_good = sent_at
        self._on_beat(orders)
        return conn, True

    def _watch_loop(self) -> None:
        lag = time.monotonic() - self.loop_seen
        if lag > BLOCKED_S:
            self._on_blocked(lag)
