"""Running one handler directly: a real context, reports kept in memory, no database."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from pgqueue.handlers import Handler, TaskContext
from pgqueue.models import LogLine, TaskProgress, encode_payload
from pgqueue.worker.attempts import Attempt
from pgqueue.worker.executors import call_plain
from pgqueue.worker.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["InlineRun", "run_inline", "run_inline_sync"]


@dataclass
class InlineRun:
    """What a handler did.

    `result` is what the task's result would be, after its way through JSON. `outcome` is that of its execution:
    completed, failed, snoozed or cancelled; `error` is what the handler raised. `progress` holds every report, also
    those that a worker would pass over because they come too fast; `logs` the lines of `ctx.log`, and structlog's
    where pgqueue.log.configure was called.
    """

    outcome: str = "completed"
    result: Any = None
    error: BaseException | None = None
    progress: list[TaskProgress] = field(default_factory=list)
    logs: list[LogLine] = field(default_factory=list)
    permanent: bool = False
    """Whether the task would fail at once, whatever retries it has left."""
    delay: float | None = None
    """Seconds that the handler asked to wait, by RetryLater or Snooze."""

    @property
    def messages(self) -> list[str]:
        """The messages of the log lines."""
        return [line.message for line in self.logs]


class _Reporter:
    """Keeps what a handler reports."""

    def __init__(self, run: InlineRun, *, owned: bool) -> None:
        self.run = run
        self.owned = owned

    def report_progress(self, ctx: TaskContext, report: Mapping[str, Any]) -> None:
        progress = TaskProgress(ctx.task_id, "running", updated_at=datetime.now(UTC), **report)
        self.run.progress.append(progress)

    def report_line(self, ctx: TaskContext, level: str, message: str, fields: Mapping[str, Any]) -> None:
        number = len(self.run.logs) + 1
        line = LogLine(number, ctx.task_id, ctx.attempt, datetime.now(UTC), level, message, dict(fields))
        self.run.logs.append(line)

    def holds_lease(self, _ctx: TaskContext) -> bool:
        return self.owned


class _Attempt(Attempt):
    """An attempt that keeps the error itself beside what the database would be told of it."""

    __slots__ = ("error",)

    def __init__(self, ctx: TaskContext, handler: Handler[Any, Any]) -> None:
        super().__init__(ctx, handler, 1, None)
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.error = error
        super().fail(error)


async def run_inline(  # noqa: PLR0913 - what a claim would bring
    handler: Handler[Any, Any] | Callable[..., Any],
    payload: object = None,
    *,
    catch: bool = False,
    cancelled: bool = False,
    task_id: int = 1,
    attempt: int = 1,
    failures: int = 0,
    **options: Any,  # noqa: ANN401 - fields of TaskRequest
) -> InlineRun:
    """Run a handler as a worker would, payload and result through JSON, without a database.

    `handler` is a registered one or a function `f(ctx, payload)`. Async handlers run on this loop, plain ones in a
    thread, those for a process too. What the handler raises is raised here, or with `catch` kept in the answer.
    `cancelled` sets ctx.cancelled from the start. `options` are fields of TaskRequest. No timeout is enforced.
    Raises InvalidInput for a payload that could not be submitted, PayloadError for one that does not fit.
    """
    chosen = handler if isinstance(handler, Handler) else Handler(getattr(handler, "__name__", "inline"), handler)
    run = InlineRun()
    row = _row(chosen, payload, (task_id, attempt, failures), options)
    ctx = TaskContext(row, row[QUEUE], _Reporter(run, owned=not cancelled))
    if cancelled:
        ctx.stop()
    tried = _Attempt(ctx, chosen)
    await (_on_loop(tried) if chosen.executor == "async" else asyncio.to_thread(_in_thread, tried))
    _conclude(run, tried)
    if run.error is not None and not catch:
        raise run.error
    return run


def run_inline_sync(
    handler: Handler[Any, Any] | Callable[..., Any],
    payload: object = None,
    **options: Any,  # noqa: ANN401 - those of run_inline
) -> InlineRun:
    """As run_inline, for tests that are no coroutines: runs an event loop of its own."""
    return asyncio.run(run_inline(handler, payload, **options))


QUEUE = 15
"""A row is what pgqueue.claim returns, and the name of the queue after it."""


def _row(
    handler: Handler[Any, Any], payload: object, numbers: tuple[int, int, int], options: dict[str, Any]
) -> tuple[Any, ...]:
    request = handler.request(payload, **options)
    now = datetime.now(UTC).isoformat()
    task_id, attempt, failures = numbers
    return (
        *(task_id, attempt, -int(request.priority), now, request.task_type, encode_payload(request.payload)),
        *(request.timeout, request.max_retries, failures, 0, now, request.unique_key),
        *(request.user_id, request.project_id),
        None if request.metadata is None else encode_payload(request.metadata, "metadata"),
        request.queue_name,
    )


async def _on_loop(attempt: _Attempt) -> None:
    ended = asyncio.Event()
    Runner(lambda _: ended.set()).start([attempt])
    await ended.wait()


def _in_thread(attempt: _Attempt) -> None:
    attempt.begin()
    call_plain(attempt)
    attempt.end()


def _conclude(run: InlineRun, attempt: _Attempt) -> None:
    run.error = attempt.error
    if attempt.failure is not None:
        failure = msgspec.json.decode(attempt.failure)
        run.outcome = failure["outcome"]
        run.permanent = failure.get("permanent", False)
        run.delay = failure.get("delay")
    elif attempt.result is not None:
        run.result = msgspec.json.decode(attempt.result)
