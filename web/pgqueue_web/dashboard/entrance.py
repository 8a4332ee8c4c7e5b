"""Log in with a key, log out."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromQuery

from pgqueue.errors import Forbidden, PgqueueError, RateLimited, Unauthenticated
from pgqueue_web.dashboard import session
from pgqueue_web.dashboard.render import link_of, page
from pgqueue_web.dashboard.replies import form_of, of, redirect
from pgqueue_web.routes import Api

__all__ = ["HANDLERS", "redirect"]


@get("/login", **of(None))
async def show_login(request: Request[Any, Any, Any], next: FromQuery[str] = "/") -> Response[Any]:  # noqa: A002 - the parameter's name
    """Ask for a key."""
    return page(request, "login.html", next=_local(next), error=None)


@post("/login", **of(None), status_code=200)
async def log_in(request: Request[Any, Any, Any], api: Api) -> Response[Any]:
    """Give a session for a key: the key itself is kept nowhere."""
    fields = await form_of(request)
    target = _local(fields.get("next", "/"))
    seconds = api.settings.dashboard_session_s
    try:
        token = await api.pages.begin_session(fields.get("key", "").strip(), seconds)
    except (Unauthenticated, Forbidden, RateLimited) as error:
        return _refused(request, target, error)
    answer = redirect(link_of(request, "") + target)
    session.keep(request, answer, token, seconds)
    return answer


def _refused(request: Request[Any, Any, Any], target: str, error: PgqueueError) -> Response[Any]:
    return page(request, "login.html", status=422, next=target, error=error.message)


@post("/logout", **of(None), status_code=200)
async def log_out(request: Request[Any, Any, Any]) -> Response[Any]:
    """End the session in this browser."""
    await form_of(request)
    answer = redirect(link_of(request, "/login"))
    session.forget(request, answer)
    return answer


def _local(target: str) -> str:
    """Return a path of this server, whatever was asked for."""
    return target if target.startswith("/") and not target.startswith(("//", "/\\")) and "\\" not in target else "/"


HANDLERS = [show_login, log_in, log_out]
