"""All routes of the dashboard, their errors as pages, and its static files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Request, Router
from litestar.datastructures import CacheControlHeader
from litestar.exceptions import HTTPException
from litestar.static_files import create_static_files_router

from pgqueue.errors import PgqueueError
from pgqueue_web import problems
from pgqueue_web.dashboard import bulk, entrance, live, overview, queues, schedules, system, task, tasks, workers
from pgqueue_web.dashboard.render import PLACES, link_of, page
from pgqueue_web.dashboard.replies import notice
from pgqueue_web.dashboard.session import LoginNeeded, admit

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar import Response

__all__ = ["ROUTERS", "page_or"]

Answer = "Callable[[Request[Any, Any, Any], Any], Response[Any]]"


def _as_page(request: Request[Any, Any, Any], problem: problems.Problem, headers: dict[str, str]) -> Response[Any]:
    """Show a problem: as a page, or to a script of ours as a notice."""
    if request.headers.get("hx-request"):
        text = problem.detail + (f" ({problem.hint})" if problem.hint else "")
        return notice(request, text, status=problem.status, is_error=True)
    kept = {name: value for name, value in headers.items() if name.lower() == "retry-after"}
    return page(request, "error.html", status=problem.status, headers=kept, problem=problem)


def _error(request: Request[Any, Any, Any], error: PgqueueError) -> Response[Any]:
    if error.sqlstate == problems.TIMED_OUT:
        hint = "narrow it down: a shorter time, a queue, a state"
        return _http(request, problems.HttpError(503, "the database took too long for this page", hint=hint))
    answer = problems.answer(request, error)
    return _as_page(request, answer.content, answer.headers)


def _login(request: Request[Any, Any, Any], _error: LoginNeeded) -> Response[Any]:
    """Send whoever is not logged in to where that is done, and back afterwards."""
    here = request.scope["path"] if request.method == "GET" else "/"
    query = request.scope.get("query_string", b"").decode("ascii", "replace")
    target = link_of(request, "/login", next=here + (f"?{query}" if query and request.method == "GET" else ""))
    if request.headers.get("hx-request"):
        return notice(request, "Log in again.", status=401, is_error=True, headers={"HX-Redirect": target})
    return entrance.redirect(target)


def _http(request: Request[Any, Any, Any], error: HTTPException | problems.HttpError) -> Response[Any]:
    answer = problems.answer_http(request, error)
    return _as_page(request, answer.content, answer.headers)


def _unforeseen(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    answer = problems.answer_unforeseen(request, error)
    return _as_page(request, answer.content, answer.headers)


def page_or(other: Callable[..., Response[Any]]) -> Callable[..., Response[Any]]:
    """Return a handler of HTTP errors that shows a page to a browser that looks for one, and else does as `other`."""

    def answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:  # noqa: ANN401 - any HTTP error
        is_page = request.method == "GET" and not request.scope["path"].startswith("/api/")
        wanted = is_page and "text/html" in request.headers.get("accept", "")
        return _http(request, error) if wanted else other(request, error)

    return answer


PAGES = Router(
    "/",
    route_handlers=[
        *overview.HANDLERS,
        *tasks.HANDLERS,
        *task.HANDLERS,
        *bulk.HANDLERS,
        *queues.HANDLERS,
        *schedules.HANDLERS,
        *workers.HANDLERS,
        *system.HANDLERS,
        *entrance.HANDLERS,
        live.follow,
    ],
    guards=[admit],
    request_class=Request,
    include_in_schema=False,
    exception_handlers={
        LoginNeeded: _login,
        PgqueueError: _error,
        problems.HttpError: _http,
        HTTPException: _http,
        Exception: _unforeseen,
    },
)
STATIC = create_static_files_router(
    "/static",
    list(PLACES),
    opt={"scope": "public"},
    include_in_schema=False,
    cache_control=CacheControlHeader(max_age=31_536_000, immutable=True, public=True),
)
ROUTERS = (PAGES, STATIC)
