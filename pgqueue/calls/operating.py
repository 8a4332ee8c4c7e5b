"""Bulk operations: retrying, cancelling and deleting by a filter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pgqueue.calls.call import Call, Row, task_key, utc, value
from pgqueue.errors import InvalidInput
from pgqueue.models import BulkFilter, Operation, OperationPreview, check_number, check_text, check_time

if TYPE_CHECKING:
    from pgqueue.models import OperationKind

__all__ = [
    "cancel_operation",
    "get_operation",
    "list_operations",
    "preview_operation",
    "start_operation",
    "step_abandoned",
    "step_operation",
]

COLUMNS = (
    "id, kind, filter, reason, state, last_id, until_id, examined, done, skipped, skipped_ids, requested_by, "
    "created_at, updated_at, finished_at"
)
TEXTS = ("queue_name", "task_type", "user_id", "project_id", "error_contains", "payload_value")
TIMES = ("created_from", "created_to", "finished_from", "finished_to")
MOST_ROWS = 10_000
STEP = 200


def preview_operation(kind: OperationKind, chosen: BulkFilter) -> Call[OperationPreview]:
    """pgqueue.preview_operation. Raises InvalidInput."""
    sql = "select matched, is_capped, sample from pgqueue.preview_operation(%s, %s::jsonb)"
    return Call(sql, (kind, _filter(chosen)), lambda rows: OperationPreview(*rows[0]))


def start_operation(
    kind: OperationKind, chosen: BulkFilter, reason: str | None = None, requested_by: str | None = None
) -> Call[int]:
    """pgqueue.start_operation: its id. Raises InvalidInput."""
    check_text(reason, "reason", optional=True)
    check_text(requested_by, "requested_by", optional=True)
    parameters = (kind, _filter(chosen), reason, requested_by)
    return Call("select pgqueue.start_operation(%s, %s::jsonb, %s, %s)", parameters, value)


def _filter(chosen: object) -> str:
    if not isinstance(chosen, BulkFilter):
        msg = f"tasks are chosen by a BulkFilter, not {type(chosen).__name__}"
        raise InvalidInput(msg, hint="write BulkFilter(queue_name=…), or BulkFilter(all=True)")
    for name in TEXTS:
        check_text(getattr(chosen, name), name, optional=True)
    if chosen.parent_id is not None:
        task_key(chosen.parent_id)
    for part in chosen.payload_path or ():
        check_text(part, "payload_path")
    for name in TIMES:
        check_time(getattr(chosen, name), name)
    return msgspec.json.encode(chosen).decode()


def step_operation(operation_id: int, limit: int = STEP) -> Call[Operation | None]:
    """pgqueue.step_operation: None where another session is at it. Raises OperationNotFound."""
    check_number(limit, "limit", 1, MOST_ROWS)
    sql = f"select {COLUMNS} from pgqueue.step_operation(%s::bigint, %s::int)"
    return Call(sql, (task_key(operation_id), limit), lambda rows: _operation(rows[0]) if rows else None)


def step_abandoned() -> Call[Operation | None]:
    """pgqueue.step_abandoned: the operation that was carried on, None where there was none."""
    sql = f"select {COLUMNS} from pgqueue.step_abandoned()"
    return Call(sql, (), lambda rows: _operation(rows[0]) if rows else None)


def cancel_operation(operation_id: int) -> Call[str]:
    """pgqueue.cancel_operation: its state then. Raises OperationNotFound."""
    return Call("select pgqueue.cancel_operation(%s::bigint)", (task_key(operation_id),), value)


def get_operation(operation_id: int) -> Call[Operation]:
    """pgqueue.list_operations, one of them. Raises OperationNotFound."""
    sql = f"select {COLUMNS} from pgqueue.list_operations(1, %s::bigint)"
    return Call(sql, (task_key(operation_id),), lambda rows: _operation(rows[0]))


def list_operations(limit: int = 100) -> Call[list[Operation]]:
    """pgqueue.list_operations: newest first."""
    check_number(limit, "limit", 1, MOST_ROWS)
    sql = f"select {COLUMNS} from pgqueue.list_operations(%s::int)"
    return Call(sql, (limit,), lambda rows: [_operation(row) for row in rows])


def _operation(row: Row) -> Operation:
    return Operation(*row[:12], *(utc(moment) for moment in row[12:]))
