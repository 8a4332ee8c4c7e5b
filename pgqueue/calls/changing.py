"""Changing tasks, queues and history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue.calls.call import Call, nothing, task_key, value
from pgqueue.models import check_number, check_span, check_text, encode_payload

if TYPE_CHECKING:
    from datetime import timedelta

__all__ = [
    "cancel_task",
    "create_queue",
    "delete_queue",
    "delete_task",
    "pause_queue",
    "resume_queue",
    "retry_task",
    "set_task_result",
    "update_progress",
]

MOST_INT = 2**31 - 1


def cancel_task(task_id: int, reason: str | None = None) -> Call[str]:
    """pgqueue.cancel_task: the status then. Raises TaskNotFound, InvalidTransition."""
    check_text(reason, "reason", optional=True)
    return Call("select pgqueue.cancel_task(%s::bigint, %s)", (task_key(task_id), reason), value)


def retry_task(task_id: int) -> Call[int]:
    """pgqueue.retry_task. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
    return Call("select pgqueue.retry_task(%s::bigint)", (task_key(task_id),), value)


def set_task_result(task_id: int, result: object) -> Call[None]:
    """pgqueue.set_task_result. Raises TaskNotFound, InvalidInput."""
    parameters = (task_key(task_id), encode_payload(result, "result"))
    return Call("select pgqueue.set_task_result(%s::bigint, %s::jsonb)", parameters, nothing)


def update_progress(  # noqa: PLR0913 - as in SQL
    task_id: int,
    progress: int,
    message: str | None = None,
    *,
    step: str | None = None,
    completed_steps: int | None = None,
    total_steps: int | None = None,
) -> Call[None]:
    """pgqueue.update_progress. Raises TaskNotFound, InvalidTransition, InvalidInput."""
    check_number(progress, "progress", 0, 100)
    check_text(message, "message", optional=True)
    check_text(step, "step", optional=True)
    parameters = (task_key(task_id), progress, message, step, completed_steps, total_steps)
    return Call("select pgqueue.update_progress(%s::bigint, %s::int, %s, %s, %s::int, %s::int)", parameters, nothing)


def create_queue(  # noqa: PLR0913 - as in SQL
    name: str,
    *,
    concurrency: int | None = None,
    capacity: int | None = None,
    max_crashes: int | None = None,
    keep_completed: timedelta | None = None,
    keep_failed: timedelta | None = None,
    keep_cancelled: timedelta | None = None,
) -> Call[str]:
    """pgqueue.create_queue: makes it, or changes what is given. Raises InvalidInput."""
    check_text(name, "name")
    for field, number in (("concurrency", concurrency), ("capacity", capacity), ("max_crashes", max_crashes)):
        if number is not None:
            check_number(number, field, 0, MOST_INT)
    keeps = {"keep_completed": keep_completed, "keep_failed": keep_failed, "keep_cancelled": keep_cancelled}
    for field, span in keeps.items():
        check_span(span, field, optional=True)
    parameters = (name, concurrency, capacity, max_crashes, *keeps.values())
    sql = "select pgqueue.create_queue(%s, %s::int, %s::int, %s::int, %s::interval, %s::interval, %s::interval)"
    return Call(sql, parameters, value)


def delete_task(task_id: int) -> Call[None]:
    """pgqueue.delete_task. Raises TaskNotFound, InvalidTransition."""
    return Call("select pgqueue.delete_task(%s::bigint)", (task_key(task_id),), nothing)


def pause_queue(name: str, reason: str | None = None) -> Call[None]:
    """pgqueue.pause_queue. Raises QueueNotFound."""
    check_text(name, "name")
    check_text(reason, "reason", optional=True)
    return Call("select pgqueue.pause_queue(%s, %s)", (name, reason), nothing)


def resume_queue(name: str) -> Call[None]:
    """pgqueue.resume_queue. Raises QueueNotFound."""
    check_text(name, "name")
    return Call("select pgqueue.resume_queue(%s)", (name,), nothing)


def delete_queue(name: str) -> Call[None]:
    """pgqueue.delete_queue. Raises QueueNotFound, InvalidTransition."""
    check_text(name, "name")
    return Call("select pgqueue.delete_queue(%s)", (name,), nothing)
