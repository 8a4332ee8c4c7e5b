"""Who may do what: each route names its scope, and one guard asks the database before anything else is looked at."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from litestar import Request  # noqa: TC002 - litestar reads the provider's types

from pgqueue.errors import Forbidden, Unauthenticated
from pgqueue.models import Principal  # noqa: TC001 - litestar reads the provider's types
from pgqueue_web.problems import HttpError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler
    from litestar.routes import BaseRoute

    from pgqueue.models import Scope

__all__ = [
    "authorize",
    "check_host",
    "check_origin",
    "check_routes",
    "check_touch",
    "provide_principal",
]

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


async def authorize(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request pass, with its principal. Raises Unauthenticated, Forbidden, RateLimited, HttpError."""
    scope = handler.opt.get("scope")
    if scope == "public" or connection.scope.get("method") == "OPTIONS":
        return
    context = connection.app.state.context
    check_origin(connection, context.origins)
    key = _bearer(connection.headers.get("authorization"))
    if key is None and context.is_open:
        check_host(connection.headers.get("host", ""))
    connection.scope["auth"] = await context.access.authenticate(key, scope, is_open=context.is_open)


def provide_principal(request: Request[Any, Any, Any]) -> Principal:
    """Return who makes the request."""
    found: Principal = request.scope["auth"]
    return found


def check_touch(who: Principal, queue_name: str) -> None:
    """Raise Forbidden for a queue that the key is not for."""
    if not who.may_touch(queue_name):
        msg = f"this key is not for queue {queue_name!r}"
        hint = f"it is for {', '.join(who.queues or [])}"
        raise Forbidden(msg, detail={"queue_name": queue_name, "queues": who.queues or []}, hint=hint)


def check_workers(who: Principal) -> None:
    """Raise Forbidden where a key that is limited to queues would change a worker, which may serve others."""
    if who.queues is not None:
        hint = "pause the queue: POST /api/v1/queues/{queue_name}/pause"
        raise Forbidden("workers may serve other queues too, and this key is limited to some", hint=hint)


def check_routes(routes: Iterable[BaseRoute]) -> None:
    """Raise LookupError for a route that does not say who may use it."""
    for route in routes:
        for handler in getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]:
            scope: Scope | None = handler.opt.get("scope")
            if scope is None and handler.http_methods != {"OPTIONS"}:
                msg = f"{route.path} ({handler}) names no scope"
                raise LookupError(msg)


def _bearer(header: str | None) -> str | None:
    if header is None:
        return None
    scheme, _, key = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        hint = "send Authorization: Bearer pgq_…"
        raise Unauthenticated("only keys are accepted, as Authorization: Bearer", hint=hint)
    return key.strip()


def check_origin(connection: ASGIConnection[Any, Any, Any, Any], allowed: frozenset[str]) -> None:
    """Raise HttpError for a page of another site that makes a browser change something here."""
    origin = connection.headers.get("origin")
    if connection.scope.get("method") in SAFE or origin is None or origin in allowed:
        return
    if origin.partition("://")[2] != connection.headers.get("host"):
        hint = "add its origin to the setting api_cors_origins"
        raise HttpError(403, "a page of another origin may not do this", hint=hint)


def check_host(host: str) -> None:
    """Raise HttpError where no key is needed and a name of somebody else's leads here (DNS rebinding)."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        local = name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        local = False
    if not local:
        raise HttpError(
            403, "without a key this server answers to localhost only", hint="make a key: pgqueue key create"
        )
