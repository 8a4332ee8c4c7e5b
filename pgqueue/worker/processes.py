"""Processes for CPU work: killed for real on a timeout, a cancellation or a lost lease."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec
from pebble import ProcessExpired, ProcessPool

from pgqueue import telemetry
from pgqueue.errors import ConfigurationError
from pgqueue.worker import child

if TYPE_CHECKING:
    from pgqueue.worker.attempts import Attempt

__all__ = ["Processes"]

Receive = Callable[[dict[str, Any]], None]


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    def datagram_received(self, data: bytes, _address: object) -> None:
        self._receive(msgspec.json.decode(data))


class Processes:
    """A pool of processes that import the handlers' modules themselves."""

    def __init__(self, slots: int, receive: Receive) -> None:
        """`receive` is called on the loop with each report: task_id, attempt and progress or line.

        Processes start with the first task, at most four for each CPU.
        """
        self._slots = min(max(slots, 1), 4 * (os.cpu_count() or 1))
        self._receive = receive
        self._folder = Path(tempfile.mkdtemp(prefix="pgqueue-"))
        self._address = str(self._folder / "reports")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._address)
        self._socket.settimeout(0)
        self._transport: asyncio.BaseTransport | None = None
        self._pool: ProcessPool | None = None

    async def start(self) -> None:
        """Begin to receive reports, and start the server that forks processes.

        That server dies with the thread that starts it: with this one, the loop's.
        """
        multiprocessing.get_context("forkserver").set_forkserver_preload(["pgqueue.worker.preload"])
        forkserver.ensure_running()
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._receive), sock=self._socket)

    async def run(self, attempt: Attempt) -> None:
        """Run an attempt to its end in a process; `attempt.kill` kills that process."""
        try:
            future = self._started().schedule(child.run, args=(msgspec.msgpack.encode(_job(attempt)),))
            attempt.kill = future.cancel
            outcome = msgspec.msgpack.decode(await asyncio.wrap_future(cast("Any", future)), type=child.Outcome)
        except (concurrent.futures.CancelledError, asyncio.CancelledError):
            attempt.stopped(RuntimeError("its process was killed"))
        except ProcessExpired as error:
            attempt.fail(RuntimeError(f"its process died with exit code {error.exitcode}"))
        except Exception as error:  # noqa: BLE001 - the pool passes on whatever broke in the process
            attempt.fail(error)
        else:
            attempt.result, attempt.failure = outcome.result, outcome.failure
            if outcome.progress is not None:
                self._receive(
                    {"task_id": attempt.ctx.task_id, "attempt": attempt.ctx.attempt, "progress": outcome.progress}
                )

    async def stop(self) -> None:
        """Kill what still runs and close."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            await asyncio.to_thread(self._pool.join)
        if self._transport is not None:
            self._transport.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _started(self) -> ProcessPool:
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._slots,
                context=multiprocessing.get_context("forkserver"),
                initializer=child.initialize,
                initargs=(self._address,),
            )
        return self._pool


def _job(attempt: Attempt) -> child.Job:
    handler = attempt.handler
    assert handler is not None  # noqa: S101 - the executor was given one
    if "<" in handler.fn.__qualname__:
        msg = f"the handler of {handler.task_type!r} is defined inside {handler.fn.__qualname__}"
        raise ConfigurationError(msg, hint="executor='process' needs a function at the top of an importable module")
    ctx = attempt.ctx
    trace = telemetry.tracing.current() if telemetry.tracing is not None else None
    return child.Job(
        handler.fn.__module__,
        handler.fn.__qualname__,
        handler.retry,
        handler.memory_limit_mb,
        ctx.queue_name,
        ctx.row,
        trace,
    )
