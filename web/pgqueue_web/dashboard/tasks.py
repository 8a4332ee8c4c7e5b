"""The list of tasks: filters in the address, pages by id, a search that is bounded."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from litestar import Request, Response, get

from pgqueue import calls
from pgqueue.models import SearchPage, TaskFilter
from pgqueue_web.dashboard.render import link_of, page
from pgqueue_web.dashboard.replies import of, reading, redirect
from pgqueue_web.dashboard.search import WINDOWS, Search, read_search
from pgqueue_web.routes import Api, Who

__all__ = ["HANDLERS"]

FILTERS = ("state", "queue", "type", "since", "q")
SIZE = 50


@get("/tasks", **of("read"))
async def list_tasks(request: Request[Any, Any, Any], api: Api, who: Who) -> Response[Any]:
    """One page of tasks, newest first."""
    given = {name: request.query_params.get(name, "")[:500] for name in (*FILTERS, "before")}
    now = datetime.now(UTC)
    search = read_search(given, who, now)
    if search.task_id is not None and not search.problems:
        return redirect(link_of(request, f"/tasks/{search.task_id}"))
    async with reading(api) as read:
        found, total, is_capped = await _find(read, search)
        queues = [info.name for info in await read(calls.list_queues()) if who.may_touch(info.name)]
        ended = await read(calls.ended_by_type(now - timedelta(days=7), now, who.queues))
    return page(
        request,
        "tasks.html",
        given=given,
        filters={name: given[name] for name in FILTERS},
        search=search,
        found=found,
        total=total,
        is_capped=is_capped,
        queues=queues,
        types=sorted(kind.task_type for kind in ended),
        windows=WINDOWS,
        size=SIZE,
    )


async def _find(read: Any, search: Search) -> tuple[SearchPage, int | None, bool]:  # noqa: ANN401 - as lent by reading
    """Return a page, and how many there are where that can be known."""
    wanted = search.wanted
    if search.problems or wanted.queue_names == []:
        return SearchPage([], None), None, False
    wanted.limit = SIZE
    found = await read(calls.search_tasks(wanted))
    if search.is_deep:
        return found, None, False
    names = ("queue_names", "status", "task_type", "user_id", "project_id", "created_from", "created_to", "parent_id")
    total, is_capped = await read(calls.count_tasks(TaskFilter(**{name: getattr(wanted, name) for name in names})))
    return found, total, is_capped


HANDLERS = [list_tasks]
