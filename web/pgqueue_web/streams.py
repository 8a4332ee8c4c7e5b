"""Server-sent events: one generator a stream, pings, and an end that the server's stop brings about."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from litestar import Response

from pgqueue.errors import PgqueueError, TaskNotFound
from pgqueue.listen import cancel_all
from pgqueue.models import Status
from pgqueue.services import FINAL

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar.types import ASGIApp, Receive, Scope, Send

    from pgqueue.models import Principal, TaskProgress
    from pgqueue_web.context import Context
    from pgqueue_web.feed import Feed, Item
    from pgqueue_web.queries import EventsQuery

__all__ = ["End", "EventStream", "Reset", "events_of_feed", "message", "states_of_task"]

log = structlog.get_logger()
PING_S = 15.0
RETRY_MS = 2000
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]


class End(msgspec.Struct):
    """A task has ended, and so does the stream."""

    task_id: int
    status: Status


class Reset(msgspec.Struct):
    """Something is missing: read the state anew."""

    reason: str


def message(event: str, data: object, event_id: str | None = None) -> bytes:
    """Write one server-sent event; JSON has no line breaks of its own."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {event}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


class EventStream(Response[Any]):
    """A stream that ends with its source, with its client, or when `stopping` is set."""

    def __init__(self, source: AsyncGenerator[bytes, None], stopping: asyncio.Event) -> None:
        """Nothing of `source` is asked for before the answer begins."""
        super().__init__(None)
        self._source = source
        self._stopping = stopping

    def to_asgi_response(self, request: object, **_options: object) -> ASGIApp:  # type: ignore[override]  # noqa: ARG002 - litestar's
        """Return what sends it."""
        return self._stream

    async def _stream(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        ends = [
            asyncio.ensure_future(made)
            for made in (self._pump(send), self._ping(send), _gone(receive), _stopped(self._stopping))
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all(ends)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        await _send(send, f"retry: {RETRY_MS}\n\n".encode())
        try:
            async for chunk in self._source:
                await _send(send, chunk)
        except PgqueueError as error:
            log.warning("a stream ends early", error=str(error))
            reason = "the task is gone" if isinstance(error, TaskNotFound) else "the database was lost"
            await _send(send, message("reset", Reset(reason)))
        finally:
            await self._source.aclose()

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await _send(send, b": ping\n\n")


async def _send(send: Send, chunk: bytes) -> None:
    await send({"type": "http.response.body", "body": chunk, "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stopped(stopping: asyncio.Event) -> None:
    await stopping.wait()


def state_id(progress: TaskProgress) -> str:
    """Return an id that changes with the state: a client that comes back with it is not told the same again."""
    moment = int(progress.updated_at.timestamp() * 1_000_000) if progress.updated_at else 0
    return f"{progress.status}-{progress.progress}-{moment}"


async def states_of_task(context: Context, task_id: int, last_id: str | None) -> AsyncGenerator[bytes, None]:
    """Yield a task's states; after the final one the event `end`."""
    async for progress in context.state.follow_progress(task_id):
        if state_id(progress) != last_id:
            yield message("progress", progress, state_id(progress))
        if progress.status in FINAL:
            yield message("end", End(progress.task_id, progress.status))


async def events_of_feed(feed: Feed, who: Principal, query: EventsQuery, position: int) -> AsyncGenerator[bytes, None]:
    """Yield the events after a position that a principal may see, as long as is asked; `reset` where some are lost."""
    end = None if query.wait is None else asyncio.get_running_loop().time() + query.wait
    told = 0
    with feed.reading():
        yield f"id: {feed.id_of(max(position, 0))}\n\n".encode()
        while True:
            for item in feed.since(position):
                position = item.number
                if (chunk := _told(item, who, query, feed.id_of(position))) is not None:
                    yield chunk
                    told += 1
                    if told == query.limit:
                        return
            try:
                async with asyncio.timeout_at(end):
                    await feed.wait(position)
            except TimeoutError:
                return


def _told(item: Item, who: Principal, query: EventsQuery, event_id: str) -> bytes | None:
    """Return what a principal is told of an item; None where it is not for it, or not asked for."""
    event = item.event
    if event is None:
        return message("reset", Reset("events are missing; read the state anew"), event_id)
    wanted = query.queue_name in (None, event.queue_name) and query.kind in (None, event.kind)
    return message(event.kind, event, event_id) if wanted and who.may_touch(event.queue_name) else None
