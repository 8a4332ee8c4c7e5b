"""Events for any number of streams from one subscription: a ring that each stream reads at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import structlog

from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.listen import cancel_all
from pgqueue.services import Fence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.database import Database
    from pgqueue.listen import Hub, Subscription
    from pgqueue.models import Event

__all__ = ["Feed", "Item"]

KEPT = 4096
LINGER_S = 60.0
LOOK_S = 5.0
FENCE_S = 0.05
log = structlog.get_logger()


class Item(NamedTuple):
    """One event and its number; without an event, a gap: whoever reads it must look at the state anew."""

    number: int
    event: Event | None


class Feed:
    """The last events of all queues. Memory is bounded by the ring, not by the number of streams or their pace."""

    def __init__(self, db: Database, hub: Hub) -> None:
        """Follows nothing until somebody reads."""
        self.name = secrets.token_hex(4)
        self.last = 0
        self._db = db
        self._hub = hub
        self._ring: deque[Item] = deque(maxlen=KEPT)
        self._changed = asyncio.Event()
        self._following = asyncio.Event()
        self._readers = 0
        self._left_at = 0.0
        self._task: asyncio.Task[None] | None = None

    async def follow(self) -> None:
        """Keep events from here on, for one who reads soon. Raises DatabaseUnavailable where none are heard."""
        if not self._hub.is_alive:
            raise DatabaseUnavailable("events cannot be followed: the database's notifications do not get through")
        self._left_at = time.monotonic()
        if self._task is None or self._task.done():
            self._following.clear()
            self._task = asyncio.create_task(self._run())
        following = asyncio.create_task(self._following.wait())
        await asyncio.wait({following, self._task}, return_when=asyncio.FIRST_COMPLETED)
        following.cancel()
        if not self._following.is_set():
            raise DatabaseUnavailable("events cannot be followed: the database cannot be reached")

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Keep events going while this is read, and for a while longer, for one who comes back."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._left_at = time.monotonic()

    async def stop(self) -> None:
        """Follow no more."""
        task, self._task = self._task, None
        if task is not None:
            await cancel_all([task])

    def id_of(self, number: int) -> str:
        """Return the id of an event, for a client to come back with."""
        return f"{self.name}-{number}"

    def position(self, event_id: str | None) -> int:
        """Return where to go on after an id: an id that this feed did not give out lies before all that it keeps."""
        if event_id is None:
            return self.last
        name, _, number = event_id.partition("-")
        if name != self.name or not (number.isascii() and number.isdecimal()) or len(number) > len(str(self.last)):
            return -1
        return min(int(number), self.last)

    def since(self, position: int) -> list[Item]:
        """Return what came after a position: one gap where some of it is not kept any more."""
        missing = self.last - position
        if missing <= 0:
            return []
        if position < 0 or missing > len(self._ring):
            return [Item(self.last, None)]
        return [self._ring[index] for index in range(len(self._ring) - missing, len(self._ring))]

    async def wait(self, position: int) -> None:
        """Return when there is something after a position."""
        while self.last <= position:
            await self._changed.wait()

    def _add(self, event: Event | None) -> None:
        self.last += 1
        self._ring.append(Item(self.last, event))
        self._changed.set()
        self._changed = asyncio.Event()

    async def _run(self) -> None:
        try:
            async with self._hub.follow("all") as events:
                if self.last:
                    self._add(None)
                await self._keep(events)
        except PgqueueError as error:
            log.warning("events are followed no more", error=str(error))

    async def _keep(self, events: Subscription) -> None:
        """Keep events while somebody reads, with a gap wherever some may be missing."""
        generation = self._hub.generation
        fence = Fence(self._db)
        await fence.look()
        self._following.set()
        while self._is_wanted():
            event = await events.next(LOOK_S if fence.is_clear else FENCE_S)
            if event is not None:
                self._add(event)
            if generation != self._hub.generation or events.was_cut:
                generation = self._hub.generation
                events.clear()
                fence.renew()
            if not fence.is_clear:
                await self._look(fence)

    async def _look(self, fence: Fence) -> None:
        try:
            if await fence.look():
                self._add(None)
        except DatabaseUnavailable:
            await asyncio.sleep(FENCE_S)

    def _is_wanted(self) -> bool:
        return self._readers > 0 or time.monotonic() - self._left_at < LINGER_S
