"""How a task is followed so that its end is never missed: one protocol for async and blocking services.

A follower is seen by every transaction that begins after it was registered. It takes a fence then, and until
the fence says that all others have ended, it reads the state again every few milliseconds; after that a
notification, or now and then a look without one, is enough. Where listening begins anew, so does this.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable
from pgqueue.models import TaskProgress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator

    from pgqueue.calls import Call
    from pgqueue.database import Database
    from pgqueue.listen import Hub

__all__ = ["Ear", "Fence", "Pause", "changes", "closed", "watch"]

FIRST_S = 0.005
POLL_S = 0.25
LOOK_S = 5.0
OUTAGE_S = 60.0


class Pause(NamedTuple):
    """Wait for an event of the task, at most so many seconds."""

    seconds: float


class Fence:
    """Tells when every transaction has ended that may not have seen a new follower."""

    def __init__(self, db: Database) -> None:
        """Is taken with the first look."""
        self._db = db
        self._id: str | None = None
        self.is_clear = False

    def renew(self) -> None:
        """Begin anew: what follows was registered again."""
        self._id, self.is_clear = None, False

    async def look(self) -> bool:
        """Ask the database, until it is clear. Raises DatabaseUnavailable."""
        if not self.is_clear:
            if self._id is None:
                self._id = await self._db.run(calls.fence())
            self.is_clear = await self._db.run(calls.is_clear(self._id))
        return self.is_clear


class Ear(Protocol):
    """What listens: alive or not, and how often it began anew."""

    is_alive: bool
    generation: int


def watch(task_id: int, ear: Ear) -> Generator[Call[Any] | Pause | TaskProgress, Any, None]:
    """Say what to do next: run a call and send its answer, wait, or hand out the state; ends after the final one.

    A DatabaseUnavailable that is thrown in is raised again after a minute of nothing else.
    """
    generation, fence, pause = -1, None, FIRST_S
    unavailable_since: float | None = None
    while True:
        try:
            if generation != ear.generation:
                generation, fence, pause = ear.generation, (yield calls.fence()), FIRST_S
            if fence is not None and (yield calls.is_clear(fence)):
                fence = None
            progress: TaskProgress = yield calls.get_progress(task_id)
        except DatabaseUnavailable:
            unavailable_since = unavailable_since or time.monotonic()
            if time.monotonic() - unavailable_since > OUTAGE_S:
                raise
            generation = -1
            yield Pause(POLL_S)
            continue
        unavailable_since = None
        yield progress
        if progress.is_final:
            return
        pause = min(POLL_S, pause * 2)
        yield Pause(pause if fence is not None else LOOK_S if ear.is_alive else POLL_S)


async def changes(db: Database, task_id: int, hub: Hub) -> AsyncIterator[TaskProgress]:
    """Yield the state of a task that has not ended, and after every change, until it is final; `hub` was started.

    Raises TaskNotFound, and DatabaseUnavailable after a minute without the database or when it is closed.
    """
    if hub.is_stopped:
        raise closed(task_id)
    async with hub.follow("task", task_id) as events:
        steps = watch(task_id, hub)
        step = next(steps, None)
        while step is not None:
            answer: Any = None
            if hub.is_stopped:
                raise closed(task_id)
            if isinstance(step, TaskProgress):
                yield step
            elif isinstance(step, Pause):
                await events.next(step.seconds)
                events.clear()
            else:
                try:
                    answer = await db.run(step)
                except DatabaseUnavailable as error:
                    step = steps.throw(error)
                    continue
            step = _after(steps, answer)


def _after(steps: Generator[Any, Any, None], answer: object) -> Any:  # noqa: ANN401 - any JSON, or any connection
    try:
        return steps.send(answer)
    except StopIteration:
        return None


def closed(task_id: int) -> DatabaseUnavailable:
    """The error of one who follows a task while the database is closed."""
    msg = f"the database was closed while task {task_id} was followed"
    return DatabaseUnavailable(msg, hint="close it after those who use it")
