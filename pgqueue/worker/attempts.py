"""One attempt: a claimed task with its handler, until its end is settled."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from pgqueue import telemetry
from pgqueue.errors import HandlerNotFound, PayloadError
from pgqueue.handlers import Cancel, PermanentError, RetryLater, Snooze, TaskContext
from pgqueue.log import task_fields
from pgqueue.models import encode_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.handlers import Handler
    from pgqueue.telemetry.spans import Process

__all__ = ["Attempt", "StopReason"]

StopReason = Literal["cancelled", "timed_out", "released", "lost"]
MOST_TEXT = 65_536
PERMANENT = (PermanentError, PayloadError, HandlerNotFound)


class Home(Protocol):
    """What settles an attempt."""

    def ended(self, attempt: Attempt) -> None:
        """Settle it with the next exchange."""

    def dropped(self, attempt: Attempt) -> None:
        """It has no lease any more: nothing is to be settled."""


class Attempt:
    """(task_id, attempt) is its lease. `result` and `failure` are JSON texts as pgqueue.finish takes them."""

    __slots__ = (
        "claim_no",
        "ctx",
        "failure",
        "handler",
        "home",
        "kill",
        "result",
        "span",
        "started_ns",
        "stop_reason",
        "waited",
    )

    def __init__(self, ctx: TaskContext, handler: Handler[Any, Any], claim_no: int, home: Home | None) -> None:
        """`claim_no` is the claim that brought it, `home` the loop of its queue, which settles it."""
        self.ctx = ctx
        self.claim_no = claim_no
        self.home = home
        self.handler = handler
        self.started_ns = time.monotonic_ns()
        self.span: Process | None = None
        self.kill: Callable[[], object] | None = None
        self.stop_reason: StopReason | None = None
        self.waited = False
        self.result: str | None = None
        self.failure: str | None = None

    @property
    def elapsed_us(self) -> int:
        """Microseconds since the handler started."""
        return (time.monotonic_ns() - self.started_ns) // 1000

    def begin(self) -> None:
        """The handler starts now, in the context of the caller."""
        self.started_ns = time.monotonic_ns()
        task_fields.set(self.ctx)
        if telemetry.tracing is not None:
            self.span = telemetry.tracing.process(self.ctx.row, self.ctx.queue)

    def end(self) -> None:
        """The handler is over, and how it ended is known."""
        if self.span is not None:
            self.span.end(self.failure)

    def stop(self, reason: StopReason) -> None:
        """Ask the handler to stop: async ones are cancelled, threads see ctx.cancelled, processes are killed."""
        if self.stop_reason is None:
            self.stop_reason = reason
            self.ctx.stop()
            if self.kill is not None:
                self.kill()

    def succeed(self, value: object) -> None:
        """The handler returned. A result that is no JSON is replaced by a note that says so."""
        if value is None:
            value = self.ctx.result
        if value is not None:
            self.result, note = encode_result(value)
            if note:
                self.ctx.log("warning", note)

    def fail(self, error: BaseException) -> None:
        """The handler raised, or was stopped."""
        if isinstance(error, Snooze):
            self._end("snoozed", delay=error.delay)
        elif isinstance(error, Cancel):
            self._end("cancelled", error_message=clean(str(error)))
        elif isinstance(error, RetryLater):
            self._end("failed", **describe(error), delay=error.delay)
        elif isinstance(error, PERMANENT):
            self._end("failed", **describe(error), permanent=True)
        else:
            self._end("failed", **describe(error), retry=self.handler.retry)

    def stopped(self, error: BaseException | None = None) -> None:
        """The handler ended because it was asked to, or (reason None) by an error of its own."""
        if self.stop_reason == "timed_out":
            limit = self.ctx.timeout
            message = f"ran longer than {limit} s"
            self._end("timed_out", error_type="TimeoutError", error_message=message, retry=self.handler.retry)
        elif self.stop_reason is not None:
            self._end(self.stop_reason)
        elif error is not None:
            self.fail(error)

    def replace_what_cannot_be_written(self, error: Exception) -> None:
        """PostgreSQL refused this end: keep the outcome, and say what is missing."""
        note = f"{type(error).__name__}: {clean(str(error))[:1000]}"
        if self.failure is None:
            self.result = msgspec.json.encode({"unwritable_result": note}).decode()
        else:
            outcome = msgspec.json.decode(self.failure)["outcome"]
            self._end(outcome, error_type="UnwritableError", error_message=note)

    def _end(self, outcome: str, **fields: Any) -> None:  # noqa: ANN401 - JSON values
        failure = {"outcome": outcome, **{name: value for name, value in fields.items() if value is not None}}
        self.failure = msgspec.json.encode(failure).decode()


def describe(error: BaseException) -> dict[str, str]:
    """Type, message and traceback of an error, fit for PostgreSQL."""
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    lines = traceback.format_exception(type(error), error, frames)
    return {
        "error_type": type(error).__name__,
        "error_message": clean(_message(error)),
        "traceback": clean("".join(lines)),
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"(its message cannot be read: {broken!r})"


def clean(text: str) -> str:
    """Replace what PostgreSQL cannot store (NUL, lone surrogates) and cut to 64 KiB."""
    text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT // 2] + "\n…\n" + text[-MOST_TEXT // 2 :]
