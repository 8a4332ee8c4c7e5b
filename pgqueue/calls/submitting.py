"""Putting tasks into the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import msgspec

from pgqueue.calls.call import Call, Row, utc
from pgqueue.errors import InvalidInput
from pgqueue.models import OnConflict, TaskRequest, check_number, check_text, check_time, encode_payload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = ["Submitted", "encode_request", "submit_many", "submit_task"]

SUBMIT = (
    "select task_id, created, status, attempt, run_at, created_at from pgqueue.submit_task("
    "%s, %s::jsonb, %s, %s::int, %s::int, %s::int, %s::timestamptz, %s, %s, %s, %s::jsonb, %s)"
)
SUBMIT_MANY = "select task_id, created from pgqueue.submit_many(%s::jsonb) order by position_no"
TEXTS = ("task_type", "queue_name", "on_conflict")
OPTIONAL_TEXTS = ("unique_key", "user_id", "project_id")


class Submitted(NamedTuple):
    """The answer to a submit."""

    task_id: int
    created: bool
    status: str
    attempt: int
    run_at: datetime
    created_at: datetime


def submit_task(request: TaskRequest) -> Call[Submitted]:
    """pgqueue.submit_task. Raises InvalidInput, naming field and value."""
    _check_request(request)
    parameters = (
        request.task_type,
        encode_payload(request.payload),
        request.queue_name,
        int(request.priority),
        request.max_retries,
        request.timeout,
        request.run_at,
        request.unique_key,
        request.user_id,
        request.project_id,
        None if request.metadata is None else encode_payload(request.metadata, "metadata"),
        request.on_conflict,
    )
    return Call(SUBMIT, parameters, _submitted)


def _submitted(rows: list[Row]) -> Submitted:
    task_id, created, status, attempt, run_at, created_at = rows[0]
    return Submitted(task_id, created, status, attempt, utc(run_at) or run_at, utc(created_at) or created_at)


def encode_request(request: TaskRequest) -> bytes:
    """One element of submit_many's array. Raises InvalidInput, naming field and value."""
    _check_request(request)
    row: dict[str, Any] = {
        "task_type": request.task_type,
        "payload": msgspec.Raw(encode_payload(request.payload).encode()),
        "queue_name": request.queue_name,
        "priority": int(request.priority),
        "max_retries": request.max_retries,
        "timeout": request.timeout,
        "run_at": request.run_at,
        "unique_key": request.unique_key,
        "user_id": request.user_id,
        "project_id": request.project_id,
        "metadata": None,
        "on_conflict": request.on_conflict,
    }
    if request.metadata is not None:
        row["metadata"] = msgspec.Raw(encode_payload(request.metadata, "metadata").encode())
    return msgspec.json.encode(row)


def submit_many(encoded: Sequence[bytes]) -> Call[list[tuple[int, bool]]]:
    """pgqueue.submit_many over what encode_request made: (task_id, created) in the order given."""
    text = (b"[" + b",".join(encoded) + b"]").decode()
    return Call(SUBMIT_MANY, (text,), lambda rows: [(row[0], row[1]) for row in rows])


def _check_request(request: TaskRequest) -> None:
    """Refuse what has the wrong type, and numbers out of range; the database checks all else."""
    if not isinstance(request, TaskRequest):
        msg = f"submit takes a TaskRequest, not {type(request).__name__}"
        raise InvalidInput(msg, hint="write TaskRequest(task_type=…, payload=…)")
    for name in TEXTS:
        check_text(getattr(request, name), name)
    for name in OPTIONAL_TEXTS:
        check_text(getattr(request, name), name, optional=True)
    check_number(request.priority, "priority", -32768, 32767)
    check_number(request.max_retries, "max_retries", 0, 10_000)
    if request.timeout is not None:
        check_number(request.timeout, "timeout", 1, 31_536_000)
    check_time(request.run_at, "run_at")
    if request.on_conflict not in get_args(OnConflict):
        msg = f"on_conflict must be return, raise or replace, not {request.on_conflict!r}"
        raise InvalidInput(msg, detail={"field": "on_conflict"}, hint="it says what a taken unique key leads to")
