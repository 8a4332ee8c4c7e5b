"""The one LISTEN connection of a process: wake-ups, orders and events.

A notification is a hint: whoever waits for one looks for itself after each reconnection, and works by
polling where LISTEN does not get through (a transaction pooler).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
import weakref
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Self

import msgspec
import psycopg
import structlog
from psycopg import sql

from pgqueue import calls
from pgqueue.database import Database, translated
from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.models import Event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

__all__ = [
    "EVENTS",
    "KEEP_S",
    "PROBE_ANSWER_S",
    "Hub",
    "Subscription",
    "cancel_all",
    "events_of",
    "hub_of",
]

EVENTS = "pgqueue_events"
CHANNELS = ("pgqueue_wake", EVENTS, "pgqueue_control")
PROBE_S = 15.0
CANCEL_S = 0.5
PROBE_ANSWER_S = 3.0
KEEP_S = 20.0
MOST_PENDING = 10_000
NO_LISTEN_HINT = "set PGQUEUE_LISTEN_DSN to a direct connection"
log = structlog.get_logger()

Key = tuple[str, int, str]
"""Scope, task_id, queue_name."""


class Hub:
    """Listens, proves itself alive by a notification to itself, and reconnects when it does not come back."""

    def __init__(self, database: Database) -> None:
        """Connects on `start`."""
        self.is_alive = False
        self.is_stopped = False
        self.generation = 0
        self.reconnects = 0
        self._database = database
        self._hub_id = str(uuid.uuid4())
        self._probe_channel = "pgqueue_probe_" + self._hub_id.replace("-", "")
        self._callbacks: defaultdict[str, list[Callable[[str], None]]] = defaultdict(list)
        self._on_reconnect: list[Callable[[], None]] = []
        self._word: asyncio.Future[psycopg.Error | None]
        self._first_try = asyncio.Event()
        self._followers: defaultdict[Key, set[Subscription]] = defaultdict(set)
        self._registering = asyncio.Lock()
        self._left = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.subscribe(EVENTS, self._dispatch)

    async def start(self) -> None:
        """Connect and test; where LISTEN does not work, `is_alive` stays False and it is tried again."""
        if not self._tasks:
            self.is_stopped = False
            self._first_try.clear()
            self._database.before_close(self.stop)
            self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._keep_registered())]
        await self._first_try.wait()

    async def stop(self) -> None:
        """Disconnect and forget what was followed."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        await cancel_all(tasks)
        self.is_alive, self.is_stopped = False, True
        self._wake_followers()
        with contextlib.suppress(PgqueueError):
            await self._database.run(calls.unfollow(self._hub_id))

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Stop."""
        await self.stop()

    def subscribe(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call back on the loop with each payload of a channel; an error that it raises is logged."""
        self._callbacks[channel].append(callback)

    def unsubscribe(self, channel: str, callback: Callable[[str], None]) -> None:
        """Call back no more."""
        self._callbacks[channel].remove(callback)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call back whenever listening began anew: notifications may have been lost before."""
        self._on_reconnect.append(callback)

    def forget_reconnect(self, callback: Callable[[], None]) -> None:
        """Call this one back no more."""
        self._on_reconnect.remove(callback)

    # Following

    @contextlib.asynccontextmanager
    async def follow(self, scope: str, task_id: int = 0, queue_name: str = "") -> AsyncIterator[Subscription]:
        """Follow the events of a task, a queue or everything ("task", "queue", "all").

        Inside the block every change made by a transaction that began after a `fence` taken there is followed
        by an event, as long as `is_alive` and `generation` stay: who sees them change must look for itself.
        """
        key, subscription = (scope, task_id, queue_name), Subscription()
        self._followers[key].add(subscription)
        try:
            async with self._registering:
                await self._database.run(calls.follow(self._hub_id, *key))
            yield subscription
        finally:
            self._followers[key].discard(subscription)
            self._left.set()

    async def _keep_registered(self) -> None:
        """Renew what is followed, and end what nobody follows any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEEP_S):
                    await self._left.wait()
            self._left.clear()
            try:
                await self._end_unfollowed()
                await self._register_all()
            except PgqueueError as error:
                log.debug("what is followed could not be renewed", error=str(error))
                await asyncio.sleep(1)
                self._left.set()

    async def _end_unfollowed(self) -> None:
        for key in [key for key, followers in self._followers.items() if not followers]:
            async with self._registering:
                if not self._followers[key]:
                    await self._database.run(calls.unfollow(self._hub_id, *key))
                    if not self._followers[key]:
                        del self._followers[key]

    async def _register_all(self) -> None:
        for key in [key for key, followers in self._followers.items() if followers]:
            async with self._registering:
                if self._followers[key]:
                    await self._database.run(calls.follow(self._hub_id, *key))

    def _wake_followers(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.wake()

    # The connection

    async def _run(self) -> None:
        pause, said = 0.1, False
        while True:
            generation = self.generation
            try:
                await self._listen()
            except PgqueueError as error:
                tell = log.debug if said else log.warning
                tell("the listener is cut off; work is polled for until it is back", error=str(error))
                said = True
            except Exception:
                log.exception("the listener failed; it starts anew")
            finally:
                self.is_alive = False
                self._first_try.set()
                self._wake_followers()
            if self.generation > generation:
                pause, said = 0.1, False
            self.reconnects += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause = min(pause * 2, 5.0)

    async def _listen(self) -> None:
        dsn = self._database.listen_dsn
        if dsn is None:
            log.warning("no LISTEN through a transaction pooler: work is polled for", hint=NO_LISTEN_HINT)
            self._first_try.set()
            await asyncio.Event().wait()
        conn = await self._database.connect(dsn)
        with translated():
            async with conn:
                for channel in (*CHANNELS, self._probe_channel):
                    await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
                with self._reading(conn):
                    while True:
                        await self._prove()
                        await self._hear(PROBE_S)

    @contextlib.contextmanager
    def _reading(self, conn: psycopg.AsyncConnection[Any]) -> Iterator[None]:
        """Pass on what arrives, as it arrives: the loop itself reads it, no task is woken to do so.

        A connection that breaks is closed at once, and the number of its file may be another's soon after.
        """
        loop = asyncio.get_running_loop()
        encoding, file = conn.info.encoding, conn.fileno()

        def read() -> None:
            try:
                conn.pgconn.consume_input()
            except psycopg.OperationalError as error:
                loop.remove_reader(file)
                self._tell(error)
                return
            while (notify := conn.pgconn.notifies()) is not None:
                self._on_notify(notify.relname.decode(encoding), notify.extra.decode(encoding, "replace"))

        self._word = loop.create_future()
        conn.add_notify_handler(lambda notify: self._on_notify(notify.channel, notify.payload))
        loop.add_reader(file, read)
        try:
            yield
        finally:
            if not conn.closed:
                loop.remove_reader(file)

    async def _prove(self) -> None:
        """Send a word to oneself and hear it. Raises DatabaseUnavailable when it does not come back."""
        await self._database.run(calls.notify(self._probe_channel, "probe"))
        if not await self._hear(PROBE_ANSWER_S):
            msg = "LISTEN does not get through; a transaction pooler may stand between"
            raise DatabaseUnavailable(msg, hint=NO_LISTEN_HINT)
        if not self.is_alive:
            await self._begin_anew()

    async def _hear(self, seconds: float) -> bool:
        """Wait for the word to oneself; False where it does not come. Raises where the connection breaks."""
        try:
            async with asyncio.timeout(seconds):
                error = await self._word
        except TimeoutError:
            return False
        finally:
            self._word = asyncio.get_running_loop().create_future()
        if error is not None:
            raise error
        return True

    def _tell(self, error: psycopg.Error | None) -> None:
        if not self._word.done():
            self._word.set_result(error)

    async def _begin_anew(self) -> None:
        """Listening began: what is followed is registered again before anybody is told."""
        await self._register_all()
        self.is_alive = True
        self.generation += 1
        self._first_try.set()
        for callback in list(self._on_reconnect):
            _guarded(callback)
        self._wake_followers()

    def _on_notify(self, channel: str, payload: str) -> None:
        if channel == self._probe_channel:
            self._tell(None)
            return
        for callback in list(self._callbacks[channel]):
            _guarded(callback, payload)

    def _dispatch(self, payload: str) -> None:
        """Hand events to those who follow their task, their queue or everything: the others cost nothing."""
        for event in events_of(payload):
            for key in (("task", event.task_id, ""), ("queue", 0, event.queue_name), ("all", 0, "")):
                for follower in self._followers.get(key, ()):
                    follower.offer(event)


_hubs: weakref.WeakKeyDictionary[Database, tuple[asyncio.AbstractEventLoop, Hub]] = weakref.WeakKeyDictionary()


def hub_of(database: Database) -> Hub:
    """Return the hub of a database on this event loop: one for all who listen. It is stopped with the database."""
    loop = asyncio.get_running_loop()
    known = _hubs.get(database)
    if known is not None and known[0] is loop:
        return known[1]
    hub = Hub(database)
    _hubs[database] = (loop, hub)
    return hub


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: a cancellation that meets a breaking connection can get lost in its error."""
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        done, pending = await asyncio.wait(pending, timeout=CANCEL_S)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.debug("a task ended with an error while it was cancelled", error=repr(error))


def events_of(payload: str) -> list[Event]:
    """Read a notification of EVENTS; one that is no JSON of ours holds no events (anybody may notify)."""
    try:
        return msgspec.json.decode(payload, type=list[Event])
    except (msgspec.DecodeError, RecursionError):
        log.debug("a notification that is no event was ignored", payload=payload[:200])
        return []


def _guarded(callback: Callable[..., None], *arguments: str) -> None:
    try:
        callback(*arguments)
    except Exception:
        log.exception("a listener's callback failed", callback=getattr(callback, "__qualname__", repr(callback)))


class Subscription:
    """Events of one scope, in a bounded buffer: one who falls behind is told to read the state anew."""

    def __init__(self) -> None:
        """Made by Hub.follow."""
        self.was_cut = False
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(MOST_PENDING)

    def offer(self, event: Event) -> None:
        """Take an event."""
        try:
            self._events.put_nowait(event)
        except asyncio.QueueFull:
            self.was_cut = True

    def wake(self) -> None:
        """Make `next` return: the state must be read anew."""
        with contextlib.suppress(asyncio.QueueFull):
            self._events.put_nowait(None)

    def clear(self) -> None:
        """Drop what is in the buffer, for one who reads the state now."""
        while not self._events.empty():
            self._events.get_nowait()
        self.was_cut = False

    async def next(self, timeout: float) -> Event | None:  # noqa: ASYNC109 - as in the contract
        """Wait for an event; None after `timeout` seconds or when the state must be read anew."""
        try:
            async with asyncio.timeout(timeout):
                return await self._events.get()
        except TimeoutError:
            return None
