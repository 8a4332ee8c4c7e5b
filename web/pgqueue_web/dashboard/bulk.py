"""Retrying, cancelling and deleting many tasks: the ticked ones, or all that a list's filters match."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath

from pgqueue import calls
from pgqueue.errors import DuplicateTask, InvalidTransition, OperationNotFound, QueueFull, QueueNotFound, TaskNotFound
from pgqueue.models import BulkFilter, Operation, OperationKind
from pgqueue_web.dashboard.render import page
from pgqueue_web.dashboard.replies import form_of, notice, of, reading
from pgqueue_web.dashboard.search import WINDOWS, read_search
from pgqueue_web.problems import HttpError
from pgqueue_web.routes import Api, Number, Who

if TYPE_CHECKING:
    from pgqueue.models import Principal
    from pgqueue_web.context import Action, Context

__all__ = ["HANDLERS"]

FILTERS = ("state", "queue", "type", "since", "q")
KINDS: tuple[OperationKind, ...] = get_args(OperationKind)
MOST_IDS = 500
REFUSALS = (DuplicateTask, InvalidTransition, QueueFull, QueueNotFound, TaskNotFound)
SAID = {"retry": "started again", "cancel": "cancelled, or asked to stop", "delete": "deleted"}


@get("/bulk/{action:str}", **of("manage"))
async def ask(request: Request[Any, Any, Any], api: Api, who: Who, action: FromPath[str]) -> Response[Any]:
    """Ask before many tasks are changed, with how many they are."""
    kind = _kind_of(action)
    ids = _ids_of(request.query_params.getall("id", []))
    given = {name: request.query_params.get(name, "")[:500] for name in FILTERS}
    matched, is_capped, chosen = len(ids), False, None
    if not ids:
        chosen = _chosen(given, who)
        async with reading(api) as read:
            found = await read(calls.preview_operation(kind, chosen))
        matched, is_capped = found.matched, found.is_capped
    created_from = chosen.created_from.isoformat() if chosen is not None and chosen.created_from else ""
    return page(
        request,
        "bulk.html",
        kind=kind,
        ids=ids,
        given=given,
        created_from=created_from,
        matched=matched,
        is_capped=is_capped,
        words=_words(given),
    )


@post("/bulk/{action:str}", **of("manage"), status_code=200)
async def begin(request: Request[Any, Any, Any], api: Api, who: Who, action: FromPath[str]) -> Response[Any]:
    """Change the ticked tasks at once, or begin an operation on all that match."""
    kind = _kind_of(action)
    fields = await form_of(request)
    ids = _ids_of(fields["ids"].split(",")) if fields.get("ids") else []
    if ids:
        return await _change(request, api, who, kind, ids)
    chosen = _chosen({name: fields.get(name, "") for name in FILTERS}, who, fields.get("created_from", ""))
    reason = f"cancelled by {who.name}" if kind == "cancel" else None
    async with api.audited(who, f"task.{kind}_all") as doing:
        number = await api.retries.start_operation(
            kind, chosen, reason=reason, requested_by=who.name[:200], conn=doing.conn
        )
        doing.target, doing.detail = f"operation {number}", {"filter": msgspec.to_builtins(chosen)}
    api.start(_carry_out(api, number))
    return page(request, "operation.html", operation=await api.retries.get_operation(number), said=SAID)


async def _carry_out(api: Context, number: int) -> None:
    async for _ in api.retries.follow_operation(number):
        pass


async def _change(
    request: Request[Any, Any, Any], api: Context, who: Principal, kind: str, ids: list[int]
) -> Response[Any]:
    """Change some tasks in one transaction; those that cannot be are left as they are."""
    changed: list[int] = []
    async with api.audited(who, f"task.{kind}_selected") as doing:
        for task_id in ids:
            try:
                async with doing.conn.transaction():
                    await _change_one(api, who, kind, task_id, doing)
            except REFUSALS:
                continue
            changed.append(task_id)
        doing.detail = {"asked": len(ids), "changed": changed[:100], "count": len(changed)}
    left = len(ids) - len(changed)
    text = f"{len(changed)} of {len(ids)} tasks {SAID[kind]}." if left else f"{len(changed)} tasks {SAID[kind]}."
    return notice(request, text, is_error=not changed)


async def _change_one(api: Context, who: Principal, kind: str, task_id: int, doing: Action) -> None:
    if not who.may_touch(await api.access.task_queue(task_id, conn=doing.conn)):
        raise TaskNotFound(f"there is no task {task_id}")
    if kind == "retry":
        await api.operations.retry_task(task_id, conn=doing.conn)
    elif kind == "delete":
        await api.operations.delete_task(task_id, conn=doing.conn)
    else:
        await api.operations.cancel_task(task_id, f"cancelled by {who.name}", conn=doing.conn)


@get("/operations/{task_id:str}", **of("manage"))
async def show_operation(request: Request[Any, Any, Any], api: Api, who: Who, number: Number) -> Response[Any]:
    """How far an operation is."""
    async with reading(api) as read:
        operation = await read(calls.get_operation(number))
    _check_visible(who, operation)
    return page(request, "operation.html", operation=operation, said=SAID)


@post("/operations/{task_id:str}/stop", **of("manage"), status_code=200)
async def stop_operation(request: Request[Any, Any, Any], api: Api, who: Who, number: Number) -> Response[Any]:
    """End it where it is."""
    await form_of(request)
    async with api.audited(who, "operation.cancel", number) as doing:
        _check_visible(who, await api.db.run(calls.get_operation(number), conn=doing.conn))
        await api.db.run(calls.cancel_operation(number), conn=doing.conn)
    return page(request, "operation.html", operation=await api.retries.get_operation(number), said=SAID)


def _check_visible(who: Principal, operation: Operation) -> None:
    """Raise OperationNotFound for an operation that goes beyond the queues of a key."""
    if who.queues is not None and operation.filter.get("queue_name") not in who.queues:
        detail: dict[str, object] = {"operation_id": operation.id}
        raise OperationNotFound(f"there is no bulk operation {operation.id}", detail=detail, sqlstate="QU105")


def _kind_of(text: str) -> OperationKind:
    """Return what the address names. Raises HttpError."""
    found: OperationKind | None = next((kind for kind in KINDS if kind == text), None)
    if found is None:
        raise HttpError(404, f"many tasks cannot be {text[:80]!r}", hint=f"choose one of {', '.join(KINDS)}")
    return found


def _ids_of(texts: list[str]) -> list[int]:
    """Return the ids of ticked tasks. Raises HttpError."""
    ids = [int(text) for text in texts if text.isascii() and text.isdecimal() and len(text) < 19]
    if len(ids) != len(texts) or len(ids) > MOST_IDS:
        raise HttpError(422, f"these are no ids of up to {MOST_IDS} tasks", hint="tick the tasks on the page again")
    return ids


def _chosen(given: dict[str, str], who: Principal, created_from: str = "") -> BulkFilter:
    """Return the tasks that a list's filters match. Raises HttpError where an operation cannot say that."""
    search = read_search(given, who, datetime.now(UTC))
    wanted = search.wanted
    if search.problems or search.task_id is not None:
        raise HttpError(
            422, search.problems[0] if search.problems else "a number names one task", hint="open that task"
        )
    if who.queues is not None and search.queue not in who.queues:
        hint = f"it is for {', '.join(who.queues)}"
        raise HttpError(403, "this key is limited to queues: choose one of them in the filter", hint=hint)
    since = datetime.fromisoformat(created_from) if created_from else wanted.created_from
    names: dict[str, Any] = {"status": wanted.status, "task_type": wanted.task_type, "user_id": wanted.user_id}
    names |= {
        "project_id": wanted.project_id,
        "parent_id": wanted.parent_id,
        "error_contains": wanted.error,
        "created_from": since,
        "payload_path": wanted.path,
        "payload_value": wanted.value,
    }
    fitting = {name: value for name, value in names.items() if value is not None}
    if search.queue is not None:
        fitting["queue_name"] = search.queue
    return BulkFilter(**fitting) if fitting else BulkFilter(all=True)


def _words(given: dict[str, str]) -> list[str]:
    """Return the filters as they are shown."""
    named = given | {"search": given["q"], "q": "", "since": ""}
    words = [f"{name} {value}" for name, value in named.items() if value]
    if given["since"] in WINDOWS:
        words.append(f"created in the last {WINDOWS[given['since']][0]}")
    return words or ["all tasks"]


HANDLERS = [ask, begin, show_operation, stop_operation]
