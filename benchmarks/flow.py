"""Submitting and working at the same time: as fast as it goes, or at a given rate."""

from __future__ import annotations

import bisect
import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from benchmarks import meter
from benchmarks.bench import CALL, IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.actors import Submitter, Worker
    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

OPEN_ORDERS = 2
STEP_S = 0.002


@dataclass
class Flow:
    """What went through; times are s since 1970."""

    began: float
    ended: float
    seen: list[tuple[float, int, int]] = field(default_factory=list)
    """Looks: time, tasks submitted, handlers run."""
    samples: list[tuple[float, float]] = field(default_factory=list)
    """When a task was submitted, and ms until its handler."""
    calls: list[tuple[float, float]] = field(default_factory=list)
    """When a call of submit was answered, and ms it took."""
    behind: bool = False
    """Whether the submitter could not keep the rate."""

    def rate(self, part: tuple[float, float] = (0.0, 1.0)) -> float:
        """Return handlers a second, in all or in a part of the time."""
        first, last = self._at(part[0]), self._at(part[1])
        return (self._ran_at(last) - self._ran_at(first)) / (last - first)

    def _ran_at(self, moment: float) -> float:
        """Return how many handlers had run, between two looks in proportion."""
        place = bisect.bisect(self.seen, moment, key=lambda look: look[0])
        if not 0 < place < len(self.seen):
            return self.seen[min(place, len(self.seen) - 1)][2]
        (since, _, before), (until, _, after) = self.seen[place - 1 : place + 1]
        return before + (after - before) * (moment - since) / (until - since)

    def backlogs(self) -> tuple[int, int]:
        """Return how many tasks were under way, on average, in the first and in the last tenth."""
        tenth = max(1, len(self.seen) // 10)
        first, last = self.seen[:tenth], self.seen[-tenth:]
        return tuple(round(sum(s - d for _, s, d in part) / len(part)) for part in (first, last))  # type: ignore[return-value]

    def latencies(self, part: tuple[float, float] = (0.0, 1.0)) -> list[float]:
        """Return ms from submit to handler of the tasks submitted in a part of the time."""
        return [ms for at, ms in self.samples if self._at(part[0]) <= at <= self._at(part[1])]

    def submits(self, part: tuple[float, float] = (0.0, 1.0)) -> list[float]:
        """Return ms of the calls answered in a part of the time."""
        return [ms for at, ms in self.calls if self._at(part[0]) <= at <= self._at(part[1])]

    def _at(self, share: float) -> float:
        return self.began + (self.ended - self.began) * share


def flow(  # noqa: PLR0913 - the knobs of a flow
    bench: Bench,
    peer: Peer,
    seconds: float,
    *,
    rate: float | None = None,
    workers: int = 2,
    call: int | None = None,
    pinned: bool = False,
    every_second: Callable[[str], None] | None = None,
) -> Flow:
    """Run workers and one submitter for so many seconds, and a tenth more to warm up.

    Half warm, all tables are analyzed where that helps: plans made for empty ones would last until autovacuum comes by.
    Without a rate it submits while fewer than IN_FLIGHT tasks are under way; `every_second` is given the database.
    Where there will be more tasks than a meter has room for, the tasks of every second, third … call are samples.
    """
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(bench.database(peer))
        started = [stack.enter_context(bench.worker(peer, database)) for _ in range(workers)]
        submitter = stack.enter_context(bench.submitter(peer, database))
        bench.wait_for(lambda: sum(worker.reading().ran for worker in started) >= 1, started[0])
        if pinned:
            stack.enter_context(bench.pin(database))
        warm = max(0.3, seconds / 10)
        began = time.time() + warm
        result = Flow(began, began + seconds)
        most = min(IN_FLIGHT, 5 * peer.speed)
        stamp_every = math.ceil((rate or 1) * (warm + seconds) / meter.ROOM)
        Drive(result, started, submitter, rate=rate, call=call or CALL, most=most, stamp_every=stamp_every).go(
            lambda: bench.server.execute("analyze", database=database) if peer.is_analyzed else None,
            lambda: every_second(database) if every_second else None,
        )
        result.samples = [sample for worker in started for sample in meter.samples(worker.path)]
        return result


class Drive:
    """Gives the orders of a flow and notes what comes of them."""

    def __init__(  # noqa: PLR0913 - as flow
        self,
        result: Flow,
        workers: Sequence[Worker],
        submitter: Submitter,
        *,
        rate: float | None,
        call: int,
        most: int,
        stamp_every: int,
    ) -> None:
        self._result = result
        self._workers = workers
        self._submitter = submitter
        self._rate = rate
        self._call = call
        self._most = most
        self._stamp_every = stamp_every
        self._submitted = 1
        self._begun = time.time()

    def go(self, half_warm: Callable[[], None], every_second: Callable[[], None]) -> None:
        """Drive until the flow's end."""
        half_warm_at = (self._begun + self._result.began) / 2
        next_look = next_second = self._result.began
        while (now := time.time()) < self._result.ended:
            self._order(now)
            if now >= half_warm_at:
                half_warm_at = math.inf
                half_warm()
            if now >= next_look:
                next_look = now + STEP_S
                self._result.seen.append((now, self._submitted, self._done()))
                for worker in self._workers:
                    worker.check()
            if now >= next_second:
                next_second = now + 1
                every_second()
        while self._submitter.open_orders:
            self._submitter.answers()

    def _done(self) -> int:
        return sum(worker.reading().ran for worker in self._workers)

    def _order(self, now: float) -> None:
        """Keep two orders open, or one where a rate is given: then a call's time has no waiting in it."""
        due_in = self._due_in(now)
        if due_in <= 0 and self._submitter.open_orders < (OPEN_ORDERS if self._rate is None else 1):
            stamp = self._submitted // self._call % self._stamp_every == 0
            self._submitter.ask("bulk", n=self._call, size=self._call, stamp=stamp)
            self._submitted += self._call
        if self._submitter.open_orders:
            answered = self._submitter.answers(STEP_S)
            self._result.calls += [(time.time(), seconds * 1000) for seconds in answered]
        else:
            time.sleep(min(STEP_S, due_in))

    def _due_in(self, now: float) -> float:
        """Return s until the next call is due; not more than 0 where it is."""
        if self._rate is None:
            return 0.0 if self._submitted - self._done() < self._most else STEP_S
        late = (now - self._begun) * self._rate - self._submitted
        self._result.behind |= late > self._rate  # a whole second
        return (self._call - late) / self._rate
