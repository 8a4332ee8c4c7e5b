"""Putting tasks into the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pgqueue.calls.call import Call, Row, utc
from pgqueue.models import check_request, encode_payload

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pgqueue.models import TaskRequest

__all__ = ["Submitted", "submit_many", "submit_task"]

SUBMIT = (
    "select task_id, created, status, attempt, run_at, created_at from pgqueue.submit_task("
    "%s, %s::jsonb, %s, %s::int, %s::int, %s::int, %s::timestamptz, %s, %s, %s, %s::jsonb, %s, %s::bigint)"
)
SUBMIT_MANY = "select task_id, created from pgqueue.submit_many(%s::jsonb) order by position_no"


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
    check_request(request)
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
        request.parent_id,
    )
    return Call(SUBMIT, parameters, _submitted)


def _submitted(rows: list[Row]) -> Submitted:
    task_id, created, status, attempt, run_at, created_at = rows[0]
    return Submitted(task_id, created, status, attempt, utc(run_at) or run_at, utc(created_at) or created_at)


def submit_many(encoded: Sequence[bytes]) -> Call[list[tuple[int, bool]]]:
    """pgqueue.submit_many over what models.encode_request made: (task_id, created) in the order given."""
    text = (b"[" + b",".join(encoded) + b"]").decode()
    return Call(SUBMIT_MANY, (text,), lambda rows: [(row[0], row[1]) for row in rows])
