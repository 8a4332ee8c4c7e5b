"""Where handlers run: on the loop, in threads, or in processes that can be killed."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pgqueue.log import task_fields
from pgqueue.worker.attempts import Attempt

if TYPE_CHECKING:
    from pgqueue.worker.processes import Processes

__all__ = ["Executors"]

MOST_THREADS = 4096
"""Never reached: the slots bound what is started."""


class Executors:
    """Starts attempts and calls `ended` on the loop when each is over, however it ended."""

    def __init__(self, processes: Processes | None, ended: Callable[[Attempt], None]) -> None:
        """`processes` is None where no handler asks for them."""
        self._loop = asyncio.get_running_loop()
        self._ended = ended
        self._threads = concurrent.futures.ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="pgqueue")
        self._processes = processes

    def start(self, attempt: Attempt) -> None:
        """Run an attempt's handler."""
        executor = attempt.handler.executor if attempt.handler is not None else "async"
        if executor == "async":
            task = self._loop.create_task(self._run_async(attempt))
            attempt.kill = task.cancel
        elif executor == "thread":
            self._threads.submit(self._run_in_thread, attempt)
        elif self._processes is not None:
            task = self._loop.create_task(self._run_in_process(attempt, self._processes))

    async def stop(self) -> None:
        """Close the pools without waiting for threads that do not end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            await self._processes.stop()

    async def _run_async(self, attempt: Attempt) -> None:
        ctx = attempt.ctx
        task_fields.set(ctx.fields)
        try:
            handler = attempt.handler
            assert handler is not None  # noqa: S101 - start() was given one
            if handler.takes_payload:
                attempt.succeed(await handler.fn(ctx, handler.decode(ctx.row[5])))
            else:
                attempt.succeed(await handler.fn(ctx))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is the attempt's end
            if attempt.stop_reason is not None and isinstance(error, asyncio.CancelledError):
                attempt.stopped(error)
            else:
                attempt.fail(error)
        self._ended(attempt)

    def _run_in_thread(self, attempt: Attempt) -> None:
        token = task_fields.set(attempt.ctx.fields)
        try:
            call_plain(attempt)
        finally:
            task_fields.reset(token)
            self._loop.call_soon_threadsafe(self._ended, attempt)

    async def _run_in_process(self, attempt: Attempt, processes: Processes) -> None:
        try:
            await processes.run(attempt)
        finally:
            self._ended(attempt)


def call_plain(attempt: Attempt) -> None:
    """Call a plain function. One that was asked to stop and returns all the same has succeeded."""
    handler = attempt.handler
    assert handler is not None  # noqa: S101 - start() was given one
    try:
        arguments: tuple[Any, ...] = (handler.decode(attempt.ctx.row[5]),) if handler.takes_payload else ()
        attempt.succeed(handler.fn(attempt.ctx, *arguments))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the attempt's end
        if attempt.stop_reason is not None:
            attempt.stopped(error)
        else:
            attempt.fail(error)
