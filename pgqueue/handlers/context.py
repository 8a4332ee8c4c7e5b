"""What a handler is given: its task, and ways to report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec
import structlog

from pgqueue.telemetry import without_trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Mapping
    from datetime import datetime

__all__ = ["Reporter", "TaskContext"]


class Reporter(Protocol):
    """Where a context's reports go: the worker's batches, or the parent of a process."""

    def report_progress(self, ctx: TaskContext, report: Mapping[str, Any]) -> None:
        """Keep the last report of a task, to be written soon."""

    def report_line(self, ctx: TaskContext, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Keep a line of a task's log, to be written soon."""

    def holds_lease(self, ctx: TaskContext) -> bool:
        """Tell whether the attempt may still write."""


class _Done:
    """Awaits at once: reports are kept in memory and written by the worker, so nothing is waited for."""

    __slots__ = ("value",)

    def __init__(self, value: object = None) -> None:
        self.value = value

    def __await__(self) -> Generator[None, None, Any]:
        return self.value
        yield

    def __bool__(self) -> bool:
        return bool(self.value)


_DONE = _Done()


class TaskContext:
    """What a handler knows of its task, and how it reports.

    The same object serves async handlers, which may await the reports, and plain functions, which
    just call them. Reports are fenced by (task_id, attempt): once the lease is lost they change nothing.
    """

    __slots__ = ("_cancelled", "_reporter", "queue", "result", "row")

    def __init__(self, row: tuple[Any, ...], queue_name: str, reporter: Reporter) -> None:
        """`row` is what pgqueue.claim returned."""
        self.row = row
        self.queue = queue_name
        self.result: object = None
        self._reporter = reporter
        self._cancelled = False

    @property
    def task_id(self) -> int:
        """The task."""
        return cast("int", self.row[0])

    @property
    def attempt(self) -> int:
        """Which start this is, from 1; (task_id, attempt) is the lease."""
        return cast("int", self.row[1])

    @property
    def task_type(self) -> str:
        """The type that named the handler."""
        return cast("str", self.row[4])

    @property
    def queue_name(self) -> str:
        """The queue it came from."""
        return self.queue

    @property
    def priority(self) -> int:
        """Its priority."""
        return -cast("int", self.row[2])

    @property
    def timeout(self) -> int | None:
        """Seconds this attempt may run."""
        return cast("int | None", self.row[6])

    @property
    def max_retries(self) -> int:
        """How many failures are followed by another attempt."""
        return cast("int", self.row[7])

    @property
    def failures(self) -> int:
        """Earlier attempts that failed or timed out."""
        return cast("int", self.row[8])

    @property
    def created_at(self) -> datetime:
        """When the task was submitted."""
        from datetime import datetime  # noqa: PLC0415 - only handlers that ask for it pay for it

        return datetime.fromisoformat(self.row[10] or self.row[3])

    @property
    def unique_key(self) -> str | None:
        """Its unique key."""
        return cast("str | None", self.row[11])

    @property
    def user_id(self) -> str | None:
        """The user it works for."""
        return cast("str | None", self.row[12])

    @property
    def project_id(self) -> str | None:
        """The project it works for."""
        return cast("str | None", self.row[13])

    @property
    def metadata(self) -> Any:  # noqa: ANN401 - any JSON
        """What the submitter kept beside the payload."""
        return None if self.row[14] is None else without_trace(msgspec.json.decode(self.row[14]))

    @property
    def cancelled(self) -> bool:
        """True once the attempt shall stop: cancelled, timed out, or its lease lost. For threads to look at."""
        return self._cancelled

    @property
    def logger(self) -> Any:  # noqa: ANN401 - structlog's loggers are typed so
        """A structlog logger with the task's fields; what it logs lands in task_logs too."""
        return structlog.get_logger()

    def update_progress(self, progress: int, message: str = "") -> Awaitable[None]:
        """Report percent (0 to 100) and a message; written at most ten times a second, the last one always.

        Raises ValueError for a percentage out of range.
        """
        return self._report(progress, message, None, None, None)

    def update_progress_with_steps(
        self, step: str, completed_steps: int, total_steps: int, message: str = ""
    ) -> Awaitable[None]:
        """Report the current step and how many of all are behind it; the percentage follows from them.

        Raises ValueError where 0 <= completed_steps <= total_steps does not hold.
        """
        if not 0 <= completed_steps <= total_steps or total_steps == 0:
            msg = f"{completed_steps} of {total_steps} steps: the first must lie between 0 and the second, at least 1"
            raise ValueError(msg)
        return self._report(100 * completed_steps // total_steps, message, step, completed_steps, total_steps)

    def log(self, level: str, message: str, **fields: object) -> Awaitable[None]:
        """Keep a line in the task's log: level debug, info, warning, error or critical."""
        if level not in {"debug", "info", "warning", "error", "critical"}:
            msg = f"there is no log level {level!r}: choose debug, info, warning, error or critical"
            raise ValueError(msg)
        self._reporter.report_line(self, level, message, fields)
        return _DONE

    def set_result(self, value: object) -> Awaitable[None]:
        """Set the result for a handler that returns None; a value that it returns replaces it."""
        self.result = value
        return _DONE

    def still_mine(self) -> _Done:
        """Tell whether this attempt still holds its lease, as far as the worker knows; `await` or `bool()` it."""
        return _Done(not self._cancelled and self._reporter.holds_lease(self))

    def stop(self) -> None:
        """Set `cancelled`; called by the worker."""
        self._cancelled = True

    def sink(self, level: str, message: str, fields: Mapping[str, Any]) -> None:
        """Take one event of the handler's logging; called by `log.capture`."""
        self._reporter.report_line(self, level, message, fields)

    def _report(
        self, progress: int, message: str, step: str | None, completed_steps: int | None, total_steps: int | None
    ) -> Awaitable[None]:
        if not 0 <= progress <= 100:
            msg = f"progress must be between 0 and 100 percent, not {progress!r}"
            raise ValueError(msg)
        report = {
            "progress": int(progress),
            "message": message,
            "step": step,
            "completed_steps": completed_steps,
            "total_steps": total_steps,
        }
        self._reporter.report_progress(self, report)
        return _DONE
