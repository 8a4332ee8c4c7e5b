"""How pages are asked for and how actions answer: bounded reads, checked forms, notices."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from litestar import Response

from pgqueue_web.dashboard.render import link_of
from pgqueue_web.dashboard.session import check_form
from pgqueue_web.problems import HttpError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from litestar import Request

    from pgqueue.models import Scope
    from pgqueue_web.context import Context

__all__ = ["done", "form_of", "notice", "of", "reading", "redirect"]


def of(scope: Scope | None) -> dict[str, Any]:
    """Return the arguments of a handler of the dashboard: its scope is asked of the session, not of a key."""
    return {"opt": {"scope": "public", "needs": scope}}


def reading(api: Context) -> AbstractAsyncContextManager[Any]:
    """Lend a way to run the calls of one page."""
    return api.pages.reading(api.settings.dashboard_timeout_s)


async def form_of(request: Request[Any, Any, Any]) -> dict[str, str]:
    """Return the fields of a form of ours, without the token. Raises HttpError for one that is not."""
    found = await request.form()
    check_form(request, found.get("csrf"))
    fields: dict[str, str] = {}
    for name, value in found.multi_items():
        if not isinstance(value, str):
            raise HttpError(422, f"{name} is a file; it should be text")
        fields[name] = value if name not in fields else f"{fields[name]},{value}"
    fields.pop("csrf")
    return fields


def redirect(target: str) -> Response[Any]:
    """Send the browser on, with GET."""
    return Response(None, status_code=303, headers={"Location": target})


def notice(
    _request: Request[Any, Any, Any],
    text: str,
    *,
    status: int = 204,
    is_error: bool = False,
    headers: dict[str, str] | None = None,
) -> Response[Any]:
    """Answer a script of ours: it shows the text, and asks for the page anew."""
    told = json.dumps({"notice": {"text": text, "kind": "error" if is_error else "done"}})
    return Response(
        None if status == 204 else "",
        status_code=status,
        media_type="text/html",
        headers={"HX-Trigger": told} | (headers or {}),
    )


def done(request: Request[Any, Any, Any], text: str, back: str, *, leave: bool = False) -> Response[Any]:
    """Answer an action: a notice on the page it was done on, or `back`, where that page is left or has no script."""
    target = link_of(request, back)
    if not request.headers.get("hx-request"):
        return redirect(target)
    return notice(request, text, headers={"HX-Redirect": target} if leave else None)
