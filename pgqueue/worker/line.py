"""Claimed attempts get slots. Where slots are few and handlers quick, some wait in line, for milliseconds.

A round trip to the database costs about as much as a hundred quick handlers. So more is claimed than there
are free slots, but only what the slots will have done within AHEAD_S at the pace of the last handlers. Where
that was wrong, what waits goes back to its queue at no cost, for other workers to run.
"""

from __future__ import annotations

import collections
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pgqueue.worker.attempts import Attempt

__all__ = ["Line"]

FEW_SLOTS = 64
AHEAD_S = 0.010
MOST_AHEAD = 100
WAIT_S = 0.050
WEIGHT = 0.1
"""Of one handler in the mean duration: a slow one counts for many quick ones."""
LEAST_S = 1e-5


class Line:
    """Starts at most `slots` attempts at once, in their order."""

    def __init__(self, slots: int, begin: Callable[[Sequence[Attempt]], None]) -> None:
        """`begin` starts the handlers of a batch."""
        self.slots = slots
        self.running = 0
        self._begin = begin
        self._waiting: collections.deque[Attempt] = collections.deque()
        self._moved_at = 0.0
        self._mean_s = math.inf

    @property
    def most(self) -> int:
        """How many attempts may be held: those that run and those that are worth claiming ahead."""
        if self.slots >= FEW_SLOTS or self._mean_s == math.inf:
            return self.slots
        return self.slots + min(MOST_AHEAD, int(self.slots * AHEAD_S / self._mean_s))

    def add(self, batch: Sequence[Attempt]) -> None:
        """Start these, or let them wait for their turn."""
        self._waiting.extend(batch)
        self._moved_at = time.monotonic()
        self.move()

    def move(self) -> None:
        """Give free slots to the first in line."""
        free = min(len(self._waiting), self.slots - self.running)
        if free > 0:
            self.running += free
            self._moved_at = time.monotonic()
            self._begin([self._waiting.popleft() for _ in range(free)])

    def left(self, attempt: Attempt) -> None:
        """A handler is over: its slot is free."""
        self.running -= 1
        if self.slots < FEW_SLOTS and attempt.stop_reason is None:
            seconds = attempt.elapsed_us / 1e6
            before = seconds if self._mean_s == math.inf else self._mean_s
            self._mean_s = max(LEAST_S, before + (seconds - before) * WEIGHT)
        if self._waiting:
            self.move()

    def take_stuck(self) -> list[Attempt]:
        """Return, and forget, what waits because handlers are not as quick as they were."""
        if not self._waiting or time.monotonic() - self._moved_at < WAIT_S:
            return []
        self._mean_s = math.inf
        return self.take_all()

    def take_all(self) -> list[Attempt]:
        """Return, and forget, what waits."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting
