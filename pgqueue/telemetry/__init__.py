"""Traces: one flag that hooks look at, and what OpenTelemetry needs of a task's metadata.

`tracing` is None until `instrument` is called, and nothing of OpenTelemetry is imported before. Each hook asks
`if telemetry.tracing is not None`, and does nothing else without traces.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from opentelemetry.trace import TracerProvider

    from pgqueue.models import TaskRequest
    from pgqueue.telemetry.spans import Sending, Tracing

    App = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["METADATA_KEY", "apply", "instrument", "sending", "traced", "tracing", "uninstrument", "without_trace"]

METADATA_KEY = "_trace"
"""Where a task's metadata keep the context of its submitter: {"traceparent": …} (W3C Trace Context)."""

tracing: Tracing | None = None
"""What makes spans; None: nothing does."""


def instrument(relation: Literal["link", "parent"] = "link", tracer_provider: TracerProvider | None = None) -> None:
    """Make spans from now on, with the global tracer provider unless one is given.

    `relation`: the span of a handler is linked to that of its task's submit and begins a trace of its own, or is its
    child. Raises ConfigurationError where OpenTelemetry is not installed.
    """
    global tracing  # noqa: PLW0603 - the flag of this process
    try:
        from pgqueue.telemetry.spans import Tracing  # noqa: PLC0415 - imports OpenTelemetry
    except ImportError as error:
        raise ConfigurationError("traces need OpenTelemetry", hint="pip install 'pgqueue[otel]'") from error
    tracing = Tracing(relation, tracer_provider)


def apply(setting: Literal["off", "link", "parent"]) -> None:
    """Make spans as a setting says, unless the program has said how. Raises ConfigurationError."""
    if setting != "off" and tracing is None:
        instrument(setting)


def uninstrument() -> None:
    """Make no spans any more."""
    global tracing  # noqa: PLW0603 - the flag of this process
    tracing = None


class _Silent:
    """Stands for a send that nobody traces."""

    def __init__(self, requests: Sequence[TaskRequest]) -> None:
        self.requests = requests

    def sent(self, *_task_ids: int) -> None:
        """Nobody asks."""


@contextlib.contextmanager
def sending(requests: Sequence[TaskRequest], *, is_batch: bool = False) -> Iterator[Sending | _Silent]:
    """Lend the requests as they are to be submitted, within a span where there are traces."""
    if tracing is None:
        yield _Silent(requests)
    else:
        with tracing.send(requests, is_batch=is_batch) as send:
            yield send


def traced(app: App) -> App:
    """Return an ASGI app around another, with a span for each request where there are traces."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        if tracing is None or scope["type"] != "http":
            await app(scope, receive, send)
        else:
            await tracing.serve(app, scope, receive, send)

    return serve


def without_trace(metadata: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return metadata as their owner wrote them."""
    if not isinstance(metadata, dict) or METADATA_KEY not in metadata:
        return metadata
    return {name: value for name, value in metadata.items() if name != METADATA_KEY} or None
