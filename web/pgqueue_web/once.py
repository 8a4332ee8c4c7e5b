"""Doing something once: in a transaction that is audited, and with an Idempotency-Key never twice."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from litestar import Response

from pgqueue.models import KeptAnswer
from pgqueue_web.requests import idempotency_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueue.models import Principal
    from pgqueue.services import Task
    from pgqueue_web.context import Action, Context
    from pgqueue_web.requests import ApiRequest

__all__ = ["Done", "do_once", "wait_for_end"]


class Done(NamedTuple):
    """What was done: the status and body of the answer, and where the new thing is."""

    status: int
    body: Any
    location: str | None = None


async def do_once(
    request: ApiRequest, context: Context, who: Principal, action: str, work: Callable[[Action], Awaitable[Done]]
) -> Response[Any]:
    """Do the work in one transaction with its row in the audit log and the answer that is kept for repetitions.

    A repetition is given that answer. Raises IdempotencyConflict, and what the work raises: nothing is kept then.
    """
    key = idempotency_key(request)
    async with context.audited(who, action) as doing:
        kept = None
        if key is not None:
            what = b"%s %s\n%s" % (request.method.encode(), request.scope["raw_path"], await request.body())
            kept = await context.access.begin_idempotent(who, key, what, conn=doing.conn)
        if kept is not None:
            doing.outcome = "repeated"
            return _answer(kept, context.settings.api_root_path, repeated=True)
        done = await work(doing)
        answer = KeptAnswer(done.status, done.location, msgspec.json.encode(done.body).decode())
        if key is not None:
            await context.access.keep_answer(who, key, answer, conn=doing.conn)
    return _answer(answer, context.settings.api_root_path)


def _answer(answer: KeptAnswer, root_path: str, *, repeated: bool = False) -> Response[Any]:
    headers = {"Location": root_path + answer.location} if answer.location else {}
    if repeated:
        headers["Idempotency-Replayed"] = "true"
    return Response(answer.body.encode(), status_code=answer.status, headers=headers, media_type="application/json")


async def wait_for_end(context: Context, task_id: int, seconds: float) -> Task:
    """Return a task at its end, or as it is when the time is over or the server stops."""
    waiting = asyncio.ensure_future(context.operations.wait_for(task_id, timeout=seconds))
    stopping = asyncio.ensure_future(context.stopping.wait())
    try:
        await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            with contextlib.suppress(TimeoutError):
                return waiting.result()
        return await context.operations.get_task(task_id)
    finally:
        waiting.cancel()
        stopping.cancel()
