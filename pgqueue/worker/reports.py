"""Progress and log lines of running attempts: collected in memory, written in batches.

A task's progress is written at most ten times a second, and its last report before its end.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pgqueue.worker.attempts import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pgqueue.handlers import TaskContext

__all__ = ["NOTHING", "Batch", "Reports"]

PAUSE_S = 0.1
MOST_LINES = 1000
LEVELS = frozenset({"debug", "info", "warning", "error", "critical"})

Line = tuple[float, str, str, str]


class Batch(NamedTuple):
    """Reports on their way to the database."""

    progress: list[tuple[TaskContext, Mapping[str, Any]]]
    lines: list[tuple[TaskContext, Line]]

    def progress_json(self) -> str | None:
        """What pgqueue.report_progress takes; None for nothing."""
        return _progress_json(self.progress)

    def lines_json(self) -> str | None:
        """What pgqueue.write_logs takes; None for nothing."""
        return _lines_json(self.lines)


NOTHING = Batch([], [])


class Reports:
    """What handlers reported and the database does not know yet. Called from the loop and from threads.

    `writing` is held while a batch is on its way, so that an attempt's end never overtakes its reports.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, holds: Callable[[TaskContext], bool]) -> None:
        """`holds` tells whether a context's attempt still has its lease."""
        self.reporters: set[TaskContext] = set()
        self.writing = asyncio.Lock()
        self._loop = loop
        self._holds = holds
        self._progress: dict[TaskContext, Mapping[str, Any]] = {}
        self._lines: dict[TaskContext, list[Line]] = {}
        self._counts: dict[TaskContext, int] = {}
        self._pending = asyncio.Event()

    def report_progress(self, ctx: TaskContext, report: Mapping[str, Any]) -> None:
        """Keep the last report of a task."""
        self._progress[ctx] = report
        self._note(ctx)

    def report_line(self, ctx: TaskContext, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Keep a line; after a thousand of one attempt, say once that more are cut."""
        count = self._counts.get(ctx, 0) + 1
        self._counts[ctx] = count
        if count > MOST_LINES + 1:
            return
        if count == MOST_LINES + 1:
            level, message, fields = "warning", f"log cut: this attempt logged more than {MOST_LINES} lines", {}
        line = (time.monotonic(), level if level in LEVELS else "info", clean(message), _json(fields))
        self._lines.setdefault(ctx, []).append(line)
        self._note(ctx)

    def holds_lease(self, ctx: TaskContext) -> bool:
        """Tell whether the attempt may still write."""
        return self._holds(ctx)

    def take(self, contexts: Iterable[TaskContext] | None = None) -> Batch:
        """Hand out what these attempts, or all, reported."""
        chosen = dict.fromkeys(contexts if contexts is not None else [*self._progress, *self._lines])
        return Batch(
            [(ctx, report) for ctx in chosen if (report := self._progress.pop(ctx, None)) is not None],
            [(ctx, line) for ctx in chosen for line in self._lines.pop(ctx, ())],
        )

    def give_back(self, batch: Batch) -> None:
        """The batch was not written; newer reports stand."""
        for ctx, report in batch.progress:
            self._progress.setdefault(ctx, report)
        for ctx, line in reversed(batch.lines):
            self._lines.setdefault(ctx, []).insert(0, line)
        self._pending.set()

    def forget(self, ctx: TaskContext) -> None:
        """This attempt is settled."""
        if ctx in self.reporters:
            self.reporters.discard(ctx)
            self._counts.pop(ctx, None)
            self._progress.pop(ctx, None)
            self._lines.pop(ctx, None)

    async def wait(self) -> None:
        """Wait until there is something to write, and a tenth of a second more."""
        await self._pending.wait()
        await asyncio.sleep(PAUSE_S)
        self._pending.clear()

    def _note(self, ctx: TaskContext) -> None:
        self.reporters.add(ctx)
        if not self._pending.is_set():
            self._loop.call_soon_threadsafe(self._pending.set)


def _progress_json(reports: list[tuple[TaskContext, Mapping[str, Any]]]) -> str | None:
    if not reports:
        return None
    rows = [
        {
            **report,
            "task_id": ctx.task_id,
            "attempt": ctx.attempt,
            "message": clean(str(report["message"])),
            "step": None if report["step"] is None else clean(str(report["step"])),
        }
        for ctx, report in reports
    ]
    return msgspec.json.encode(rows).decode()


def _lines_json(lines: list[tuple[TaskContext, Line]]) -> str | None:
    if not lines:
        return None
    now = time.monotonic()
    rows = [
        {
            "task_id": ctx.task_id,
            "attempt": ctx.attempt,
            "level": level,
            "message": message,
            "fields": msgspec.Raw(fields.encode()),
            "ago": round(now - at, 6),
        }
        for ctx, (at, level, message, fields) in lines
    ]
    return msgspec.json.encode(rows).decode()


def _json(fields: Mapping[str, Any]) -> str:
    plain = {str(name): value for name, value in fields.items()}
    try:
        text = msgspec.json.encode(plain, enc_hook=repr)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        text = msgspec.json.encode({name: clean(repr(value)) for name, value in plain.items()})
    return text.decode("utf-8", "replace").replace("\\u0000", "\\\\u0000")
