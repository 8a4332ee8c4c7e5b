"""One queue of one worker: claim what is due, settle what ended, and know when to sleep.

Under load two pumps take turns exchanging batches with the database, so that it works while handlers
run. (Two claims at once would lock each other's rows: a claim that waits its turn starts where the other
ended.) When a
claim comes back short, the watch takes over: it looks again, attends for some milliseconds while tasks
come fast, and then sleeps until it is woken, by the steps that engine and tests call the sleeper's
protocol: say `waiting` and commit; take a fence in a new transaction; look until the fence is clear;
look once more; sleep. While its word stands, it looks once each time it is woken.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import structlog

from pgqueue import calls
from pgqueue.errors import DatabaseUnavailable, LeaseLost, PgqueueError
from pgqueue.worker.cursors import Cursors
from pgqueue.worker.line import FEW_SLOTS, Line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgqueue.worker.attempts import Attempt
    from pgqueue.worker.exchange import Answer
    from pgqueue.worker.session import Session

__all__ = ["QueueLoop"]

T = TypeVar("T")
log = structlog.get_logger()

BATCH = 500
MANY = 50
ATTEND_S = 0.0015
FULL_S = 0.010
FLOOR_S = 0.1
SWEEP_S = 1.0
HOT = 10.0
HEAT_S = 0.1
CHEAP_S = 0.003
NOW = "0"
FLOOR = "250 milliseconds"
SWEEP = None


class Trip(NamedTuple):
    """What went out with a round trip, the number of its claim (0: none), and what came back."""

    ended: list[Attempt]
    claim_no: int
    answer: Answer


class QueueLoop:
    """`slots` is how many attempts of this queue may run at once; `held` counts what is claimed and not settled."""

    def __init__(self, session: Session, name: str, slots: int) -> None:
        """Nothing happens before `run`."""
        self.name = name
        self.line = Line(slots, session.begin)
        self.held = 0
        self._session = session
        self._ended: list[Attempt] = []
        self._cursors = Cursors()
        self._more = True
        self._turn = asyncio.Lock()
        self._resized = asyncio.Event()
        self._load = asyncio.Event()
        self._woken = asyncio.Event()
        self._attending: bool | None = None
        self._fence = ""
        self._heat = 0.0
        self._heated_at = 0.0
        self._floored_at = 0.0
        self._sweep_at = 0.0
        self._sweep_cost = 0.0
        self._sweep_owed = True
        self._load.set()

    @property
    def slots(self) -> int:
        """How many attempts may run at once."""
        return self.line.slots

    @property
    def room(self) -> int:
        """How many more attempts may be claimed."""
        return self.line.most - self.held

    async def run(self) -> None:
        """Serve the queue until the session is over."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._pump(0))
            group.create_task(self._pump(FEW_SLOTS))
            group.create_task(self._watch())

    def ended(self, attempt: Attempt) -> None:
        """A handler is over; settle its attempt with the next exchange."""
        self.line.left(attempt)
        self._settle_soon(attempt)

    def _settle_soon(self, attempt: Attempt) -> None:
        self._ended.append(attempt)
        if not self._load.is_set():
            self._load.set()

    def dropped(self, attempt: Attempt) -> None:
        """A handler ended whose attempt has no lease any more: its slot is free, there is nothing to settle."""
        self.line.left(attempt)
        self.held -= 1
        self.wake()

    def release_waiting(self) -> None:
        """Let go of what was claimed ahead."""
        self._release(self.line.take_all())

    def release_stuck(self) -> None:
        """Let go of what was claimed ahead for handlers that have become slow."""
        self._release(self.line.take_stuck())

    def _release(self, waiting: Iterable[Attempt]) -> None:
        """End attempts that never started; where the lease is lost, forget them."""
        for attempt in waiting:
            attempt.stop("released")
            attempt.stopped()
            if attempt.stop_reason == "lost":
                self.held -= 1
                self._session.forget(attempt)
            else:
                self._settle_soon(attempt)

    def wake(self) -> None:
        """Something may have become due, or settings changed, or the session ends."""
        self._sweep_owed = True
        self._resized.set()
        self._load.set()
        self._woken.set()

    # Under load

    async def _pump(self, slots_needed: int) -> None:
        while not self._session.is_over:
            await self._load.wait()
            if self.slots < slots_needed:
                self._resized.clear()
                if not self._session.is_over:
                    await self._resized.wait()
            elif self._ended or (self._more and self.room > 0 and not self._session.takes_nothing):
                await self._exchange_or_wait(self._behind())
            else:
                self._load.clear()

    def _behind(self) -> str | None:
        now = time.monotonic()
        if now >= self._sweep_at:
            return SWEEP
        if now - self._floored_at >= FLOOR_S:
            return FLOOR
        return NOW

    async def _exchange_or_wait(self, behind: str | None) -> int:
        """Exchange; when that fails, do what the failure asks for, and claim nothing."""
        try:
            return await self._exchange(behind)
        except LeaseLost:
            self._session.lose()
        except DatabaseUnavailable as error:
            await self._session.wait_for_database(error)
        except PgqueueError as error:
            ended = self._take_ended()
            log.warning("an exchange failed", queue=self.name, error=str(error), tasks_to_settle_one_by_one=len(ended))
            if not ended:
                await asyncio.sleep(SWEEP_S)
            await self._session.settle_one_by_one(ended)
        return 0

    async def _exchange(self, behind: str | None) -> int:
        """Few rows start at once. Many are read after the turn: whoever is next sends, and the database works."""
        async with self._turn:
            trip = await self._trip(behind)
            if trip is None:
                return 0
            is_large = trip.answer.count >= MANY
            if not is_large:
                await self._take_in(trip)
        if trip.answer.count:
            await asyncio.sleep(0)
        if is_large:
            await self._take_in(trip)
        return trip.answer.count

    async def _take_in(self, trip: Trip) -> None:
        try:
            rows = await trip.answer.rows()
            if rows:
                self.line.add(self._session.receive(self, rows, trip.claim_no))
                if self._session.takes_nothing:
                    self.release_waiting()
        finally:
            self._session.settled(*self._sort_out(trip.ended, trip.answer.unsettled))

    async def _trip(self, behind: str | None) -> Trip | None:
        session = self._session
        ended = self._take_ended()
        asked = 0 if session.takes_nothing else max(0, min(self.room, self._batch_size()))
        if not ended and not asked:
            return None
        self.held += asked
        started = time.monotonic()
        claim_no, done, claim = 0, [], None
        if asked:
            claim_no, done = session.ledger.start(), session.ledger.take_done()
            last, over = self._cursors.arrays(), calls.array(map(str, done))
            claim = (session.worker_id, self.name, asked, claim_no, *last, behind, over)
        try:
            answer = await session.exchange(ended, claim)
            await self._cursors.move(answer)
        except BaseException:
            self._undo(ended, asked, claim_no, done)
            raise
        self.held -= asked - answer.count
        if asked:
            session.ledger.answered(claim_no, answer.count)
            self._note_look(behind, started, answer.count, asked)
        return Trip(ended, claim_no, answer)

    def _batch_size(self) -> int:
        return min(BATCH, self.line.most if self.slots < FEW_SLOTS else (self.slots + 1) // 2)

    def _sort_out(self, ended: list[Attempt], unsettled: Sequence[int]) -> tuple[list[Attempt], list[Attempt]]:
        """Tell the settled from the late: those whose row somebody held twice, or whose lease is lost.

        One that was held for the first time goes out again with the next exchange.
        """
        if not unsettled:
            return ended, []
        ids = set(unsettled)
        missed = [attempt for attempt in ended if attempt.ctx.row[0] in ids]
        again = [attempt for attempt in missed if not attempt.waited]
        for attempt in again:
            attempt.waited = True
        self.held += len(again)
        self._ended[:0] = again
        if again:
            self._load.set()
        return [a for a in ended if a.ctx.row[0] not in ids], [a for a in missed if a not in again]

    def _take_ended(self) -> list[Attempt]:
        ended, self._ended = self._ended, []
        was_full = self.room <= 0
        self.held -= len(ended)
        if ended and (was_full or not (self.held or self._sweep_owed)):
            self._woken.set()
        return ended

    def _undo(self, ended: list[Attempt], asked: int, claim_no: int, done: list[int]) -> None:
        """The outcome is unknown: settle again, and let the heartbeat release the claim."""
        self.held += len(ended) - asked
        self._ended[:0] = ended
        if asked:
            self._session.ledger.forget(claim_no)
            self._session.ledger.give_back(done)
            self._session.heart.beat_soon()

    def _note_look(self, behind: str | None, started: float, got: int, asked: int) -> None:
        now = time.monotonic()
        was_more, self._more = self._more, got == asked
        if got:
            self._heat = min(2 * HOT, self._current_heat(now) + got)
            self._heated_at = now
            self._sweep_owed = True
        if behind != NOW:
            self._floored_at = now
        if behind is SWEEP:
            self._sweep_cost = now - started
            self._sweep_at = now + max(SWEEP_S, 100 * self._sweep_cost)
            self._sweep_owed = got > 0
        if self._more:
            self._load.set()
        elif was_more:
            self._woken.set()

    def _current_heat(self, now: float) -> float:
        return self._heat * math.exp((self._heated_at - now) / HEAT_S)

    # When nothing more is known to be due

    async def _watch(self) -> None:
        while not self._session.is_over:
            try:
                await self._look()
            except DatabaseUnavailable as error:
                self._attending, self._fence = None, ""
                await self._session.wait_for_database(error)
            except PgqueueError as error:
                log.warning("a look at the queue failed", queue=self.name, error=str(error))
                await asyncio.sleep(SWEEP_S)

    async def _look(self) -> None:
        self._woken.clear()
        if self.room <= 0 and not self._session.takes_nothing:
            await self._stay_full()
        elif self._session.takes_nothing or self._more:
            if self._session.is_paused:
                await self._say(attending=None)
            await self._wait(SWEEP_S)
        else:
            got = await self._exchange_or_wait(SWEEP if time.monotonic() >= self._sweep_at else FLOOR)
            if (self._fence or not got) and not self._more:
                await self._rest()

    async def _stay_full(self) -> None:
        """One who attended and stays full hands over to those who sleep."""
        if self.slots == 0:
            self._session.note_idle(self)
        if self._attending and not await self._wait(FULL_S):
            await self._say(attending=None)
            await self._ask(calls.hand_over(self.name))
        elif not self._attending:
            await self._wait(SWEEP_S)

    async def _rest(self) -> None:
        if self._current_heat(time.monotonic()) >= HOT:
            await self._say(attending=True)
            await self._wait(ATTEND_S)
        elif self._session.hub.is_alive:
            await self._sleep()
        else:
            await self._poll()

    async def _poll(self) -> None:
        """Without LISTEN: look every so often, from the start."""
        await self._say(attending=None)
        self._session.note_idle(self)
        await self._wait(min(self._session.settings.poll_s, SWEEP_S / 4))
        self._sweep_at = 0.0

    async def _sleep(self) -> None:
        """Once the fence is clear, whoever submits wakes."""
        pause = 0.005
        if not self._fence:
            await self._say(attending=False)
            fence = await self._ask(calls.fence())
            while not (await self._ask(calls.idle(self.name, fence))).is_clear:
                if await self._look_once_more() or await self._wait(pause):
                    return
                pause = min(0.25, pause * 2)
            self._fence = fence
        if not await self._look_once_more():
            idle = await self._ask(calls.idle(self.name, self._fence))
            await self._wait_until(idle.due_in)

    async def _look_once_more(self) -> bool:
        """From the start, unless that was dear the last time. Whether there is more to do than to sleep."""
        is_cheap = self._sweep_cost < CHEAP_S or time.monotonic() >= self._sweep_at
        return await self._exchange_or_wait(SWEEP if is_cheap else FLOOR) > 0 or self._session.takes_nothing

    async def _wait_until(self, due_in: float | None) -> None:
        """Sleep until woken, the next task is due, a sweep is owed, or the safety poll."""
        limit = self._session.settings.poll_s
        if self._sweep_owed:
            limit = min(limit, self._sweep_at - time.monotonic())
        elif not self.held:
            self._session.note_idle(self)
        if due_in is not None:
            limit = min(limit, due_in + 0.001)
        if not await self._wait(limit):
            self._sweep_at = min(self._sweep_at, time.monotonic())

    async def _say(self, *, attending: bool | None) -> None:
        if self._attending is not attending:
            self._fence = ""
            await self._ask(calls.set_wait(self._session.worker_id, self.name, attending))
            self._attending = attending

    async def _ask(self, call: calls.Call[T]) -> T:
        async with self._session.lines.take() as conn:
            return await self._session.database.run(call, conn=conn)

    async def _wait(self, seconds: float) -> bool:
        """Wait until woken; False if the time ran out."""
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._woken.wait()
        except TimeoutError:
            return False
        return True
