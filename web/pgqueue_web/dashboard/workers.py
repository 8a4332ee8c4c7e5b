"""Workers: alive or not, what they run; asked to stop."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from litestar import Request, Response, get, post
from litestar.params import FromPath

from pgqueue import calls
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import done, form_of, of, reading
from pgqueue_web.problems import HttpError
from pgqueue_web.routes import Api, Who

__all__ = ["HANDLERS"]


@get("/workers", **of("read"))
async def show_workers(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """All workers, those that need a look first."""
    async with reading(api) as read:
        workers = await read(calls.list_workers())
        running = [row for row in await read(calls.overview("running_tasks")) if who.may_touch(row["queue_name"])]
    by_worker: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in running:
        by_worker[row["worker_id"]].append(row)
    seen = [info for info in workers if who.queues is None or any(who.may_touch(name) for name in info.queues)]
    return page(request, "workers.html", workers=seen, running=by_worker)


@post("/workers/{worker_id:int}/stop", **of("manage"), status_code=200)
async def stop_worker(request: Request[Any, Any, Any], api: Api, who: Who, worker_id: FromPath[int]) -> Response[Any]:
    """Let it end what it runs, and stop."""
    await form_of(request)
    if who.queues is not None:
        raise HttpError(403, "a key that is limited to queues stops no worker")
    async with api.audited(who, "worker.stop", worker_id) as doing:
        await api.db.run(calls.request_stop(worker_id), conn=doing.conn)
    return done(request, f"Worker {worker_id} is asked to stop.", "/workers")


HANDLERS = [show_workers, stop_worker]
