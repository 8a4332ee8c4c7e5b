"""Spans by the semantic conventions of OpenTelemetry for messaging and HTTP: send, process, settle, and requests."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from pgqueue.telemetry import METADATA_KEY

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence

    from opentelemetry.trace import Span, TracerProvider

    from pgqueue.models import TaskRequest

    App = Callable[[Any, Any, Any], Awaitable[None]]

__all__ = ["Process", "Sending", "Tracing"]

MOST_METADATA = 60_000
"""Metadata that are larger are left alone: they would not fit any more."""
FAILED = ("failed", "timed_out")
NO_PARENT = trace.INVALID_SPAN


class _Traced(msgspec.Struct):
    """Metadata, as far as they are read here."""

    carrier: dict[str, str] = msgspec.field(name=METADATA_KEY, default_factory=dict)


class Sending:
    """A submit that is being traced: its requests carry the context of its span."""

    def __init__(self, span: Span, requests: Sequence[TaskRequest]) -> None:
        """Made by Tracing.send."""
        self.requests = requests
        self._span = span

    def sent(self, *task_ids: int) -> None:
        """Note the id where it is one task."""
        if len(task_ids) == 1:
            self._span.set_attribute("messaging.message.id", str(task_ids[0]))


class Process:
    """The span of an attempt, and after it that of its settlement."""

    __slots__ = ("_settle", "_tracing", "attributes", "queue_name", "span")

    def __init__(self, tracing: Tracing, span: Span, queue_name: str, attributes: dict[str, Any]) -> None:
        """Made by Tracing.process."""
        self.span = span
        self.queue_name = queue_name
        self.attributes = attributes
        self._tracing = tracing
        self._settle: Span | None = None

    def end(self, failure: str | None) -> None:
        """The handler is over; `failure` is what pgqueue.finish will be told."""
        told: dict[str, Any] = {"outcome": "completed"} if failure is None else msgspec.json.decode(failure)
        self.attributes["pgqueue.outcome"] = told["outcome"]
        self.span.set_attribute("pgqueue.outcome", told["outcome"])
        if told["outcome"] in FAILED:
            _fail(self.span, told)
        self.span.end()

    def settle(self) -> None:
        """Its end is being sent to the database."""
        if self._settle is None:
            self._settle = self._tracing.settle(self)

    def settled(self) -> None:
        """The database knows."""
        if self._settle is not None:
            self._settle.end()


class Tracing:
    """Makes spans."""

    def __init__(self, relation: Literal["link", "parent"], tracer_provider: TracerProvider | None) -> None:
        """`relation`: see `instrument`."""
        self._relation = relation
        self._tracer = trace.get_tracer("pgqueue", version("pgqueue"), tracer_provider)

    @contextlib.contextmanager
    def send(self, requests: Sequence[TaskRequest], *, is_batch: bool) -> Iterator[Sending]:
        """Make the span of a submit, whose context goes with the tasks."""
        queues = {request.queue_name for request in requests}
        attributes = _messaging("send", queues.pop() if len(queues) == 1 else None)
        if is_batch:
            attributes["messaging.batch.message_count"] = len(requests)
        else:
            attributes["pgqueue.task_type"] = requests[0].task_type
        with self._tracer.start_as_current_span(
            _name(attributes), kind=SpanKind.PRODUCER, attributes=attributes
        ) as span:
            carrier: dict[str, str] = {}
            self.inject(carrier)
            yield Sending(span, [_with_trace(request, carrier) for request in requests] if carrier else requests)

    def process(self, row: tuple[Any, ...], queue_name: str) -> Process:
        """Begin the span of an attempt, in the context of the caller, which is the handler's; `row` as claimed."""
        attributes = _messaging("process", queue_name) | {
            "messaging.message.id": str(row[0]),
            "pgqueue.task_type": row[4],
            "pgqueue.attempt": row[1],
        }
        sender = propagate.extract(_carrier(row[14]), contexts.Context())
        creation = trace.get_current_span(sender).get_span_context()
        parent = sender if self._relation == "parent" else trace.set_span_in_context(NO_PARENT, sender)
        span = self._tracer.start_span(
            _name(attributes),
            parent,
            SpanKind.CONSUMER,
            attributes,
            [Link(creation)] if creation.is_valid else [],
        )
        contexts.attach(trace.set_span_in_context(span, parent))
        return Process(self, span, queue_name, attributes)

    def settle(self, process: Process) -> Span:
        """Begin the span of an attempt's settlement."""
        attributes = process.attributes | _messaging("settle", process.queue_name)
        context = trace.set_span_in_context(process.span, contexts.Context())
        return self._tracer.start_span(_name(attributes), context, SpanKind.CLIENT, attributes)

    def inject(self, carrier: MutableMapping[str, str]) -> None:
        """Write the context of the current span."""
        propagate.inject(carrier)

    def current(self) -> dict[str, str]:
        """Return the context of the current span, for another process."""
        carrier: dict[str, str] = {}
        self.inject(carrier)
        return carrier

    def adopt(self, carrier: Mapping[str, str]) -> None:
        """Go on in this context where another process is."""
        contexts.attach(propagate.extract(carrier, contexts.Context()))

    async def serve(self, app: App, scope: dict[str, Any], receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI's
        """Serve a request within a span, which goes on the trace of whoever asks."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        attributes = {
            "http.request.method": scope["method"],
            "url.path": (scope.get("raw_path") or scope["path"].encode()).decode("latin-1"),
            "url.scheme": scope.get("scheme", "http"),
        }

        async def sending(message: Any) -> None:  # noqa: ANN401 - ASGI's
            if message["type"] == "http.response.start":
                _answered(span, scope, message["status"])
            await send(message)

        with self._tracer.start_as_current_span(
            scope["method"], propagate.extract(headers), SpanKind.SERVER, attributes
        ) as span:
            await app(scope, receive, sending)


def _messaging(operation: Literal["send", "process", "settle"], queue_name: str | None) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "messaging.system": "pgqueue",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }
    if queue_name is not None:
        attributes["messaging.destination.name"] = queue_name
    return attributes


def _name(attributes: Mapping[str, Any]) -> str:
    """Name a span: send emails."""
    queue_name = attributes.get("messaging.destination.name")
    operation = attributes["messaging.operation.name"]
    return operation if queue_name is None else f"{operation} {queue_name}"


def _with_trace(request: TaskRequest, carrier: Mapping[str, str]) -> TaskRequest:
    """Return a request that carries a context: its own, where its submitter gave it one."""
    metadata: object = request.metadata
    if metadata is not None and (not isinstance(metadata, Mapping) or METADATA_KEY in metadata or _is_large(metadata)):
        return request
    return msgspec.structs.replace(request, metadata={**(metadata or {}), METADATA_KEY: carrier})


def _is_large(metadata: Mapping[str, Any]) -> bool:
    """Tell whether metadata are nearly too large, or cannot be written, which the submit itself will say."""
    try:
        return len(msgspec.json.encode(metadata)) > MOST_METADATA
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return True


def _carrier(metadata: str | None) -> dict[str, str]:
    """Return the context that a task carries; whatever else a foreign submitter wrote there is passed over."""
    if metadata is None or METADATA_KEY not in metadata:
        return {}
    try:
        return msgspec.json.decode(metadata, type=_Traced).carrier
    except (msgspec.DecodeError, RecursionError):
        return {}


def _fail(span: Span, told: Mapping[str, Any]) -> None:
    kind, message = told.get("error_type", "unknown"), told.get("error_message", "")
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))
    exception = {"exception.type": kind, "exception.message": message, "exception.stacktrace": told.get("traceback")}
    span.add_event("exception", {name: value for name, value in exception.items() if value is not None})


def _answered(span: Span, scope: Mapping[str, Any], status: int) -> None:
    """Name the route, which is known by now, and the status."""
    route = scope.get("path_template")
    if route:
        span.update_name(f"{scope['method']} {route}")
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
