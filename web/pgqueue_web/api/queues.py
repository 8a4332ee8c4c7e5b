"""Queues: made, changed, paused, resumed, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from litestar import Response, get, patch, post
from litestar.params import JSONBody
from msgspec import UNSET

from pgqueue.errors import QueueNotFound
from pgqueue.models import QueueStats
from pgqueue_web.bodies import NewQueue, PauseBody, QueueBody, QueueChange, QueueList
from pgqueue_web.guard import check_touch
from pgqueue_web.once import Done, do_once
from pgqueue_web.requests import ApiRequest
from pgqueue_web.routes import Api, PathName, Who, route

if TYPE_CHECKING:
    from pgqueue.models import QueueInfo
    from pgqueue_web.context import Action, Context

__all__ = ["HANDLERS"]


@get("/queues", **route("read"), tags=["queues"], summary="List queues")
async def list_queues(api: Api, who: Who) -> QueueList:
    """The queues that the key is for, by name."""
    return QueueList([_body(info) for info in await api.operations.list_queues() if who.may_touch(info.name)])


@post(
    "/queues",
    **route("manage", refusals=(400, 413, 415), headers=("Idempotency-Key",), answers={200: QueueBody}),
    tags=["queues"],
    summary="Create a queue",
)
async def create_queue(request: ApiRequest, data: JSONBody[NewQueue], api: Api, who: Who) -> Response[QueueBody]:
    """201 with the new queue, or 200 with one that existed, of which what is given was changed."""
    check_touch(who, data.name)

    async def work(doing: Action) -> Done:
        doing.target = data.name
        existed = await _find(api, data.name, doing.conn)
        await api.operations.create_queue(
            data.name,
            concurrency=data.concurrency,
            capacity=data.capacity,
            max_crashes=data.max_crashes,
            conn=doing.conn,
        )
        made = await _find(api, data.name, doing.conn)
        body = _body(made) if made is not None else None
        return Done(200 if existed else 201, body, f"/api/v1/queues/{quote(data.name, safe='')}")

    return await do_once(request, api, who, "queue.create", work)


@get("/queues/{queue_name:str}", **route("read", refusals=(404,)), tags=["queues"], summary="Get a queue")
async def get_queue(api: Api, who: Who, queue: PathName) -> QueueBody:
    """Its settings."""
    check_touch(who, queue)
    return await _one(api, queue)


@patch(
    "/queues/{queue_name:str}",
    **route("manage", refusals=(400, 404, 413, 415)),
    tags=["queues"],
    summary="Change a queue",
)
async def change_queue(data: JSONBody[QueueChange], api: Api, who: Who, queue: PathName) -> QueueBody:
    """Only what is given changes."""
    check_touch(who, queue)
    given = {name: value for name in data.__struct_fields__ if (value := getattr(data, name)) is not UNSET}
    async with api.audited(who, "queue.change", queue) as doing:
        doing.detail = dict(given)
        await _one(api, queue, doing.conn)
        await api.operations.create_queue(queue, **given, conn=doing.conn)
        return await _one(api, queue, doing.conn)


@get(
    "/queues/{queue_name:str}/stats", **route("read", refusals=(404,)), tags=["queues"], summary="Count a queue's tasks"
)
async def get_queue_stats(api: Api, who: Who, queue: PathName) -> QueueStats:
    """What waits and runs now, and what of it is kept as finished."""
    check_touch(who, queue)
    return await api.operations.get_queue_stats(queue)


@post(
    "/queues/{queue_name:str}/pause",
    **route("manage", refusals=(400, 404, 413, 415)),
    status_code=200,
    tags=["queues"],
    summary="Pause a queue",
)
async def pause_queue(api: Api, who: Who, queue: PathName, data: JSONBody[PauseBody | None] = None) -> QueueBody:
    """Nothing more of it is started; what runs goes on."""
    check_touch(who, queue)
    async with api.audited(who, "queue.pause", queue) as doing:
        await api.operations.pause_queue(queue, data.reason if data else None, conn=doing.conn)
        return await _one(api, queue, doing.conn)


@post(
    "/queues/{queue_name:str}/resume",
    **route("manage", refusals=(404,)),
    status_code=200,
    tags=["queues"],
    summary="Resume a queue",
)
async def resume_queue(api: Api, who: Who, queue: PathName) -> QueueBody:
    """Undo a pause."""
    check_touch(who, queue)
    async with api.audited(who, "queue.resume", queue) as doing:
        await api.operations.resume_queue(queue, conn=doing.conn)
        return await _one(api, queue, doing.conn)


async def _find(api: Context, name: str, conn: object = None) -> QueueInfo | None:
    return next((info for info in await api.operations.list_queues(conn=conn) if info.name == name), None)


async def _one(api: Context, name: str, conn: object = None) -> QueueBody:
    info = await _find(api, name, conn)
    if info is None:
        msg = f"there is no queue {name!r}"
        raise QueueNotFound(msg, detail={"queue_name": name}, sqlstate="QU101")
    return _body(info)


def _body(info: QueueInfo) -> QueueBody:
    return QueueBody(
        name=info.name,
        concurrency=info.concurrency,
        capacity=info.capacity,
        max_crashes=info.max_crashes,
        paused=info.paused_at is not None,
        paused_at=info.paused_at,
        pause_reason=info.pause_reason,
    )


HANDLERS = [list_queues, create_queue, get_queue, change_queue, get_queue_stats, pause_queue, resume_queue]
