"""What a route says of itself: who may use it, its query string, its headers, and how it may be refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from litestar.di import NamedDependency, Provide

from pgqueue.models import Principal
from pgqueue_web.context import Context
from pgqueue_web.queries import NoQuery
from pgqueue_web.requests import query_of, read_query

if TYPE_CHECKING:
    from collections.abc import Mapping

    import msgspec
    from litestar.connection import ASGIConnection
    from litestar.handlers import BaseRouteHandler

    from pgqueue.models import Scope

__all__ = ["Api", "Events", "Number", "PathName", "Who", "Worker", "route"]

Api = NamedDependency[Context]
Who = NamedDependency[Principal]
Number = NamedDependency[int]
"""The task's id, from the path."""
Worker = NamedDependency[int]
"""The worker's id, from the path."""
PathName = NamedDependency[str]
"""A name from the path."""


class Events(NamedTuple):
    """What a stream tells: the names of its events, with the struct that the data of each holds."""

    kinds: Mapping[str, type[msgspec.Struct]]


def route(
    scope: Scope | None,
    *,
    query: type[msgspec.Struct] = NoQuery,
    refusals: tuple[int, ...] = (),
    headers: tuple[str, ...] = (),
    answers: Mapping[int, Any] | None = None,
) -> dict[str, Any]:
    """Return the arguments of a route handler; scope None: for everybody, without a key.

    `refusals` are the statuses of problems besides those that every route has; `answers` are further statuses of
    success, each with its body (a struct, Events, or None), for the OpenAPI document.
    """
    opt = {
        "scope": scope or "public",
        "query": query,
        "refusals": refusals,
        "headers": headers,
        "answers": answers or {},
    }
    if query is NoQuery:
        return {"opt": opt, "guards": [refuse_query]}
    return {"opt": opt, "dependencies": {"wanted": Provide(query_of(query), sync_to_thread=False)}}


async def refuse_query(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Raise HttpError for a query string where there are no parameters."""
    read_query(NoQuery, connection)
