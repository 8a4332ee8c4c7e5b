"""Worker processes, and the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from pgqueue import calls
from pgqueue.errors import Forbidden
from pgqueue.models import WorkerInfo
from pgqueue_web.bodies import AuditList, PauseBody, WorkerList
from pgqueue_web.guard import check_workers
from pgqueue_web.queries import PageQuery
from pgqueue_web.routes import Api, Who, Worker, route

if TYPE_CHECKING:
    from pgqueue.models import Principal
    from pgqueue_web.context import Context

__all__ = ["HANDLERS"]


@get("/workers", **route("read"), tags=["workers"], summary="List workers")
async def list_workers(api: Api, who: Who) -> WorkerList:
    """Each process with its queues, slots and heartbeat; for a key that is limited to queues only what serves those."""
    return WorkerList(
        [shown for info in await api.operations.list_workers() if (shown := _shown(info, who)) is not None]
    )


def _shown(info: WorkerInfo, who: Principal) -> WorkerInfo | None:
    if who.queues is None:
        return info
    queues = [name for name in info.queues if who.may_touch(name)]
    slots = {name: count for name, count in info.concurrency.items() if name in queues}
    return msgspec.structs.replace(info, queues=queues, concurrency=slots, status={}) if queues else None


@post(
    "/workers/{worker_id:str}/pause",
    **route("manage", refusals=(400, 404, 413, 415)),
    status_code=200,
    tags=["workers"],
    summary="Pause a worker",
)
async def pause_worker(api: Api, who: Who, worker: Worker, data: JSONBody[PauseBody | None] = None) -> WorkerInfo:
    """It claims nothing more; what it runs goes on."""
    check_workers(who)
    reason = data.reason if data else None
    async with api.audited(who, "worker.pause", worker) as doing:
        doing.detail = {"reason": reason}
        await api.db.run(calls.pause_worker(worker, reason), conn=doing.conn)
        return await _one(api, worker, doing.conn)


@post(
    "/workers/{worker_id:str}/resume",
    **route("manage", refusals=(404,)),
    status_code=200,
    tags=["workers"],
    summary="Resume a worker",
)
async def resume_worker(api: Api, who: Who, worker: Worker) -> WorkerInfo:
    """Undo a pause."""
    check_workers(who)
    async with api.audited(who, "worker.resume", worker) as doing:
        await api.db.run(calls.resume_worker(worker), conn=doing.conn)
        return await _one(api, worker, doing.conn)


@post(
    "/workers/{worker_id:str}/stop",
    **route("manage", refusals=(404,)),
    status_code=202,
    tags=["workers"],
    summary="Ask a worker to stop",
)
async def stop_worker(api: Api, who: Who, worker: Worker) -> WorkerInfo:
    """It claims nothing more, ends what it runs, and leaves."""
    check_workers(who)
    async with api.audited(who, "worker.stop", worker) as doing:
        await api.db.run(calls.request_stop(worker), conn=doing.conn)
        return await _one(api, worker, doing.conn)


async def _one(api: Context, worker_id: int, conn: object) -> WorkerInfo:
    """Return a worker whose row this transaction has changed: it is there."""
    return next(info for info in await api.db.run(calls.list_workers(), conn=conn) if info.id == worker_id)


@get("/audit-log", **route("admin", query=PageQuery), tags=["server"], summary="Read the audit log")
async def list_audit(api: Api, who: Who, wanted: NamedDependency[PageQuery]) -> AuditList:
    """Who did what, newest first. It is about all queues: a key that is limited to some may not read it."""
    if not who.may_audit():
        raise Forbidden("the audit log is about all queues, and this key is limited to some", hint="use another key")
    entries = await api.access.list_audit(wanted.limit, wanted.before)
    return AuditList(entries, entries[-1].id if len(entries) == wanted.limit else None)


HANDLERS = [list_workers, pause_worker, resume_worker, stop_worker, list_audit]
