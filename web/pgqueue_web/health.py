"""Whether the process lives, whether it can do its work, and figures of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST

from pgqueue.errors import PgqueueError, SchemaMismatch
from pgqueue_web.routes import Api, Who, route

if TYPE_CHECKING:
    from pgqueue_web.context import Context

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
    database, schema = await _check(api)
    listener = "ok" if api.hub.is_alive else "notifications do not get through; streams look for themselves"
    ready = database == schema == listener == "ok" and not api.stopping.is_set()
    body = Readiness("ready" if ready else "not ready", database, schema, listener)
    return Response(body, status_code=200 if ready else 503, headers={} if ready else {"Retry-After": "2"})


async def _check(api: Context) -> tuple[str, str]:
    """Tell how database and schema are."""
    try:
        await api.operations.check_schema()
    except SchemaMismatch:
        return "ok", "run: pgqueue migrate"
    except PgqueueError:
        return "cannot be reached", "unknown"
    return "ok", "ok"


@get("/metrics", **route("read"), tags=["server"], summary="Metrics for Prometheus", media_type="text/plain")
async def get_metrics(api: Api, who: Who) -> Response[bytes]:
    """Counters, gauges and histograms in Prometheus' text format; at most 5 seconds old.

    A key that is limited to queues is told the series that have its queues as label, and no others.
    """
    return Response(await api.scrape.text(api, who), media_type=CONTENT_TYPE_LATEST)


HANDLERS = [get_health, get_readiness, get_metrics]
