"""What becomes of waiting for a task: its result in the type that is asked for, or a timeout."""

from __future__ import annotations

from typing import Any

import msgspec

from pgqueue.errors import InvalidInput, PayloadError

__all__ = ["checked_timeout", "convert_result", "timed_out"]


def checked_timeout(timeout: object) -> None:
    """Raise InvalidInput for a timeout that is no number of seconds, or negative."""
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if timeout is not None and not (is_number and timeout >= 0):  # type: ignore[operator]  # a number then
        msg = f"timeout must be None or seconds from 0 on, not {timeout!r}"
        raise InvalidInput(msg, detail={"field": "timeout"}, hint="None waits for ever")


def timed_out(task_id: int, timeout: float | None, status: str) -> TimeoutError:
    """The error of a wait that was too short."""
    return TimeoutError(f"task {task_id} did not end within {timeout or 0:g} s; it is {status}")


def convert_result(task_id: int, value: object, type: Any) -> Any:  # noqa: A002, ANN401 - any JSON
    """Convert a task's result. Raises PayloadError."""
    if type is Any:
        return value
    try:
        return msgspec.convert(value, type, str_keys=True)
    except msgspec.ValidationError as error:
        msg = f"the result of task {task_id} does not fit {type}: {error}"
        raise PayloadError(msg, detail={"task_id": task_id}, hint="ask for the type that it has") from error
