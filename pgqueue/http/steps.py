"""What a client does, step by step, for async and blocking clients alike: send, wait, listen, hand out.

Each function is a generator: it says what to do next, and is sent what came of it.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from pgqueue.errors import DatabaseUnavailable, RateLimited, ServerUnavailable
from pgqueue.http import calls
from pgqueue.http.call import error_of, retry_after
from pgqueue.models import FINAL, TaskProgress, TaskRecord, checked_timeout, convert_result, timed_out

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import httpx
    import httpx_sse

    from pgqueue.errors import PgqueueError
    from pgqueue.http.call import Call

__all__ = ["Listen", "Lost", "Pause", "Send", "Step", "exchange", "follow", "wait_for", "wait_for_result"]

T = TypeVar("T")
B = TypeVar("B", bound=TaskRecord)
PAUSE_S = 0.1
MOST_PAUSE_S = 5.0
MOST_RETRY_AFTER_S = 30.0
WAIT_S = 20
LOOK_S = 0.05
POLL_S = 1.0
OUTAGE_S = 60.0


class Send(NamedTuple):
    """Send a request once; the answer is a response, or Lost."""

    call: Call[Any]


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Listen(NamedTuple):
    """Hand in the next event of a stream, which is opened where it is not open; the answer may be Lost."""

    path: str
    last_id: str | None


class Lost(NamedTuple):
    """A connection that could not be made, or that broke before the answer was there (`was_sent`)."""

    reason: str
    was_sent: bool = True


Step = Send | Pause | Listen | TaskProgress
"""A TaskProgress is to be handed out."""


def exchange(call: Call[T], retries: int) -> Generator[Step, Any, T]:
    """Send a call until it is answered, at most `retries` times again, and only where that can do no harm.

    Raises what the answer tells of, and ServerUnavailable.
    """
    tries = 0
    while True:
        answer: httpx.Response | Lost = yield Send(call)
        error = _lost(call, answer) if isinstance(answer, Lost) else error_of(answer)
        if error is None and not isinstance(answer, Lost):
            return call.decode(answer)
        assert error is not None  # noqa: S101 - what is lost is an error
        pause = _pause(call, answer, error, tries)
        if pause is None or tries >= retries:
            raise error
        tries += 1
        yield Pause(pause)


def _lost(call: Call[Any], lost: Lost) -> PgqueueError:
    msg = f"{call.method} {call.path}: no answer from the server: {lost.reason}"
    return ServerUnavailable(msg, hint="check that the server runs (pgqueue-api) and that the URL names it")


def _pause(call: Call[Any], answer: httpx.Response | Lost, error: PgqueueError, tries: int) -> float | None:
    """Say how long to wait before sending again; None: that could do harm, or does no good."""
    if isinstance(answer, Lost):
        may_repeat, asked = call.is_repeatable or not answer.was_sent, None
    else:
        is_away = isinstance(error, DatabaseUnavailable)
        may_repeat = answer.status_code == 429 or (call.is_repeatable and is_away)
        asked = retry_after(answer)
    if not may_repeat or (asked or 0) > MOST_RETRY_AFTER_S:
        return None
    return _backoff(tries) if asked is None else asked + random.uniform(0, PAUSE_S)  # noqa: S311 - jitter


def _backoff(tries: int) -> float:
    return min(PAUSE_S * 2.0 ** min(tries, 10), MOST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


class _Patience:
    """How long a server that is away is waited for: a minute of nothing else."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tries = 0

    def answered(self) -> None:
        """It is there."""
        self._since, self._tries = None, 0

    def pause(self, error: PgqueueError) -> float:
        """Return how many seconds to wait now. Raises the error where it lasts too long."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since > OUTAGE_S:
            raise error
        self._tries += 1
        asked = error.detail.get("retry_after")
        least = min(float(asked), MOST_RETRY_AFTER_S) if isinstance(asked, int | float) else 0.0
        return max(_backoff(self._tries), least)


def wait_for(kind: type[B], task_id: int, timeout: float | None) -> Generator[Step, Any, B]:
    """Read a task until it has ended. Raises TimeoutError, TaskNotFound, and ServerUnavailable after a minute."""
    found: B = yield from _until_final(task_id, timeout, lambda wait_s: calls.get_task(kind, task_id, wait_s))
    return found


def wait_for_result(task_id: int, type: Any, timeout: float | None) -> Generator[Step, Any, Any]:  # noqa: A002, ANN401 - any JSON
    """Ask for a result until the task has ended. Raises as wait_for, and TaskFailed, TaskCancelled, PayloadError."""
    found = yield from _until_final(task_id, timeout, lambda wait_s: calls.get_task_result(task_id, wait_s))
    return convert_result(task_id, found.result, type)


def _until_final(task_id: int, timeout: float | None, make: Callable[[int], Call[Any]]) -> Generator[Step, Any, Any]:
    """The server holds each answer back for whole seconds; what is left below one is waited for here."""
    checked_timeout(timeout)
    deadline = float("inf") if timeout is None else time.monotonic() + timeout
    patience, status = _Patience(), "not read yet"
    while True:
        pause = LOOK_S
        try:
            found = yield from exchange(make(int(min(WAIT_S, max(deadline - time.monotonic(), 0)))), 0)
        except (DatabaseUnavailable, RateLimited) as error:
            pause = patience.pause(error)
        else:
            patience.answered()
            status = found.status
            if status in FINAL:
                return found
        left = deadline - time.monotonic()
        if left <= 0:
            raise timed_out(task_id, timeout, status)
        yield Pause(min(pause, left))


def follow(task_id: int) -> Generator[Step, Any, None]:
    """Listen to a task's stream, and after each gap in it read the state, so that the end is never missed.

    Where no stream gets through, this polls. Raises TaskNotFound, and ServerUnavailable after a minute.
    """
    last: TaskProgress | None = None
    last_id: str | None = None
    losses = 0
    while last is None or not last.is_final:
        event: httpx_sse.ServerSentEvent | Lost = yield Listen(calls.progress_path(task_id), last_id)
        if isinstance(event, Lost):
            losses += 1
            progress = yield from _look(task_id)
        elif event.event == "progress":
            losses = 0
            progress, last_id = msgspec.json.decode(event.data, type=TaskProgress), event.id or None
        else:
            continue
        if progress != last:
            last = progress
            yield progress
        if losses and not progress.is_final:
            yield Pause(min(_backoff(losses), POLL_S))


def _look(task_id: int) -> Generator[Step, Any, TaskProgress]:
    patience = _Patience()
    while True:
        try:
            return (yield from exchange(calls.get_progress(task_id), 0))
        except (DatabaseUnavailable, RateLimited) as error:
            pause = patience.pause(error)
        yield Pause(pause)
