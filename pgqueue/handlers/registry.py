"""The functions that run tasks, by task type."""

from __future__ import annotations

import functools
import inspect
import typing
from typing import Any, Generic, Literal, TypeVar

import msgspec

from pgqueue.errors import ConfigurationError, HandlerNotFound, PayloadError
from pgqueue.models import TaskRequest

if typing.TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.handlers.context import TaskContext
    from pgqueue.handlers.outcomes import Retry

__all__ = ["Executor", "Handler", "Registry"]

Executor = Literal["async", "thread", "process"]
R = TypeVar("R")
P = TypeVar("P")


class Handler(Generic[P, R]):
    """A registered function. Calling it calls the function; `submit` puts a task for it into the queue."""

    def __init__(  # noqa: PLR0913 - the options of a handler
        self,
        task_type: str,
        fn: Callable[..., Any],
        *,
        queue_name: str = "default",
        max_retries: int | None = None,
        timeout: int | None = None,
        retry: Retry | None = None,
        executor: Executor | None = None,
        memory_limit_mb: int | None = None,
    ) -> None:
        """Read the payload's type off the function's second parameter.

        Raises ConfigurationError for a function that cannot be a handler.
        """
        self.task_type = task_type
        self.fn = fn
        self.queue_name = queue_name
        self.max_retries = max_retries
        self.timeout = timeout
        self.retry = msgspec.to_builtins(retry) if retry is not None else None
        self.executor: Executor = executor or ("async" if inspect.iscoroutinefunction(fn) else "thread")
        self.memory_limit_mb = memory_limit_mb
        self.takes_payload = _takes_payload(task_type, fn)
        self.decoder = msgspec.json.Decoder(_payload_type(fn)) if self.takes_payload else None
        self.submitter: Callable[..., Any] | None = None
        _check_executor(self)
        functools.update_wrapper(self, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - the function's own signature
        """Call the function itself, as tests do."""
        return self.fn(*args, **kwargs)

    def submit(self, payload: P | None = None, **options: Any) -> Any:  # noqa: ANN401 - Task, which lies above this layer
        """Submit a task for this handler; options are those of TaskRequest, and `conn`.

        Returns the Task, to be awaited where the service is async. Raises what submit_task raises.
        """
        if self.submitter is None:
            msg = f"handler {self.task_type!r} belongs to no queue service"
            raise ConfigurationError(msg, hint="register it: @queue_service.handler(…) or register_handler(…)")
        return self.submitter(self, payload, **options)

    def request(self, payload: object, **options: Any) -> TaskRequest:  # noqa: ANN401 - fields of TaskRequest
        """Return what `submit` submits: this handler's queue, retries and timeout, unless options say otherwise."""
        options.setdefault("queue_name", self.queue_name)
        if self.max_retries is not None:
            options.setdefault("max_retries", self.max_retries)
        if self.timeout is not None:
            options.setdefault("timeout", self.timeout)
        return TaskRequest(task_type=self.task_type, payload={} if payload is None else payload, **options)

    def decode(self, payload: str) -> Any:  # noqa: ANN401 - the type that the function asks for
        """Turn JSON text into the payload's type. Raises PayloadError with the path of the bad field."""
        try:
            return self.decoder.decode(payload) if self.decoder is not None else None
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            msg = f"the payload does not fit {self.task_type!r}: {error}"
            raise PayloadError(msg, hint="submit it again with a payload that fits the handler's parameter") from error


def _takes_payload(task_type: str, fn: Callable[..., Any]) -> bool:
    parameters = [
        p
        for p in inspect.signature(fn).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and (p.default is p.empty)
    ]
    if len(parameters) not in (1, 2):
        msg = f"the handler of {task_type!r} takes {len(parameters)} parameters"
        raise ConfigurationError(msg, hint="write it as f(ctx, payload) or f(ctx)")
    return len(parameters) == 2


def _payload_type(fn: Callable[..., Any]) -> Any:  # noqa: ANN401 - any type msgspec can decode
    parameter = list(inspect.signature(fn).parameters.values())[1]
    if parameter.annotation is parameter.empty:
        return Any
    try:
        hints = typing.get_type_hints(fn)
    except NameError as error:
        msg = f"the annotation of {fn.__qualname__}'s parameter {parameter.name!r} cannot be read: {error}"
        raise ConfigurationError(
            msg, hint="the payload's type must be importable at run time, not only for type checkers"
        ) from error
    return hints[parameter.name]


def _check_executor(handler: Handler[Any, Any]) -> None:
    is_async = inspect.iscoroutinefunction(handler.fn)
    if handler.executor not in typing.get_args(Executor):
        msg = f"there is no executor {handler.executor!r}"
        raise ConfigurationError(msg, hint="choose async, thread or process")
    if is_async != (handler.executor == "async"):
        kind = "an async function" if is_async else "a plain function"
        msg = f"the handler of {handler.task_type!r} is {kind} and cannot run in executor {handler.executor!r}"
        raise ConfigurationError(msg, hint="async functions run on the loop; plain functions in thread or process")
    if handler.memory_limit_mb is not None and handler.executor != "process":
        msg = f"memory_limit_mb of {handler.task_type!r} needs executor='process'"
        raise ConfigurationError(msg, hint="only a process has memory of its own")


class Registry:
    """The handlers of a service, by task type."""

    def __init__(self) -> None:
        """Start empty."""
        self._handlers: dict[str, Handler[Any, Any]] = {}

    def add(self, handler: Handler[Any, Any]) -> None:
        """Add a handler. Raises ConfigurationError where its type has one already."""
        if handler.task_type in self._handlers:
            known = self._handlers[handler.task_type].fn.__qualname__
            msg = f"task type {handler.task_type!r} has a handler already: {known}"
            raise ConfigurationError(msg, hint="give each handler a task type of its own")
        self._handlers[handler.task_type] = handler

    def find(self, task_type: str) -> Handler[Any, Any]:
        """Return the handler of a type; for a type that has none, one that raises HandlerNotFound."""
        handler = self._handlers.get(task_type)
        return handler if handler is not None else Handler(task_type, self._refuse)

    async def _refuse(self, ctx: TaskContext) -> None:
        known = ", ".join(sorted(self._handlers)) or "none"
        msg = f"no handler is registered for task type {ctx.task_type!r}; registered: {known}"
        raise HandlerNotFound(msg, hint="register it with @queue_service.handler(…), or correct the task type")

    def queue_names(self) -> set[str]:
        """Return the queues that handlers name."""
        return {handler.queue_name for handler in self._handlers.values()}

    def __iter__(self) -> typing.Iterator[Handler[Any, Any]]:
        """Go over the handlers."""
        return iter(self._handlers.values())

    def __len__(self) -> int:
        """Count the handlers."""
        return len(self._handlers)
