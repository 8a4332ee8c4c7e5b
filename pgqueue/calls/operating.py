"""Changing many tasks, in steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec

from pgqueue.calls.call import Call, nothing, task_key, utc, value
from pgqueue.errors import InvalidInput
from pgqueue.models import Operation, OperationFilter, OperationKind, check_number, check_text, check_time

if TYPE_CHECKING:
    from pgqueue.calls.call import Row

__all__ = [
    "cancel_operation",
    "fail_operation",
    "get_operation",
    "get_operations",
    "next_operation",
    "preview_operation",
    "start_operation",
    "step_operation",
]

COLUMNS = (
    "id, kind, filter, state, matched, done, skipped, details, cardinality(busy_ids), "
    "coalesce(100.0 * (after_id - first_id + 1) / nullif(last_id - first_id + 1, 0), 100)::float8, "
    "requested_by, created_at, stepped_at, finished_at, error"
)
TEXTS = ("queue_name", "status", "task_type", "user_id", "project_id", "unique_key", "error")
TIMES = ("created_from", "created_to", "finished_from", "finished_to")
MOST_ROWS = 10_000


def start_operation(
    kind: OperationKind, wanted: OperationFilter, *, reason: str | None = None, requested_by: str | None = None
) -> Call[int]:
    """pgqueue.start_operation: the operation's id. Raises InvalidInput."""
    check_text(reason, "reason", optional=True)
    check_text(requested_by, "requested_by", optional=True)
    parameters = (_kind(kind), _filter(wanted), reason, requested_by)
    return Call("select pgqueue.start_operation(%s, %s::jsonb, %s, %s)", parameters, value)


def preview_operation(kind: OperationKind, wanted: OperationFilter) -> Call[Operation]:
    """pgqueue.preview_operation: what it would change. Raises InvalidInput."""
    text = _filter(wanted)
    sql = "select matched, is_capped, sample_ids from pgqueue.preview_operation(%s, %s::jsonb)"

    def read(rows: list[Row]) -> Operation:
        matched, is_capped, sample_ids = rows[0]
        return Operation(
            operation_id=None,
            kind=kind,
            filter=msgspec.json.decode(text),
            state="preview",
            matched=matched,
            is_capped=is_capped,
            sample_ids=sample_ids,
        )

    return Call(sql, (_kind(kind), text), read)


def step_operation(operation_id: int, limit: int = 500) -> Call[Operation]:
    """pgqueue.step_operation: how far it is then. Raises InvalidInput where there is none."""
    check_number(limit, "limit", 1, MOST_ROWS)
    sql = f"select {COLUMNS} from pgqueue.step_operation(%s::bigint, %s::int)"
    return Call(sql, (task_key(operation_id), limit), lambda rows: _operation(rows[0]))


def get_operation(operation_id: int) -> Call[Operation]:
    """A row of pgqueue.operations. Raises InvalidInput where there is none."""

    def read(rows: list[Row]) -> Operation:
        if not rows:
            msg = f"there is no operation {operation_id}"
            raise InvalidInput(msg, detail={"operation_id": operation_id}, hint="get_operations lists those there are")
        return _operation(rows[0])

    return Call(f"select {COLUMNS} from pgqueue.operations where id = %s::bigint", (task_key(operation_id),), read)


def get_operations(limit: int = 100) -> Call[list[Operation]]:
    """The rows of pgqueue.operations, newest first; they are kept for 30 days after their end."""
    check_number(limit, "limit", 1, MOST_ROWS)
    sql = f"select {COLUMNS} from pgqueue.operations order by id desc limit %s::int"
    return Call(sql, (limit,), lambda rows: [_operation(row) for row in rows])


def cancel_operation(operation_id: int) -> Call[str]:
    """pgqueue.cancel_operation: its state then. Raises InvalidInput where there is none."""
    return Call("select pgqueue.cancel_operation(%s::bigint)", (task_key(operation_id),), value)


def fail_operation(operation_id: int, error: str) -> Call[None]:
    """pgqueue.fail_operation: a step of it cannot be done."""
    parameters = (task_key(operation_id), error.replace("\x00", ""))
    return Call("select pgqueue.fail_operation(%s::bigint, %s)", parameters, nothing)


def next_operation(idle_s: float) -> Call[int | None]:
    """pgqueue.next_operation: one that nobody has gone on with for so long, or None."""
    return Call("select pgqueue.next_operation(make_interval(secs => %s))", (idle_s,), value)


def _kind(kind: object) -> str:
    if kind not in get_args(OperationKind):
        msg = f"an operation is retry, cancel or delete, not {kind!r}"
        raise InvalidInput(msg, detail={"field": "kind"}, hint="use retry_tasks, cancel_tasks or delete_tasks")
    return str(kind)


def _filter(wanted: object) -> str:
    if not isinstance(wanted, OperationFilter):
        msg = f"an operation takes an OperationFilter, not {type(wanted).__name__}"
        raise InvalidInput(msg, hint="write OperationFilter(queue_name=…), or OperationFilter(all=True)")
    for name in TEXTS:
        check_text(getattr(wanted, name), name, optional=True)
    for name in TIMES:
        check_time(getattr(wanted, name), name)
    return msgspec.json.encode(wanted).decode()


def _operation(row: Row) -> Operation:
    names: tuple[str, ...] = (
        *("operation_id", "kind", "filter", "state", "matched", "done", "skipped", "details", "busy", "percent"),
        *("requested_by", "created_at", "stepped_at", "finished_at", "error"),
    )
    fields: dict[str, Any] = dict(zip(names, row, strict=True))
    times = ("created_at", "stepped_at", "finished_at")
    return Operation(**fields | {name: utc(fields[name]) for name in times})
