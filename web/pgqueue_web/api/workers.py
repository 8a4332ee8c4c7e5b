"""Worker processes, and the audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from litestar import get
from litestar.di import NamedDependency

from pgqueue.errors import Forbidden
from pgqueue_web.bodies import AuditList, WorkerList
from pgqueue_web.queries import PageQuery
from pgqueue_web.routes import Api, Who, route

if TYPE_CHECKING:
    from pgqueue.models import Principal, WorkerInfo

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


@get("/audit-log", **route("admin", query=PageQuery), tags=["server"], summary="Read the audit log")
async def list_audit(api: Api, who: Who, wanted: NamedDependency[PageQuery]) -> AuditList:
    """Who did what, newest first. It is about all queues: a key that is limited to some may not read it."""
    if not who.may_audit():
        raise Forbidden("the audit log is about all queues, and this key is limited to some", hint="use another key")
    entries = await api.access.list_audit(wanted.limit, wanted.before)
    return AuditList(entries, entries[-1].id if len(entries) == wanted.limit else None)


HANDLERS = [list_workers, list_audit]
