"""What runs in a process of its own: one plain handler at a time, killed by the worker when it must stop.

Reports go to the worker as datagrams: a process that is killed while it writes holds no lock that
another would wait for.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import importlib
import resource
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

import msgspec

from pgqueue import telemetry
from pgqueue.handlers import Handler, TaskContext
from pgqueue.log import task_fields
from pgqueue.worker.attempts import Attempt
from pgqueue.worker.executors import call_plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Job", "Outcome", "die_with_parent", "initialize", "run"]

PAUSE_S = 0.1
PR_SET_PDEATHSIG = 1


class Job(msgspec.Struct, frozen=True, array_like=True):
    """A handler, by where it can be imported, the row of its task, and the trace that it belongs to."""

    module: str
    qualname: str
    retry: dict[str, Any] | None
    memory_limit_mb: int | None
    queue_name: str
    row: tuple[Any, ...]
    trace: dict[str, str] | None


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """How the attempt ended, as JSON texts for pgqueue.finish, and its last progress report."""

    result: str | None
    failure: str | None
    progress: dict[str, Any] | None


class Reporter:
    """Sends progress, at most ten times a second, and log lines to the worker."""

    def __init__(self, address: str) -> None:
        """`address` is the worker's datagram socket."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.connect(address)
        self._sent = 0.0
        self.unsent: dict[str, Any] | None = None

    def report_progress(self, ctx: TaskContext, report: Mapping[str, Any]) -> None:
        """Send the report, or keep it for the end where one was sent just before."""
        self.unsent = dict(report)
        if time.monotonic() - self._sent >= PAUSE_S:
            self._sent = time.monotonic()
            self._send(ctx, {"progress": self.unsent})
            self.unsent = None

    def report_line(self, ctx: TaskContext, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Send a log line, cut so that it fits a datagram."""
        plain = {str(name): repr(value)[:1000] for name, value in list(fields.items())[:50]}
        self._send(ctx, {"line": [level, message[:16_000], plain]})

    def holds_lease(self, _ctx: TaskContext) -> bool:
        """Always true: the worker kills this process when the lease is lost."""
        return True

    def _send(self, ctx: TaskContext, report: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the worker has gone; this process is about to
            self._socket.send(msgspec.json.encode({"task_id": ctx.task_id, "attempt": ctx.attempt, **report}))


_address = ""


def initialize(address: str) -> None:
    """Prepare a new process: it dies with its parent and leaves Ctrl-C to the worker."""
    global _address  # noqa: PLW0603 - one per process, set once
    _address = address
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()


def die_with_parent() -> None:
    """Have the kernel (Linux) kill this process when the one that started it ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def run(encoded: bytes) -> bytes:
    """Run one job and say how it ended."""
    job = msgspec.msgpack.decode(encoded, type=Job)
    reporter = _reporter()
    ctx = TaskContext(job.row, job.queue_name, reporter)
    task_fields.set(ctx)
    with _memory_limit(job.memory_limit_mb):
        attempt = _run(ctx, job)
    unsent, reporter.unsent = reporter.unsent, None
    return msgspec.msgpack.encode(Outcome(attempt.result, attempt.failure, unsent))


def _run(ctx: TaskContext, job: Job) -> Attempt:
    try:
        handler = _handler(job.module, job.qualname, ctx.task_type)
    except Exception as error:  # noqa: BLE001 - a module of the user may raise anything on import
        handler = _broken(ctx.task_type, error)
    handler.retry = job.retry
    attempt = Attempt(ctx, handler, 0, None)
    context = contextvars.copy_context()
    if telemetry.tracing is not None and job.trace is not None:
        context.run(telemetry.tracing.adopt, job.trace)
    context.run(call_plain, attempt)
    return attempt


def _broken(task_type: str, error: Exception) -> Handler[Any, Any]:
    """Stand in for a handler that cannot be imported: it raises what the import raised."""

    def fail(_ctx: TaskContext) -> None:
        raise error

    return Handler(task_type, fail, executor="process")


@functools.cache
def _reporter() -> Reporter:
    return Reporter(_address)


@functools.cache
def _handler(module: str, qualname: str, task_type: str) -> Handler[Any, Any]:
    found: Any = functools.reduce(getattr, qualname.split("."), importlib.import_module(module))
    if isinstance(found, Handler):
        return found
    return Handler(task_type, found, executor="process")


@contextlib.contextmanager
def _memory_limit(megabytes: int | None) -> Iterator[None]:
    if megabytes is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
