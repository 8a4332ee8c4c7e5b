"""Every error as application/problem+json (RFC 9457): one map from exception to problem."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import structlog
from litestar import Response
from litestar.exceptions import HTTPException, ValidationException

from pgqueue import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Request

__all__ = [
    "BY_ERROR",
    "MEDIA_TYPE",
    "TIMED_OUT",
    "Fault",
    "HttpError",
    "Kind",
    "Problem",
    "answer",
    "answer_http",
    "answer_unforeseen",
]

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:pgqueue:"
CONSTRAINT = re.compile(r"(?:tasks|queues|api_keys|idempotency_keys|schedules)_(\w+)")
UNAVAILABLE_S = 2
FULL_S = 5
log = structlog.get_logger()


class Kind(NamedTuple):
    """What an exception becomes: HTTP status, last part of the type, title."""

    status: int
    name: str
    title: str


BY_ERROR: dict[type[errors.PgqueueError], Kind] = {
    errors.InvalidInput: Kind(422, "invalid-input", "A value is refused"),
    errors.PayloadError: Kind(422, "payload-error", "A payload or result does not fit its type"),
    errors.HandlerNotFound: Kind(422, "handler-not-found", "Nothing handles this task type"),
    errors.QueueNotFound: Kind(404, "queue-not-found", "There is no such queue"),
    errors.TaskNotFound: Kind(404, "task-not-found", "There is no such task"),
    errors.ScheduleNotFound: Kind(404, "schedule-not-found", "There is no such schedule"),
    errors.KeyNotFound: Kind(404, "key-not-found", "There is no such key"),
    errors.OperationNotFound: Kind(404, "operation-not-found", "There is no such bulk operation"),
    errors.WorkerNotFound: Kind(404, "worker-not-found", "There is no such worker"),
    errors.InvalidTransition: Kind(409, "invalid-transition", "The state does not allow this"),
    errors.DuplicateTask: Kind(409, "duplicate-task", "A live task holds this unique key"),
    errors.IdempotencyConflict: Kind(422, "idempotency-conflict", "The idempotency key belongs to another request"),
    errors.LeaseLost: Kind(409, "lease-lost", "The attempt no longer owns its task"),
    errors.QueueFull: Kind(429, "queue-full", "The queue is full"),
    errors.SchemaMismatch: Kind(503, "schema-mismatch", "The database's schema does not fit this release"),
    errors.Unauthenticated: Kind(401, "unauthenticated", "A valid key is needed"),
    errors.Forbidden: Kind(403, "forbidden", "The key may not be used for this"),
    errors.RateLimited: Kind(429, "rate-limited", "Too many requests"),
    errors.DatabaseUnavailable: Kind(503, "database-unavailable", "The database cannot be reached"),
    errors.ConfigurationError: Kind(500, "configuration-error", "The server is not set up correctly"),
    errors.TaskFailed: Kind(409, "task-failed", "The task failed"),
    errors.TaskCancelled: Kind(409, "task-cancelled", "The task was cancelled"),
    errors.PgqueueError: Kind(500, "internal-error", "Something went wrong in the server"),
}
"""The problems of pgqueue's own errors; a class that is not listed has that of its base."""

TIMED_OUT = "57014"
TOO_SLOW = Kind(503, "statement-timeout", "The database took too long")

HINTS: dict[type[errors.PgqueueError], str] = {
    errors.QueueNotFound: "create it: POST /api/v1/queues",
    errors.TaskNotFound: "ids come from submits and lists; what ended long ago may have been cleaned up",
    errors.ScheduleNotFound: "GET /api/v1/scheduled-tasks lists those that there are",
    errors.DuplicateTask: "wait for its end, use another key or name, or say on_conflict: return or replace",
    errors.SchemaMismatch: "run pgqueue migrate",
}
"""What to do, in terms of HTTP, where the database speaks of SQL."""

HIDDEN = {500, 503}
"""Statuses whose messages tell of the inside, and are for the log."""


class Fault(msgspec.Struct, frozen=True):
    """One value that is refused: where it is and why."""

    pointer: str
    """JSON Pointer (RFC 6901) into the body, or the name of the parameter."""
    message: str
    location: str = msgspec.field(name="in", default="body")
    """body, query, path or header."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    type: str
    """Names the kind of problem, for programs."""
    title: str
    status: int
    detail: str
    """What went wrong this time."""
    instance: str | None = None
    """The path that was asked for."""
    hint: str | None = None
    """What to do about it."""
    code: str | None = None
    """SQLSTATE, where the database refused."""
    errors: list[Fault] | None = None
    """The values that are refused."""
    context: dict[str, Any] | None = None
    """The values that it is about: task_id, queue_name, status …"""


class HttpError(Exception):
    """An error of HTTP itself, with what is wrong and what to do; `faults` name the values at fault."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        hint: str | None = None,
        faults: list[Fault] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.hint = hint
        self.faults = faults
        self.headers = dict(headers or {})


