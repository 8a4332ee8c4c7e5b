"""Events of all tasks as they happen."""

from __future__ import annotations

from litestar import Response, get
from litestar.di import NamedDependency

from pgqueue.models import Event
from pgqueue_web.guard import check_touch
from pgqueue_web.queries import EventsQuery
from pgqueue_web.requests import ApiRequest
from pgqueue_web.routes import Api, Events, Who, route
from pgqueue_web.streams import EventStream, Reset, events_of_feed

__all__ = ["HANDLERS"]


TOLD = Events({"status": Event, "progress": Event, "reset": Reset})


@get(
    "/events",
    **route("read", query=EventsQuery, headers=("Last-Event-ID",), answers={200: TOLD}),
    tags=["events"],
    summary="Follow events",
)
async def follow_events(
    request: ApiRequest, api: Api, who: Who, wanted: NamedDependency[EventsQuery]
) -> Response[None]:
    """A stream of `status` and `progress` events of the queues that the key is for.

    It goes on until the client leaves, or ends after `limit` events or `wait` seconds.
    `reset` says that some are missing, because the client fell behind or came back too late: read the state anew.
    """
    if wanted.queue_name is not None:
        check_touch(who, wanted.queue_name)
    await api.feed.follow()
    position = api.feed.position(request.headers.get("last-event-id"))
    source = events_of_feed(api.feed, who, wanted, position)
    return EventStream(source, api.stopping)


HANDLERS = [follow_events]
