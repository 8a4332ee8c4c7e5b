"""Logging: structlog to stderr, with each event carrying the task that it belongs to.

`task_fields` holds the task that runs in the current context. While it is set, events carry its
ids, and a copy of each goes to its sink, which writes the task's log.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, Protocol

import structlog

from pgqueue import settings

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

__all__ = ["Sink", "TaskFields", "add_task_fields", "capture", "configure", "task_fields"]

Sink = Callable[[str, str, Mapping[str, Any]], None]
"""Takes level, message and fields of one event; called in the thread that logs, so must be quick."""

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
OWN = frozenset({"event", "level", "timestamp", "task_id", "attempt", "task_type", "queue"})
PLAIN = (int, float, bool, type(None))


class TaskFields(Protocol):
    """The task that runs in this context, and where its events go besides stderr."""

    @property
    def task_id(self) -> int:
        """The task."""

    @property
    def attempt(self) -> int:
        """Which start of it."""

    @property
    def task_type(self) -> str:
        """Its type."""

    @property
    def queue(self) -> str:
        """Its queue."""

    @property
    def sink(self) -> Sink | None:
        """Where its events go besides stderr."""


task_fields: ContextVar[TaskFields | None] = ContextVar("pgqueue_task_fields", default=None)
"""The current task, or None outside of handlers."""


def add_task_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add task_id, attempt, task_type and queue of the current task (a structlog processor)."""
    task = task_fields.get()
    if task is not None:
        event["task_id"] = task.task_id
        event["attempt"] = task.attempt
        event["task_type"] = task.task_type
        event["queue"] = task.queue
    return event


def capture(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Hand level, message and fields to the current task's sink (a structlog processor)."""
    task = task_fields.get()
    if task is not None and task.sink is not None:
        fields = {name: value for name, value in event.items() if name not in OWN}
        task.sink(event.get("level", method), str(event.get("event", "")), fields)
    return event


def configure(
    level: str = "info",
    format: Literal["console", "json"] = "console",  # noqa: A002 - as in settings
    *,
    standard_library: bool = True,
) -> None:
    """Send structlog, and with `standard_library` logging too, to stderr from `level` up.

    One event is one line: control characters are escaped; only a traceback on the console spans
    lines, and those are indented. NO_COLOR, or a stderr that is no terminal, means plain text.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    render: list[Processor] = [_json] if format == "json" else _console()
    structlog.configure(
        processors=[*_processors(), *render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    if standard_library:
        logging.basicConfig(handlers=[_Forward()], level=max(number, logging.INFO), force=True)


class _Forward(logging.Handler):
    """Passes records of the standard library's logging on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger().bind(logger=record.name)
        try:
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info)
        except Exception:  # noqa: BLE001 - a broken log call must not break its caller; logging reports it
            self.handleError(record)


def _processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        add_task_fields,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        capture,
    ]


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    text = json.dumps(event, default=repr, ensure_ascii=False)
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _console() -> list[Processor]:
    colors = sys.stderr.isatty() and not settings.no_color()
    return [_escape, structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]


def _escape(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if name == "exception":
            event[name] = "\n".join("    " + _visible(line) for line in str(value).split("\n"))
        elif not isinstance(value, PLAIN):
            event[name] = _visible(value if isinstance(value, str) else repr(value))
    return event


def _visible(text: str) -> str:
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
