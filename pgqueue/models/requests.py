"""Requests as they go to the database or to an HTTP server: checked, and written as JSON."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from pgqueue.errors import InvalidInput
from pgqueue.models.encoding import check_number, check_text, check_time, encode_payload
from pgqueue.models.structs import OnConflict, TaskRequest

__all__ = ["check_request", "encode_request"]

TEXTS = ("task_type", "queue_name", "on_conflict")
OPTIONAL_TEXTS = ("unique_key", "user_id", "project_id")


def encode_request(request: TaskRequest) -> bytes:
    """The request as JSON, for submit_many and for HTTP. Raises InvalidInput, naming field and value."""
    check_request(request)
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


def check_request(request: TaskRequest) -> None:
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
