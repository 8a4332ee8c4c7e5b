"""The outermost layer: paths decoded part by part, a time for bodies and statements, headers on every answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from litestar.enums import ScopeType

from pgqueue.database import time_limit
from pgqueue_web.problems import HttpError

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from pgqueue.settings import Settings

__all__ = ["SLASH", "Edge"]

SLASH = "\x1f"
"""Stands for a slash that a client wrote as %2F: no name may hold a control character."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)


class Edge:
    """An ASGI app around another."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        """As the settings say: what a body and a statement may take, and what a proxy may put before each path."""
        self._app = app
        self._receive_s = settings.api_receive_s
        self._statement_s = settings.api_timeout_s
        self._root_path = settings.api_root_path.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != ScopeType.WEBSOCKET:
            raw = scope.get("raw_path") or scope["path"].encode()
            if raw.startswith(self._root_path + b"/"):
                raw = raw.removeprefix(self._root_path)
            scope["raw_path"], scope["path"] = raw, path_of(raw)
            receive, send = self._in_time(receive), _with_headers(send)
        with time_limit(self._statement_s):
            await self._app(scope, receive, send)

    def _in_time(self, receive: Receive) -> Receive:
        deadline: float | None = asyncio.get_running_loop().time() + self._receive_s

        async def timed() -> Any:  # noqa: ANN401 - litestar's message
            nonlocal deadline
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                hint = "send the body in one go"
                raise HttpError(408, f"the body did not arrive within {self._receive_s:g} s", hint=hint) from None
            if not message.get("more_body"):
                deadline = None
            return message

        return timed


def path_of(raw: bytes) -> str:
    """Decode a path segment by segment, so that a slash within a name stays within it.

    Control characters and bytes that are no UTF-8 become a character that no route and no name has.
    """
    return "/".join(_decoded(part) for part in raw.split(b"/"))


def _decoded(part: bytes) -> str:
    if b"%" not in part:
        return part.decode("ascii", "replace")
    text = unquote_to_bytes(part).decode("utf-8", "replace")
    return "".join("\ufffd" if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text).replace("/", SLASH)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in present)]
        await send(message)

    return sending
