"""Where handlers run: on the loop, in threads, or in processes that can be killed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
from typing import TYPE_CHECKING, Any

from pgqueue.worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgqueue.handlers import TaskContext
    from pgqueue.worker.attempts import Attempt
    from pgqueue.worker.processes import Processes

__all__ = ["Executors", "call_plain"]

MOST_THREADS = 4096
"""Never reached: the slots bound what is started."""


class Executors:
    """Starts attempts and calls `ended` on the loop when each is over, however it ended.

    An attempt may be started by the end of another: its context is the worker's all the same.
    """

    def __init__(self, processes: Processes | None, ended: Callable[[Attempt], None]) -> None:
        """`processes` is None where no handler asks for them."""
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._ended = ended
        self._runner = Runner(ended)
        self._threads = concurrent.futures.ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="pgqueue")
        self._processes = processes
        self._waiting: set[asyncio.Task[None]] = set()

    def start(self, attempts: Iterable[Attempt]) -> None:
        """Run the attempts' handlers."""
        on_loop = []
        for attempt in attempts:
            executor = attempt.handler.executor
            if executor == "async":
                on_loop.append(attempt)
            elif executor == "thread":
                self._threads.submit(self._context.copy().run, self._run_in_thread, attempt)
            elif self._processes is not None:
                task = self._loop.create_task(
                    self._run_in_process(attempt, self._processes), context=self._context.copy()
                )
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
        if on_loop:
            self._runner.start(on_loop)

    @property
    def current(self) -> TaskContext | None:
        """The handler that has the event loop just now."""
        return self._runner.current

    async def stop(self) -> None:
        """Close the pools without waiting for threads that do not end."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            await self._processes.stop()

    def _run_in_thread(self, attempt: Attempt) -> None:
        attempt.begin()
        try:
            call_plain(attempt)
            attempt.end()
        finally:
            self._loop.call_soon_threadsafe(self._ended, attempt)

    async def _run_in_process(self, attempt: Attempt, processes: Processes) -> None:
        attempt.begin()
        try:
            await processes.run(attempt)
            attempt.end()
        finally:
            self._ended(attempt)


def call_plain(attempt: Attempt) -> None:
    """Call a plain function. One that was asked to stop and returns all the same has succeeded."""
    handler, ctx = attempt.handler, attempt.ctx
    if attempt.stop_reason is not None:
        attempt.stopped()
        return
    try:
        arguments: tuple[Any, ...] = (handler.decode(ctx.row[5]),) if handler.takes_payload else ()
        attempt.succeed(handler.fn(ctx, *arguments))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the attempt's end
        if attempt.stop_reason is not None:
            attempt.stopped(error)
        else:
            attempt.fail(error)
