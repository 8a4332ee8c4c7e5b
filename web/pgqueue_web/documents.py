"""The OpenAPI document, made from the routes and their structs, and the page that shows it."""

from __future__ import annotations

import inspect
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import msgspec
from litestar import Litestar, Request, Response, get
from litestar.routes import HTTPRoute
from litestar.static_files import create_static_files_router
from litestar.utils import get_enum_string_value

from pgqueue import __version__
from pgqueue_web.examples import EXAMPLES
from pgqueue_web.fields import Bigint, Name
from pgqueue_web.problems import MEDIA_TYPE, Problem
from pgqueue_web.routes import Events, route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from litestar.handlers import HTTPRouteHandler

__all__ = ["ASSETS", "document_of", "get_document", "get_page"]

REFERENCE = "#/components/schemas/{name}"
FOLDER = Path(__file__).with_name("assets")
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ABOUT = """A task queue on PostgreSQL. Times are RFC 3339 in UTC, durations are in seconds unless their names say
otherwise. Errors are `application/problem+json` (RFC 9457), with `errors` pointing to the values at fault. Unknown
fields and parameters are refused."""
PATH_PARAMETERS = {
    "task_id": (Bigint, "the task's id"),
    "worker_id": (Bigint, "the worker's id"),
    "queue_name": (Name, "the queue's name"),
    "name": (Name, "its name"),
}
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "Idempotency-Key": (
        "repeats of a request with the same key and body, within a day, are given the first one's answer",
        {"type": "string", "pattern": "^[!-~]{1,255}$"},
    ),
    "Prefer": ("wait=N: answer at the task's end, or after N seconds, at most 60 (RFC 7240)", {"type": "string"}),
    "Last-Event-ID": ("the id of the last event of a stream that broke off", {"type": "string"}),
}
COMMON = (422, 429, 503)
OF_TASK = dict.fromkeys(("get_task", "get_progress", "get_result", "list_logs", "cancel_task"), ("task_id", "task_id"))
LINKS = {
    "submit_task": OF_TASK,
    "run_scheduled_task": OF_TASK,
    "cancel_task": dict.fromkeys(("get_task", "retry_task"), ("task_id", "task_id")),
    "create_queue": dict.fromkeys(("get_queue", "get_queue_stats", "pause_queue"), ("queue_name", "name")),
}
LINKED_BODIES = {
    "create_queue": {"submit_task": {"task_type": "greet", "queue_name": "$response.body#/name"}},
}


@get("/openapi.json", **route(None), include_in_schema=False, media_type="application/json")
async def get_document(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Return the OpenAPI document."""
    return Response(request.app.state.document, media_type="application/json")


@get("/docs", **route(None), include_in_schema=False, media_type="text/html")
async def get_page() -> Response[bytes]:
    """Return the page that shows the OpenAPI document."""
    headers = {"Content-Security-Policy": CSP}
    return Response((FOLDER / "docs.html").read_bytes(), media_type="text/html", headers=headers)


ASSETS = create_static_files_router("/assets", [FOLDER], opt={"scope": "public"}, include_in_schema=False)


def document_of(app: Litestar) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an app's routes."""
    operations = list(_operations(app))
    types: set[Any] = {Problem}
    for _, _, handler in operations:
        types |= set(_types_of(handler))
    schemas, components = msgspec.json.schema_components(sorted(types, key=str), ref_template=REFERENCE)
    known = dict(zip(sorted(types, key=str), schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, method, handler in operations:
        paths.setdefault(path, {})[method.lower()] = _operation(path, handler, known)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "pgqueue",
            "version": __version__,
            "description": ABOUT,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "A key: pgqueue key create NAME --scope …"}
            },
        },
    }


