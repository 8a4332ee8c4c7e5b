"""Pages: templates, the headers that guard them, links that know the prefix."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import jinja2
from litestar import Response

from pgqueue import __version__
from pgqueue_web.dashboard import session, words

if TYPE_CHECKING:
    from litestar import Request

__all__ = ["CSP", "PLACES", "STATES", "link", "link_of", "page"]

FOLDER = Path(__file__).parent
PLACES = (FOLDER / "static", FOLDER.parent / "assets")
"""Where static files are: our own, and what was vendored."""
CSP = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; font-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": CSP, "Referrer-Policy": "same-origin", "Vary": "Cookie"}
STATES = ("pending", "scheduled", "blocked", "running", "completed", "failed", "cancelled")


def link(prefix: str, path: str, **query: object) -> str:
    """Return an address below the prefix; what is None or empty is left out of the query string."""
    given = {name: value for name, value in query.items() if value not in (None, "", [])}
    return prefix + quote(path, safe="/%") + ("?" + urlencode(given, doseq=True) if given else "")


def link_of(request: Request[Any, Any, Any], path: str, **query: object) -> str:
    """Return an address of this server, as the request's browser reaches it."""
    return link(request.app.state.context.settings.api_root_path, path, **query)


@cache
def _static(name: str) -> str:
    """Return a static file's name with a mark of its content, so that it may be kept for long."""
    content = next(place / name for place in PLACES if (place / name).is_file()).read_bytes()
    return f"/static/{name}?v={hashlib.sha256(content).hexdigest()[:12]}"


@cache
def _environment() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters.update(words.FILTERS)
    made.globals.update(version=__version__, states=STATES)
    return made


def page(
    request: Request[Any, Any, Any],
    template: str,
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    **values: object,
) -> Response[str]:
    """Render a template; a browser that has no cookie yet is given one, which its forms are bound to."""
    visit = session.visit_of(request)
    settings = request.app.state.context.settings
    prefix = settings.api_root_path
    who = request.scope.get("auth")
    query = request.scope.get("query_string", b"").decode("ascii", "replace")

    def may(scope: Any) -> bool:  # noqa: ANN401 - a scope
        return who is not None and who.has_scope(scope) and not (settings.dashboard_read_only and scope != "read")

    shared = {
        "url": lambda path, **given: link(prefix, path, **given),
        "static": lambda name: prefix + _static(name),
        "here": prefix + request.scope["raw_path"].decode("ascii", "replace") + (f"?{query}" if query else ""),
        "path": request.scope["path"],
        "who": who,
        "may": may,
        "read_only": settings.dashboard_read_only,
        "csrf": session.csrf_of(visit),
        "now": datetime.now(UTC),
        "has_session": session.COOKIE in request.cookies,
    }
    body = _environment().get_template(template).render(shared | values)
    answer = Response(
        body, status_code=status, media_type="text/html; charset=utf-8", headers=HEADERS | (headers or {})
    )
    session.remember(request, answer, visit)
    return answer
