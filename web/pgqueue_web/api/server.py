"""The server itself: what it is, whether it lives, whether it is ready."""

from __future__ import annotations

from litestar import get

from pgqueue import __version__
from pgqueue_web.bodies import Info, Limits, PrincipalBody
from pgqueue_web.requests import LONGEST_WAIT_S
from pgqueue_web.routes import Api, Who, route

__all__ = ["HANDLERS"]


@get("/info", **route("read"), tags=["server"], summary="About the server")
async def get_info(api: Api, who: Who) -> Info:
    """Versions, the database's clock, the caller's key, and limits."""
    status = await api.operations.check_schema()
    return Info(
        "pgqueue",
        __version__,
        status.database_release,
        await api.operations.clock(),
        PrincipalBody(who.name, who.scopes, who.queues),
        Limits(
            max_body_bytes=api.settings.api_max_body,
            max_payload_bytes=1_048_576,
            max_page_size=500,
            max_batch=10_000,
            max_wait_s=LONGEST_WAIT_S,
        ),
    )


HANDLERS = [get_info]