def _operations(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for found in sorted(app.routes, key=lambda found: found.path):
        if isinstance(found, HTTPRoute):
            for handler in found.route_handlers:
                for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                    if handler.resolve_include_in_schema():
                        yield found.path_format, method, handler


def _types_of(handler: HTTPRouteHandler) -> Iterator[Any]:
    yield _success_type(handler)
    if (body := _body_type(handler)) is not None:
        yield body
    for kind in handler.opt["answers"].values():
        if isinstance(kind, Events):
            yield from kind.kinds.values()
        elif kind is not None:
            yield kind


def _success_type(handler: HTTPRouteHandler) -> Any:  # noqa: ANN401 - any type
    annotation = handler.parsed_fn_signature.return_type.annotation
    return get_args(annotation)[0] if get_origin(annotation) is Response else annotation


def _body_type(handler: HTTPRouteHandler) -> Any:  # noqa: ANN401 - any type
    data = handler.parsed_fn_signature.parameters.get("data")
    if data is None:
        return None
    return next(part for part in (*get_args(data.annotation), data.annotation) if part is not type(None))


def _operation(path: str, handler: HTTPRouteHandler, known: dict[Any, Any]) -> dict[str, Any]:
    scope = handler.opt["scope"]
    needs = "" if scope == "public" else f"\n\nNeeds the scope `{scope}`."
    operation: dict[str, Any] = {
        "operationId": handler.handler_name,
        "summary": handler.summary,
        "description": (inspect.getdoc(handler.fn) or "") + needs,
        "tags": handler.tags and sorted(handler.tags),
        "parameters": [*_path_parameters(path), *_query_parameters(handler), *_header_parameters(handler)],
        "responses": _responses(handler, known),
        "security": [] if scope == "public" else [{"key": []}],
    }
    body = _body_type(handler)
    if body is not None:
        required = type(None) not in get_args(handler.parsed_fn_signature.parameters["data"].annotation)
        operation["requestBody"] = {"required": required, "content": {"application/json": _content(body, known)}}
    return operation


def _content(kind: Any, known: dict[Any, Any]) -> dict[str, Any]:  # noqa: ANN401 - any type
    examples = {name: {"value": value} for name, value in EXAMPLES.get(getattr(kind, "__name__", ""), {}).items()}
    return {"schema": known[kind]} | ({"examples": examples} if examples else {})


def _path_parameters(path: str) -> Iterator[dict[str, Any]]:
    for name, (kind, description) in PATH_PARAMETERS.items():
        if "{" + name + "}" in path:
            schema = msgspec.json.schema(kind)
            yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def _query_parameters(handler: HTTPRouteHandler) -> Iterator[dict[str, Any]]:
    _, components = msgspec.json.schema_components([handler.opt["query"]])
    for name, schema in components[handler.opt["query"].__name__]["properties"].items():
        plain = dict(schema)
        description = plain.pop("description", None)
        options = [option for option in plain.pop("anyOf", []) if option != {"type": "null"}]
        for option in options:
            plain |= option
        if plain.get("default", 0) is None:
            del plain["default"]
        if isinstance(plain.get("enum"), list):
            plain["enum"] = [value for value in plain["enum"] if value is not None]
        described = {"description": description} if description else {}
        yield {"name": name, "in": "query", "required": False, **described, "schema": plain}


def _header_parameters(handler: HTTPRouteHandler) -> Iterator[dict[str, Any]]:
    for name in handler.opt["headers"]:
        description, schema = HEADERS[name]
        yield {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _responses(handler: HTTPRouteHandler, known: dict[Any, Any]) -> dict[str, Any]:
    success = _success_type(handler)
    answered: dict[str, Any] = {"description": HTTPStatus(handler.status_code).phrase}
    if success is not type(None):
        answered["content"] = {
            get_enum_string_value(handler.media_type or "application/json"): _content(success, known)
        }
    made = {str(handler.status_code): answered}
    for status, kind in handler.opt["answers"].items():
        answer = made.setdefault(str(status), {"description": HTTPStatus(status).phrase})
        if isinstance(kind, Events):
            answer.setdefault("content", {})["text/event-stream"] = {"schema": _event(kind, known)}
        elif kind is not None:
            answer["content"] = {"application/json": _content(kind, known)}
    for status in sorted({*handler.opt["refusals"], *_common(handler)}):
        made.setdefault(str(status), _refusal(status, known))
    _add_headers_and_links(handler, made)
    return made


def _event(events: Events, known: dict[Any, Any]) -> dict[str, Any]:
    """Return the schema of each event of a stream."""
    return {
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "event": {"type": "string", "enum": [name]},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": known[kind],
                    },
                },
                "required": ["event", "data"],
            }
            for name, kind in events.kinds.items()
        ]
    }


def _common(handler: HTTPRouteHandler) -> tuple[int, ...]:
    if handler.opt["scope"] == "public":
        return (422,)
    return (401, 403, *COMMON)


def _refusal(status: int, known: dict[Any, Any]) -> dict[str, Any]:
    refused: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {MEDIA_TYPE: {"schema": known[Problem]}},
    }
    if status in (429, 503):
        refused["headers"] = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "string"}}}
    if status == 401:
        refused["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return refused


def _add_headers_and_links(handler: HTTPRouteHandler, made: dict[str, Any]) -> None:
    links: dict[str, dict[str, Any]] = {
        name: {"operationId": name, "parameters": {parameter: f"$response.body#/{field}"}}
        for name, (parameter, field) in LINKS.get(handler.handler_name, {}).items()
    }
    links |= {
        name: {"operationId": name, "requestBody": body}
        for name, body in LINKED_BODIES.get(handler.handler_name, {}).items()
    }
    for status in ("200", "201"):
        if links and status in made:
            made[status]["links"] = links
        if links and status in made and handler.http_methods == {"POST"}:
            made[status]["headers"] = {"Location": {"description": "where it is", "schema": {"type": "string"}}}
