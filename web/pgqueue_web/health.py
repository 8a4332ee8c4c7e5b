"""Whether the process lives, and whether it can do its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import Response, get

from pgqueue.errors import PgqueueError
from pgqueue_web.routes import Api, route

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["HANDLERS"]


class Health(msgspec.Struct):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct):
    """ready, or not; each check says ok or what is wrong."""

    status: str
    database: str
    schema: str
    listener: str


@get("/healthz", **route(None), tags=["server"], summary="Whether the process lives")
async def get_health() -> Health:
    """200 as long as the process answers, whatever the database does."""
    return Health("ok")


@get("/readyz", **route(None, answers={503: Readiness}), tags=["server"], summary="Whether it can work")
async def get_readiness(api: Api) -> Response[Readiness]:
    """200 with database, schema and listener in order, else 503 with what is not."""
    database = await _check(api.operations.clock, "cannot be reached")
    schema = await _check(api.operations.check_schema, "run: pgqueue migrate") if database == "ok" else "unknown"
    listener = "ok" if api.hub.is_alive else "notifications do not get through; streams look for themselves"
    ready = database == schema == listener == "ok" and not api.stopping.is_set()
    body = Readiness("ready" if ready else "not ready", database, schema, listener)
    return Response(body, status_code=200 if ready else 503, headers={} if ready else {"Retry-After": "2"})


async def _check(ask: Callable[[], Awaitable[object]], trouble: str) -> str:
    try:
        await ask()
    except PgqueueError:
        return trouble
    return "ok"


HANDLERS = [get_health, get_readiness]
