"""Workers: alive or not, what they run; paused, resumed, asked to stop."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from litestar import Request, Response, get, post

from pgqueue import calls
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import done, form_of, of, reading
from pgqueue_web.guard import check_workers
from pgqueue_web.routes import Api, Who, Worker

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


@post("/workers/{worker_id:str}/pause", **of("manage"), status_code=200)
async def pause_worker(request: Request[Any, Any, Any], api: Api, who: Who, worker: Worker) -> Response[Any]:
    """Let it take no more tasks; what it runs goes on."""
    reason = (await form_of(request)).get("reason", "").strip() or None
    check_workers(who)
    async with api.audited(who, "worker.pause", worker) as doing:
        doing.detail = {"reason": reason}
        await api.db.run(calls.pause_worker(worker, reason), conn=doing.conn)
    return done(request, f"Worker {worker} is paused.", "/workers")


@post("/workers/{worker_id:str}/resume", **of("manage"), status_code=200)
async def resume_worker(request: Request[Any, Any, Any], api: Api, who: Who, worker: Worker) -> Response[Any]:
    """Let it go on."""
    await form_of(request)
    check_workers(who)
    async with api.audited(who, "worker.resume", worker) as doing:
        await api.db.run(calls.resume_worker(worker), conn=doing.conn)
    return done(request, f"Worker {worker} goes on.", "/workers")


@post("/workers/{worker_id:str}/stop", **of("manage"), status_code=200)
async def stop_worker(request: Request[Any, Any, Any], api: Api, who: Who, worker: Worker) -> Response[Any]:
    """Let it end what it runs, and stop."""
    await form_of(request)
    check_workers(who)
    async with api.audited(who, "worker.stop", worker) as doing:
        await api.db.run(calls.request_stop(worker), conn=doing.conn)
    return done(request, f"Worker {worker} is asked to stop.", "/workers")


HANDLERS = [show_workers, pause_worker, resume_worker, stop_worker]
