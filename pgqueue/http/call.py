"""A request as a value, and how its answer is read."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from pgqueue import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

__all__ = ["Call", "body_of", "error_of", "field_of", "retry_after"]

T = TypeVar("T")
MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:pgqueue:"
BY_TYPE: dict[str, type[errors.PgqueueError]] = {
    PREFIX + "".join(f"-{c.lower()}" if c.isupper() else c for c in name).lstrip("-"): getattr(errors, name)
    for name in errors.__all__
    if name[0].isupper() and name != "BY_SQLSTATE"
} | {PREFIX + "internal-error": errors.PgqueueError}
"""urn:pgqueue:task-not-found is TaskNotFound."""
BY_STATUS: dict[int, type[errors.PgqueueError]] = {
    HTTPStatus.BAD_REQUEST: errors.InvalidInput,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: errors.InvalidInput,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: errors.InvalidInput,
    HTTPStatus.UNPROCESSABLE_ENTITY: errors.InvalidInput,
    HTTPStatus.UNAUTHORIZED: errors.Unauthenticated,
    HTTPStatus.FORBIDDEN: errors.Forbidden,
    HTTPStatus.TOO_MANY_REQUESTS: errors.RateLimited,
    HTTPStatus.REQUEST_TIMEOUT: errors.ServerUnavailable,
    HTTPStatus.BAD_GATEWAY: errors.ServerUnavailable,
    HTTPStatus.SERVICE_UNAVAILABLE: errors.ServerUnavailable,
    HTTPStatus.GATEWAY_TIMEOUT: errors.ServerUnavailable,
}
"""What is meant by a status whose problem says no more, such as that of a proxy."""


class Call(NamedTuple, Generic[T]):
    """What to send, and how to read the answer.

    `is_repeatable`: sent twice it does no more than once. `wait_s`: seconds that the server may hold the answer back.
    """

    method: str
    path: str
    decode: Callable[[httpx.Response], T]
    params: Mapping[str, str] | None = None
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    is_repeatable: bool = False
    wait_s: int = 0


class _Problem(msgspec.Struct):
    """A problem of RFC 9457, as far as it is of use here."""

    type: str = "about:blank"
    title: str = ""
    detail: str = ""
    hint: str | None = None
    code: str | None = None
    errors: list[dict[str, Any]] | None = None
    context: dict[str, Any] | None = None


def body_of(response: httpx.Response, kind: type[T]) -> T:
    """Read a body. Raises ServerUnavailable for one that no server of pgqueue sends."""
    return _decoded(response, response.content, kind)


def field_of(response: httpx.Response, name: str, kind: type[T]) -> T:
    """Read one field of a body. Raises ServerUnavailable for a body that no server of pgqueue sends."""
    fields = _decoded(response, response.content, dict[str, msgspec.Raw])
    return _decoded(response, fields.get(name, b""), kind)


def _decoded(response: httpx.Response, text: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        msg = f"{response.url} answered what no server of pgqueue answers: {error}"
        hint = "check the URL, and that client and server are of one release"
        raise errors.ServerUnavailable(msg, hint=hint) from error


def error_of(response: httpx.Response) -> errors.PgqueueError | None:
    """Return the error that a response tells of; None for a success."""
    if response.is_success:
        return None
    problem = _problem(response)
    if problem is None:
        return _foreign(response)
    kind = BY_TYPE.get(problem.type) or BY_STATUS.get(response.status_code, errors.PgqueueError)
    detail: dict[str, object] = dict(problem.context or {})
    if problem.errors:
        detail |= {"field": problem.errors[0].get("pointer"), "errors": problem.errors}
    if response.status_code == HTTPStatus.TOO_MANY_REQUESTS and (seconds := retry_after(response)) is not None:
        detail.setdefault("retry_after", seconds)
    return kind(problem.detail or problem.title, detail=detail, hint=problem.hint, sqlstate=problem.code)


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of Retry-After; None where there is none."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else None


def _problem(response: httpx.Response) -> _Problem | None:
    if not response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return None
    try:
        return msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _foreign(response: httpx.Response) -> errors.PgqueueError:
    """The error of an answer that is none of ours."""
    kind = BY_STATUS.get(response.status_code, errors.PgqueueError)
    msg = f"{response.url} answered {response.status_code} {response.reason_phrase}"
    return kind(msg, hint="this is no answer of pgqueue: check the URL, and what stands before the server")
