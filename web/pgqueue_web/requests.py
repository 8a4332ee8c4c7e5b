"""What comes in: bodies decoded strictly into structs, query strings likewise, names and ids from paths."""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request
from litestar.datastructures import State

from pgqueue.errors import PgqueueError, TaskNotFound, WorkerNotFound
from pgqueue_web.edge import SLASH
from pgqueue_web.problems import Fault, HttpError, pointer_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.connection import ASGIConnection

__all__ = [
    "ApiRequest",
    "idempotency_key",
    "preferred_wait",
    "provide_task_id",
    "provide_worker_id",
    "query_of",
    "read_query",
]

S = TypeVar("S", bound=msgspec.Struct)
DEEPEST = 100
FREE = ("payload", "metadata")
WHERE = re.compile(r"(?P<message>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
INTEGER = re.compile(r"-?[0-9]{1,19}", re.ASCII)
WAIT = re.compile(r"\bwait\s*=\s*\"?(\d{1,4})\"?", re.ASCII | re.IGNORECASE)
IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
LONGEST_WAIT_S = 60
JSON_HINT = "send JSON in UTF-8 with Content-Type: application/json"


class ApiRequest(Request[Any, Any, State]):
    """A request whose JSON is decoded at once, strictly, into the type that the handler asks for."""

    async def json(self) -> Any:  # noqa: ANN401 - the struct of the handler's body
        """Return the body as the struct of the handler. Raises HttpError with a pointer to what is wrong."""
        body = await self.body()
        wanted = self.route_handler.parsed_fn_signature.parameters["data"].annotation
        kind = next(part for part in (*get_args(wanted), wanted) if part is not type(None))
        if not body and type(None) in get_args(wanted):
            return None
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise HttpError(
                415, f"the body is {media_type or 'of no named type'}, not application/json", hint=JSON_HINT
            )
        if self.headers.get("content-encoding", "identity") != "identity":
            raise HttpError(415, "the body is encoded", hint="send it as it is, without Content-Encoding")
        return decoded(body, kind)


def decoded(body: bytes, kind: type[S]) -> S:
    """Decode a body. Raises HttpError: 400 for what is no JSON, 422 for JSON that does not fit."""
    try:
        found = _fitted(body, kind)
    except msgspec.ValidationError as error:
        fault = fault_of(error)
        raise HttpError(422, f"{fault.pointer or 'the body'}: {fault.message}", faults=[fault]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise HttpError(400, f"the body is no JSON: {error}", hint=JSON_HINT) from None
    except RecursionError:
        raise _too_deep("the body") from None
    if body.count(b"[") + body.count(b"{") > DEEPEST:
        _check_depth(found)
    return in_utc(found)


def in_utc(found: S) -> S:
    """Turn the moments of a struct into UTC: PostgreSQL does not know all zones that RFC 3339 allows."""
    for name in found.__struct_fields__:
        value = getattr(found, name)
        if isinstance(value, datetime):
            with contextlib.suppress(OverflowError):
                setattr(found, name, value.astimezone(UTC))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, msgspec.Struct):
                    in_utc(item)
    return found


def _fitted(body: bytes, kind: type[S]) -> S:
    """Decode; in JSON 3.0 is a whole number too, which msgspec takes for a float."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return msgspec.convert(_whole(msgspec.json.decode(body)), kind)


def _whole(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Turn whole floats into integers, except in what is the user's own."""
    if isinstance(value, dict):
        return {key: item if key in FREE else _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fault_of(error: msgspec.ValidationError, location: str = "body") -> Fault:
    """Turn msgspec's message into pointer and message."""
    form = WHERE.fullmatch(str(error))
    message, path = (form["message"], form["path"]) if form else (str(error), None)
    return Fault(pointer_of(path or ""), message[:1].lower() + message[1:], location)


def _too_deep(what: str) -> HttpError:
    return HttpError(422, f"{what} is nested more than {DEEPEST} levels deep", hint="use flatter JSON")


def _check_depth(found: object) -> None:
    level: list[Any] = [msgspec.to_builtins(found)] if isinstance(found, msgspec.Struct) else [found]
    for _ in range(DEEPEST):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep("the body")


def query_of(kind: type[S]) -> Callable[[Request[Any, Any, Any]], S]:
    """Return a provider that reads the query string into a struct."""

    def provide(request: Request[Any, Any, Any]) -> S:
        return read_query(kind, request)

    return provide


def read_query(kind: type[S], connection: ASGIConnection[Any, Any, Any, Any]) -> S:
    """Read the query string into a struct. Raises HttpError for unknown, repeated and bad parameters."""
    types = {field.encode_name: _plain(field.type) for field in msgspec.structs.fields(kind)}
    given: dict[str, Any] = {}
    try:
        unquote_to_bytes(connection.scope["query_string"]).decode()
    except UnicodeDecodeError:
        raise HttpError(422, "the query string is no UTF-8", hint="percent-encode the bytes of UTF-8") from None
    for name, text in connection.query_params.multi_items():
        if name not in types:
            raise _bad_query(name, f"there is no parameter {name!r}", f"known are: {', '.join(types) or 'none'}")
        if name in given:
            raise _bad_query(name, f"{name} is given twice", "give it once")
        given[name] = int(text) if types[name] is int and INTEGER.fullmatch(text) else text
    try:
        return in_utc(msgspec.convert(given, kind))
    except msgspec.ValidationError as error:
        fault = fault_of(error, "query")
        fault = Fault(fault.pointer.removeprefix("/"), fault.message, "query")
        hint = "write times as 2026-02-01T00:00:00Z" if types.get(fault.pointer) is datetime else None
        raise HttpError(422, f"{fault.pointer}: {fault.message}", faults=[fault], hint=hint) from None


def _plain(annotation: Any) -> Any:  # noqa: ANN401 - any annotation
    """Return the type below Annotated and `| None`."""
    while get_origin(annotation) in (Union, UnionType) or hasattr(annotation, "__metadata__"):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    return annotation


def _bad_query(name: str, detail: str, hint: str) -> HttpError:
    return HttpError(422, detail, hint=hint, faults=[Fault(name, detail, "query")])


def provide_task_id(request: Request[Any, Any, Any]) -> int:
    """Return the task's id from the path. Raises TaskNotFound for what is no id."""
    return _id_of(request.path_params["task_id"], "task", TaskNotFound)


def provide_worker_id(request: Request[Any, Any, Any]) -> int:
    """Return the worker's id from the path. Raises WorkerNotFound for what is no id."""
    return _id_of(request.path_params["worker_id"], "worker", WorkerNotFound)


def _id_of(part: str, noun: str, error: type[PgqueueError]) -> int:
    text = part.replace(SLASH, "/")
    if not INTEGER.fullmatch(text) or not 0 < int(text) < 2**63:
        msg = f"there is no {noun} {text[:80]!r}"
        raise error(msg, hint="ids are whole numbers from 1 on", sqlstate=error.SQLSTATE)
    return int(text)


def preferred_wait(request: ApiRequest) -> float | None:
    """Return the seconds of `Prefer: wait=N` (RFC 7240), at most a minute; None where the client does not wait."""
    form = WAIT.search(request.headers.get("prefer", ""))
    return None if form is None else min(int(form[1]), LONGEST_WAIT_S)


def idempotency_key(request: ApiRequest) -> str | None:
    """Return the Idempotency-Key. Raises HttpError for one that is empty, too long or no visible ASCII."""
    key = request.headers.get("idempotency-key")
    if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
        fault = Fault("Idempotency-Key", "an idempotency key has 1 to 255 visible characters of ASCII", "header")
        raise HttpError(422, f"Idempotency-Key: {fault.message}", faults=[fault], hint="use a UUID")
    return key