def answer(request: Request[Any, Any, Any], error: errors.PgqueueError) -> Response[Problem]:
    """Answer with one of pgqueue's own errors."""
    kind = _kind(error)
    hidden = kind.status in HIDDEN
    if hidden:
        log.warning("a request failed", path=request.scope["path"], error=type(error).__name__, reason=str(error))
    problem = Problem(
        PREFIX + kind.name,
        kind.title,
        kind.status,
        f"{kind.title}." if hidden else _sentence(error),
        instance=_instance(request),
        hint=_hint(error, hidden=hidden),
        code=None if hidden else error.sqlstate,
        errors=_faults(error) if kind.status == HTTPStatus.UNPROCESSABLE_ENTITY else None,
        context=None if hidden else _context(error),
    )
    return _respond(problem, _headers(error))


def answer_http(request: Request[Any, Any, Any], error: HttpError | HTTPException) -> Response[Problem]:
    """Answer with an error of HTTP: no such path, method, media type; a body that is too large or cannot be read."""
    if isinstance(error, ValidationException):
        error = HttpError(400, "the body is missing", hint="send JSON with Content-Type: application/json")
    elif isinstance(error, HTTPException):
        hint = "the OpenAPI document at /api/v1/openapi.json lists paths and methods"
        error = HttpError(error.status_code, error.detail, hint=hint, headers=error.headers)
    title = HTTPStatus(error.status).phrase
    problem = Problem(
        "about:blank",
        title,
        error.status,
        error.detail if error.detail != title else f"{title}.",
        instance=_instance(request),
        hint=error.hint,
        errors=error.faults,
    )
    closing = {"Connection": "close"} if error.status in (408, 413) else {}
    return _respond(problem, error.headers | closing)


def answer_unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Answer with what nobody foresaw: the traceback goes to the log and nowhere else."""
    log.error("a request failed in a way that was not foreseen", path=request.scope["path"], exc_info=error)
    return answer(request, errors.PgqueueError("unforeseen"))


def _respond(problem: Problem, headers: Mapping[str, str]) -> Response[Problem]:
    return Response(problem, status_code=problem.status, media_type=MEDIA_TYPE, headers=dict(headers))


def _kind(error: errors.PgqueueError) -> Kind:
    if error.sqlstate == TIMED_OUT:
        return TOO_SLOW
    return next(BY_ERROR[kind] for kind in type(error).__mro__ if kind in BY_ERROR)


def _sentence(error: errors.PgqueueError) -> str:
    """Say what is wrong; where PostgreSQL itself refuses, without the names of its insides."""
    field = _field(error)
    if field is not None:
        return f"{field}: {error.hint or 'this value is refused'}"
    is_ours = error.sqlstate is None or error.sqlstate.startswith("QU")
    return error.message if is_ours else re.split(r"[:(]", error.message)[0].strip()


def _hint(error: errors.PgqueueError, *, hidden: bool) -> str | None:
    return HINTS.get(type(error)) or ("try again later; the log says more" if hidden else error.hint)


def _field(error: errors.PgqueueError) -> str | None:
    """Return the field whose rule in the database was broken."""
    form = CONSTRAINT.fullmatch(str(error.detail.get("constraint", "")))
    return form[1] if form else None


def _faults(error: errors.PgqueueError) -> list[Fault] | None:
    field = _field(error) or error.detail.get("field")
    if not isinstance(field, str):
        return None
    if "position" in error.detail:
        field = f"tasks[{error.detail['position']}].{field}"
    return [Fault(pointer_of(field), _sentence(error))]


def pointer_of(path: str) -> str:
    """Turn a path such as payload.items[3] into a JSON Pointer."""
    return "".join(f"/{part}" for part in re.split(r"\.|\[|\]\.?", path.removeprefix("$")) if part)


def _context(error: errors.PgqueueError) -> dict[str, Any] | None:
    known = {name: value for name, value in error.detail.items() if name not in ("constraint", "detail", "field")}
    return known or None


def _headers(error: errors.PgqueueError) -> dict[str, str]:
    if isinstance(error, errors.Unauthenticated):
        return {"WWW-Authenticate": 'Bearer realm="pgqueue"'}
    if isinstance(error, errors.RateLimited):
        return {"Retry-After": f"{error.detail.get('retry_after', 1)}"}
    if isinstance(error, errors.QueueFull):
        return {"Retry-After": f"{FULL_S}"}
    if isinstance(error, (errors.DatabaseUnavailable, errors.SchemaMismatch)) or error.sqlstate == TIMED_OUT:
        return {"Retry-After": f"{UNAVAILABLE_S}"}
    return {}


def _instance(request: Request[Any, Any, Any]) -> str:
    raw: bytes = request.scope.get("raw_path") or b""
    return raw.decode("ascii", "replace")
