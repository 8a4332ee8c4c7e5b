"""The one LISTEN connection of a process: wake-ups, orders and events.

A notification is a hint: whoever waits for one looks for itself after each reconnection, and works by
polling where LISTEN does not get through (a transaction pooler).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import psycopg
import structlog
from psycopg import sql

from pgqueue import calls
from pgqueue.database import Database, translated
from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.models import Event

__all__ = ["EVENTS", "Hub", "Subscription", "hub_of"]

EVENTS = "pgqueue_events"
CHANNELS = ("pgqueue_wake", EVENTS, "pgqueue_control")
PROBE_S = 15.0
PROBE_ANSWER_S = 3.0
KEEP_S = 20.0
MOST_PENDING = 10_000
log = structlog.get_logger()

Callback = Callable[[str], None]


class Hub:
    """Listens, proves itself alive by a notification to itself, and reconnects when it does not come back."""

    def __init__(self, database: Database) -> None:
        """Connects on `start`."""
        self.is_alive = False
        self.generation = 0
        self.reconnects = 0
        self._database = database
        self._hub_id = str(uuid.uuid4())
        self._probe_channel = "pgqueue_probe_" + self._hub_id.replace("-", "")
        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self._on_reconnect: list[Callable[[], None]] = []
        self._heard = asyncio.Event()
        self._first_try = asyncio.Event()
        self._follows: set[Subscription] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self.subscribe(EVENTS, self._dispatch)

    async def start(self) -> None:
        """Connect and test; where LISTEN does not work, `is_alive` stays False and it is tried again."""
        if self._tasks:
            await self._first_try.wait()
            return
        self._first_try.clear()
        self._database.before_close(self.stop)
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._keep_following())]
        await self._first_try.wait()

    async def stop(self) -> None:
        """Disconnect and forget what was followed."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.is_alive = False
        for follow in list(self._follows):
            follow.wake()
        with contextlib.suppress(PgqueueError):
            await self._database.run(calls.unfollow(self._hub_id))

    async def __aenter__(self) -> Hub:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop."""
        await self.stop()

    def subscribe(self, channel: str, callback: Callback) -> None:
        """Call back on the loop with each payload of a channel."""
        self._callbacks[channel].append(callback)

    def unsubscribe(self, channel: str, callback: Callback) -> None:
        """Call back no more."""
        self._callbacks[channel].remove(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call back whenever listening began anew: notifications may have been lost before."""
        self._on_reconnect.append(callback)

    @contextlib.asynccontextmanager
    async def follow(self, scope: str, task_id: int = 0, queue_name: str = "") -> AsyncIterator[Subscription]:
        """Follow the events of a task, a queue or everything ("task", "queue", "all").

        Inside the block every change is followed by an event, unless `is_alive` is False: what the caller
        reads once the subscription's `settle` has returned misses nothing.
        """
        subscription = Subscription(self, scope, task_id, queue_name)
        self._follows.add(subscription)
        try:
            await self._database.run(calls.follow(self._hub_id, scope, task_id, queue_name))
            yield subscription
        finally:
            self._follows.discard(subscription)
            if not any(other.key == subscription.key for other in self._follows):
                with contextlib.suppress(PgqueueError):
                    await self._database.run(calls.unfollow(self._hub_id, scope, task_id, queue_name))

    async def is_settled(self, fence: str) -> bool:
        """Whether everybody who could have overlooked a new follower has ended."""
        return await self._database.run(calls.is_clear(fence))

    async def fence(self) -> str:
        """Take a fence in a transaction of its own."""
        return await self._database.run(calls.fence())

    # The connection

    async def _run(self) -> None:
        pause = 0.1
        while True:
            started = time.monotonic()
            try:
                await self._listen()
            except PgqueueError as error:
                log.debug("the listener was cut off", error=str(error))
            finally:
                self.is_alive = False
                self._first_try.set()
            pause = 0.1 if time.monotonic() - started > PROBE_S else min(pause * 2, 5.0)
            self.reconnects += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _listen(self) -> None:
        conn = await self._database.connect(self._database.settings.listen_dsn)
        with translated():
            async with conn:
                for channel in (*CHANNELS, self._probe_channel):
                    await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                while True:
                    await self._prove(conn)
                    await self._receive(conn, PROBE_S)

    async def _prove(self, conn: psycopg.AsyncConnection[Any]) -> None:
        """Send a word to oneself and hear it. Raises DatabaseUnavailable when it does not come back."""
        self._heard.clear()
        await self._database.run(calls.notify(self._probe_channel, "probe"))
        deadline = time.monotonic() + PROBE_ANSWER_S
        while not self._heard.is_set():
            if time.monotonic() > deadline:
                msg = "LISTEN does not get through; a transaction pooler stands between"
                raise DatabaseUnavailable(msg, hint="set PGQUEUE_LISTEN_DSN to a direct connection")
            async for notify in conn.notifies(timeout=0.1, stop_after=1):
                self._on_notify(notify)
        if not self.is_alive:
            self.is_alive = True
            self.generation += 1
            self._first_try.set()
            for callback in self._on_reconnect:
                callback()
            for follow in list(self._follows):
                follow.wake()

    async def _receive(self, conn: psycopg.AsyncConnection[Any], seconds: float) -> None:
        """Pass on what comes in within so many seconds, as it arrives."""
        async for notify in conn.notifies(timeout=seconds):
            self._on_notify(notify)

    def _on_notify(self, notify: psycopg.Notify) -> None:
        if notify.channel == self._probe_channel:
            self._heard.set()
            return
        for callback in list(self._callbacks[notify.channel]):
            callback(notify.payload)

    async def _keep_following(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            if self._follows:
                with contextlib.suppress(PgqueueError):
                    await self._database.run(calls.keep_following(self._hub_id))
                    for scope, task_id, queue_name in {follow.key for follow in self._follows}:
                        await self._database.run(calls.follow(self._hub_id, scope, task_id, queue_name))

    def _dispatch(self, payload: str) -> None:
        try:
            events = msgspec.json.decode(payload, type=list[Event])
        except msgspec.DecodeError:
            log.debug("a notification that is no event was ignored", payload=payload[:200])
            return
        for event in events:
            for follow in list(self._follows):
                follow.offer(event)


_hubs: weakref.WeakKeyDictionary[Database, Hub] = weakref.WeakKeyDictionary()


def hub_of(database: Database) -> Hub:
    """Return the hub of a database: one for all who listen in this process. It is stopped with the database."""
    hub = _hubs.get(database)
    if hub is None:
        hub = _hubs[database] = Hub(database)
    return hub


class Subscription:
    """Events of one scope, in a bounded buffer: one who falls behind is told to read the state anew."""

    def __init__(self, hub: Hub, scope: str, task_id: int, queue_name: str) -> None:
        """Made by Hub.follow."""
        self.key = (scope, task_id, queue_name)
        self.was_cut = False
        self._hub = hub
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(MOST_PENDING)

    def offer(self, event: Event) -> None:
        """Take an event that is in scope."""
        scope, task_id, queue_name = self.key
        if scope == "all" or (scope == "task" and event.task_id == task_id) or (scope == "queue" and event.queue_name == queue_name):
            try:
                self._events.put_nowait(event)
            except asyncio.QueueFull:
                self.was_cut = True

    def wake(self) -> None:
        """Make `next` return: the state must be read anew."""
        with contextlib.suppress(asyncio.QueueFull):
            self._events.put_nowait(None)

    def is_empty(self) -> bool:
        """Tell whether `next` would wait."""
        return self._events.empty()

    async def next(self, timeout: float) -> Event | None:
        """Wait for an event; None after `timeout` seconds or when the state must be read anew."""
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return None
