"""Who looks at the pages: a session instead of the key, and forms that only our own pages can send."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING, Any

from pgqueue.errors import Unauthenticated
from pgqueue_web.guard import check_host, check_origin
from pgqueue_web.problems import HttpError

if TYPE_CHECKING:
    from litestar import Request, Response
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

__all__ = ["COOKIE", "LoginNeeded", "admit", "check_form", "csrf_of", "forget", "keep", "remember", "visit_of"]

COOKIE = "pgqueue_session"
VISIT = "pgqueue_visit"
CHANGING = frozenset({"submit", "manage", "admin"})


class LoginNeeded(Unauthenticated):
    """Nobody is logged in, and somebody must be."""


async def admit(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Let a request pass, with its principal. Raises LoginNeeded, Forbidden, RateLimited, HttpError."""
    scope = handler.opt.get("needs")
    context = connection.app.state.context
    if context.settings.dashboard_read_only and scope in CHANGING:
        hint = "it is served with the setting dashboard_read_only"
        raise HttpError(403, "this dashboard only shows; it changes nothing", hint=hint)
    check_origin(connection, frozenset())
    if scope is None:
        return
    token = connection.cookies.get(COOKIE)
    if token is None and context.is_open:
        check_host(connection.headers.get("host", ""))
    try:
        connection.scope["auth"] = await context.pages.authenticate(token, scope, is_open=context.is_open)
    except Unauthenticated as error:
        raise LoginNeeded(error.message, hint="log in with a key", sqlstate=error.sqlstate) from error


def visit_of(request: Request[Any, Any, Any]) -> str:
    """Return what this browser's forms are bound to: its session, or a random cookie where it has none."""
    found = request.cookies.get(COOKIE) or request.cookies.get(VISIT)
    return found or secrets.token_urlsafe(24)


def csrf_of(visit: str) -> str:
    """Return the token that a form must bring back."""
    return hmac.new(visit.encode(), b"pgqueue form", hashlib.sha256).hexdigest()


def check_form(request: Request[Any, Any, Any], token: object) -> None:
    """Raise HttpError for a form that did not come from a page of this browser's session."""
    visit = request.cookies.get(COOKIE) or request.cookies.get(VISIT)
    if visit is None or not isinstance(token, str) or not hmac.compare_digest(csrf_of(visit).encode(), token.encode()):
        raise HttpError(403, "this form is not from a page of your session", hint="reload the page and try again")


def remember(request: Request[Any, Any, Any], answer: Response[Any], visit: str) -> None:
    """Give a browser without cookies the one that its forms are bound to."""
    if COOKIE not in request.cookies and VISIT not in request.cookies:
        _set(request, answer, VISIT, visit)


def keep(request: Request[Any, Any, Any], answer: Response[Any], token: str, seconds: int) -> None:
    """Log a browser in."""
    _set(request, answer, COOKIE, token, seconds)


def forget(request: Request[Any, Any, Any], answer: Response[Any]) -> None:
    """Log a browser out."""
    answer.delete_cookie(COOKIE, path=_path(request))


def _set(
    request: Request[Any, Any, Any], answer: Response[Any], name: str, value: str, seconds: int | None = None
) -> None:
    is_secure = "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))
    answer.set_cookie(
        name, value, max_age=seconds, path=_path(request), httponly=True, samesite="lax", secure=is_secure
    )


def _path(request: Request[Any, Any, Any]) -> str:
    prefix: str = request.app.state.context.settings.api_root_path
    return prefix or "/"
