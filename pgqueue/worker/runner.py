"""Async handlers on the event loop, without a task for each.

A handler that ends without ever waiting needs no asyncio task of its own: one task runs such handlers one
after another. The first that waits keeps this task to itself, so that cancellation, asyncio.timeout and
current_task mean what they always mean, and a new task goes on with the others. Each handler has a context
of its own, so that context variables do not leak from one to the next.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import time
import types
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from pgqueue.handlers import TaskContext
    from pgqueue.worker.attempts import Attempt

__all__ = ["Runner"]

TURN_S = 0.005
"""After so long the loop gets a turn for its other work."""


class Runner:
    """Starts attempts in order and calls `ended` when each is over, however it ended."""

    def __init__(self, ended: Callable[[Attempt], None]) -> None:
        """To be made on the loop that runs the handlers. `current` is the handler that has the loop just now."""
        self.current: TaskContext | None = None
        self._context = contextvars.copy_context()
        self._ended = ended
        self._ready: collections.deque[Attempt] = collections.deque()
        self._starter: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, attempts: Iterable[Attempt]) -> None:
        """Run these soon."""
        self._ready.extend(attempts)
        self._go_on()

    def _go_on(self) -> None:
        if self._ready and self._starter is None:
            self._starter = asyncio.create_task(self._run(), context=self._context.copy())
            self._tasks.add(self._starter)
            self._starter.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        pause_at = time.monotonic() + TURN_S
        while self._ready and self._starter is task:
            await self._drive(self._ready.popleft(), task)
            if self._starter is task and time.monotonic() > pause_at:
                await asyncio.sleep(0)
                pause_at = time.monotonic() + TURN_S
        if self._starter is task:
            self._starter = None
            self._go_on()

    @types.coroutine
    def _drive(self, attempt: Attempt, task: asyncio.Task[None]) -> Generator[Any, Any, None]:
        """Run one handler in its own context; once it waits, `task` is its alone."""
        self.current = attempt.ctx
        context = contextvars.copy_context()
        coroutine = self._execute(attempt)
        try:
            waits_for = context.run(coroutine.send, None)
        except StopIteration:
            return
        finally:
            self.current = None
        attempt.kill = task.cancel
        self._starter = None
        self._go_on()
        while True:
            try:
                value = yield waits_for
            except BaseException as error:  # noqa: BLE001 - passed on to the handler, whose it is
                step: Callable[[Any], Any] = coroutine.throw
                value = error
            else:
                step = coroutine.send
            self.current = attempt.ctx
            try:
                waits_for = context.run(step, value)
            except StopIteration:
                return
            finally:
                self.current = None

    async def _execute(self, attempt: Attempt) -> None:
        ctx, handler = attempt.ctx, attempt.handler
        attempt.begin()
        try:
            if attempt.stop_reason is not None:
                raise asyncio.CancelledError  # noqa: TRY301 - it was stopped before it started
            if handler.takes_payload:
                value = await handler.fn(ctx, handler.decode(ctx.row[5]))
            else:
                value = await handler.fn(ctx)
            attempt.succeed(value)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the attempt's end
            if attempt.stop_reason is not None and isinstance(error, asyncio.CancelledError):
                attempt.stopped(error)
            else:
                attempt.fail(error)
        attempt.kill = None
        attempt.end()
        self._ended(attempt)
