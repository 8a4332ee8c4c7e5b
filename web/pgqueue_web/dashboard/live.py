"""What changes, as a stream of small hints: a page then asks for itself anew, at its own pace."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from litestar import Request, Response, get

from pgqueue_web.dashboard.replies import of
from pgqueue_web.routes import Api, Who
from pgqueue_web.streams import EventStream, message

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from pgqueue.models import Principal
    from pgqueue_web.feed import Feed, Item

__all__ = ["follow"]

GATHER_S = 0.25
TICK_S = 5.0
MOST_NAMED = 200


@get("/live", **of("read"))
async def follow(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """Events `change` (what moved) and `tick` (time to look)."""
    await api.feed.follow()
    source = _hints(api.feed, who, api.feed.position(request.headers.get("last-event-id")))
    return EventStream(source, api.stopping)


async def _hints(feed: Feed, who: Principal, position: int) -> AsyncGenerator[bytes, None]:
    with feed.reading():
        yield message("tick", {}, feed.id_of(max(position, 0)))
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await feed.wait(position)
            if feed.last <= position:
                yield message("tick", {}, feed.id_of(position))
                continue
            await asyncio.sleep(GATHER_S)
            found = feed.since(position)
            position = found[-1].number
            yield message("change", _told(found, who), feed.id_of(position))


def _told(found: Iterable[Item], who: Principal) -> dict[str, Any]:
    """Return what moved: tasks with a new state, and how far those are that run; `all` where it is too much to name."""
    moved: dict[str, bool] = {}
    progress: dict[str, list[Any]] = {}
    is_all = False
    for item in found:
        event = item.event
        if event is None:
            is_all = True
        elif who.may_touch(event.queue_name):
            if event.kind == "progress":
                progress[str(event.task_id)] = [event.progress, (event.message or "")[:200]]
            else:
                moved[str(event.task_id)] = True
    is_all = is_all or len(moved) > MOST_NAMED
    return {
        "all": is_all,
        "moved": [] if is_all else list(moved),
        "progress": dict(list(progress.items())[-MOST_NAMED:]),
    }
