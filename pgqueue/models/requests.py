"""Requests as they go to the database or to an HTTP server: checked, and written as JSON."""

from __future__ import annotations

from typing import get_args

import msgspec

from pgqueue.errors import InvalidInput
from pgqueue.models.encoding import (
    MOST_BYTES,
    MOST_ID,
    check_number,
    check_text,
    check_time,
    encode_payload,
    is_suspect,
)
from pgqueue.models.structs import OnConflict, Priority, TaskRequest

__all__ = ["check_request", "encode_request"]

TEXTS = ("task_type", "queue_name", "on_conflict")
OPTIONAL_TEXTS = ("unique_key", "user_id", "project_id")
RULES = get_args(OnConflict)
MOST_PRIORITY = 32767
MOST_RETRIES = 10_000


def encode_request(request: TaskRequest) -> bytes:
    """The request as JSON, for submit_many and for HTTP; what has its default is left out.

    Raises InvalidInput, naming field and value.
    """
    check_request(request)
    if request.metadata is None:
        try:
            encoded = msgspec.json.encode(request)
        except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
            encoded = b""  # what is wrong, and where, is said below
        if encoded and len(encoded) <= MOST_BYTES and not is_suspect(encoded):
            return encoded
    row = msgspec.structs.asdict(request) | {"payload": msgspec.Raw(encode_payload(request.payload).encode())}
    if request.metadata is not None:
        row["metadata"] = msgspec.Raw(encode_payload(request.metadata, "metadata").encode())
    return msgspec.json.encode(row)


def check_request(request: TaskRequest) -> None:
    """Refuse what has the wrong type, and numbers out of range; the database checks all else."""
    if type(request) is TaskRequest and _is_plain(request):
        return
    if not isinstance(request, TaskRequest):
        msg = f"submit takes a TaskRequest, not {type(request).__name__}"
        raise InvalidInput(msg, hint="write TaskRequest(task_type=…, payload=…)")
    for name in TEXTS:
        check_text(getattr(request, name), name)
    for name in OPTIONAL_TEXTS:
        check_text(getattr(request, name), name, optional=True)
    check_number(request.priority, "priority", -MOST_PRIORITY - 1, MOST_PRIORITY)
    check_number(request.max_retries, "max_retries", 0, MOST_RETRIES)
    if request.timeout is not None:
        check_number(request.timeout, "timeout", 1, 31_536_000)
    if request.parent_id is not None:
        check_number(request.parent_id, "parent_id", 1, MOST_ID)
    check_time(request.run_at, "run_at")
    if request.on_conflict not in RULES:
        msg = f"on_conflict must be return, raise or replace, not {request.on_conflict!r}"
        raise InvalidInput(msg, detail={"field": "on_conflict"}, hint="it says what a taken unique key leads to")


def _is_plain(request: TaskRequest) -> bool:
    """Whether all that is set is as it mostly is: a few looks instead of many."""
    kind, queue = request.task_type, request.queue_name
    return (
        type(kind) is str
        and kind.isprintable()
        and type(queue) is str
        and queue.isprintable()
        and type(request.max_retries) is int
        and 0 <= request.max_retries <= MOST_RETRIES
        and type(request.priority) in (int, Priority)
        and -MOST_PRIORITY <= request.priority <= MOST_PRIORITY
        and request.on_conflict == "return"
        and request.unique_key is None
        and request.timeout is None
        and request.run_at is None
        and request.user_id is None
        and request.project_id is None
        and request.parent_id is None
    )
