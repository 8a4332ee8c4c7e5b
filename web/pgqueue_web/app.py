"""The app: routes, guard, errors, documents."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Litestar, Request, Response, Router, route
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from pgqueue import telemetry
from pgqueue.errors import PgqueueError
from pgqueue_web import dashboard, documents, health, problems
from pgqueue_web.api import HANDLERS
from pgqueue_web.context import Context  # noqa: TC001 - litestar reads the provider's types
from pgqueue_web.edge import SLASH, Edge
from pgqueue_web.guard import authorize, check_routes, provide_principal
from pgqueue_web.requests import ApiRequest, provide_task_id, provide_worker_id
from pgqueue_web.routes import route as describe

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from litestar.handlers import HTTPRouteHandler
    from litestar.types import ASGIApp

__all__ = ["create_app"]

HEADERS = ["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Prefer"]
EXPOSED = ["Idempotency-Replayed", "Location", "Preference-Applied", "Retry-After"]


def create_app(context: Context) -> ASGIApp:
    """Return the ASGI app; `context` is started and ended by whoever serves it."""
    return Edge(telemetry.traced(litestar_app(context)), context.settings)


def litestar_app(context: Context) -> Litestar:
    """Return the app without its outermost layer."""

    def provide_context() -> Context:
        return context

    api = Router("/api/v1", route_handlers=[*_options(HANDLERS), *HANDLERS, documents.get_document, documents.get_page])
    app = Litestar(
        [api, documents.ASSETS, *health.HANDLERS, *dashboard.ROUTERS],
        request_class=ApiRequest,
        guards=[authorize],
        dependencies={
            "api": Provide(provide_context, sync_to_thread=False),
            "who": Provide(provide_principal, sync_to_thread=False),
            "number": Provide(provide_task_id, sync_to_thread=False),
            "worker": Provide(provide_worker_id, sync_to_thread=False),
            "queue": Provide(_name("queue_name"), sync_to_thread=False),
            "schedule": Provide(_name("name"), sync_to_thread=False),
        },
        exception_handlers={
            PgqueueError: problems.answer,
            problems.HttpError: problems.answer_http,
            HTTPException: dashboard.page_or(problems.answer_http),
            Exception: problems.answer_unforeseen,
        },
        request_max_body_size=context.settings.api_max_body,
        cors_config=_cors(context.origins),
        openapi_config=None,
        state=State({"context": context}),
        logging_config=None,
        debug=False,
    )
    check_routes(app.routes)
    app.state.document = msgspec.json.encode(documents.document_of(app))
    return app


def _options(handlers: list[HTTPRouteHandler]) -> Iterator[HTTPRouteHandler]:
    """Yield what answers OPTIONS with all methods of a path: litestar's own forgets those that came later."""
    methods: defaultdict[str, set[str]] = defaultdict(set)
    for handler in handlers:
        for path in handler.paths:
            methods[path] |= {"OPTIONS", *handler.http_methods}
    for path, found in methods.items():
        yield _option(path, ", ".join(sorted(found)))


def _option(path: str, allowed: str) -> HTTPRouteHandler:
    @route(path, http_method=["OPTIONS"], status_code=204, include_in_schema=False, **describe(None))
    async def answer_options() -> Response[None]:
        return Response(None, headers={"Allow": allowed})

    return answer_options


def _name(parameter: str) -> Callable[[Request[Any, Any, Any]], str]:
    """Return a provider of a name from the path, with the slashes that were written as %2F."""

    def provide(request: Request[Any, Any, Any]) -> str:
        name: str = request.path_params[parameter]
        return name.replace(SLASH, "/")

    return provide


def _cors(origins: frozenset[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(allow_origins=sorted(origins), allow_methods=["*"], allow_headers=HEADERS, expose_headers=EXPOSED)
