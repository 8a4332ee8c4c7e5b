"""The system: server, sizes, what stands in the way, migrations, and who did what."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, get

from pgqueue import calls
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import of, reading
from pgqueue_web.routes import Api, Who

__all__ = ["HANDLERS"]

MOST_ENTRIES = 50


@get("/system", **of("read"))
async def show_system(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """All of it; the audit log for those who may see it."""
    before = request.query_params.get("before", "")
    before_id = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None
    async with reading(api) as read:
        facts = await read(calls.server_facts())
        relations = await read(calls.relation_sizes())
        health = (await read(calls.overview("health")))[0]
        migrations = await read(calls.list_migrations())
        operations = await read(calls.list_operations(20)) if who.queues is None else []
        entries = await read(calls.list_audit(MOST_ENTRIES, before_id)) if who.may_audit() else None
    return page(
        request,
        "system.html",
        before=before_id,
        facts=facts,
        relations=relations,
        health=health,
        migrations=migrations,
        operations=operations,
        entries=entries,
        next_entry=entries[-1].id if entries is not None and len(entries) == MOST_ENTRIES else None,
        listener=api.hub.is_alive,
    )


HANDLERS = [show_system]
