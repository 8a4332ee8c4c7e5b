"""A call of a SQL function as a value, and how answers are read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import msgspec

from pgqueue.models import MOST_ID, check_number, check_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Call", "Row", "checked_names", "json_of", "nothing", "task_key", "utc", "value"]

T = TypeVar("T")
Row = tuple[Any, ...]


class Call(NamedTuple, Generic[T]):
    """What to send, and how to read the rows that come back."""

    sql: str
    parameters: Sequence[Any]
    decode: Callable[[list[Row]], T]


def nothing(_rows: list[Row]) -> None:
    """Read an answer that says nothing."""


def value(rows: list[Row]) -> Any:  # noqa: ANN401 - the one column of the one row
    """Read the one column of the one row."""
    return rows[0][0]


def task_key(task_id: object) -> int:
    """Return a task's id. Raises InvalidInput for what cannot be one."""
    check_number(task_id, "task_id", -MOST_ID - 1, MOST_ID)
    assert isinstance(task_id, int)  # noqa: S101 - just checked
    return task_id


def checked_names(queue_names: Sequence[str] | None) -> list[str] | None:
    """Return names of queues, None for all of them. Raises InvalidInput for what is no text."""
    for name in queue_names or ():
        check_text(name, "queue_names")
    return None if queue_names is None else list(queue_names)


def utc(moment: datetime | None) -> datetime | None:
    """Turn a time into UTC, whatever zone the connection is set to."""
    return None if moment is None else moment.astimezone(UTC)


def json_of(text: str | None) -> Any:  # noqa: ANN401 - any JSON
    """Read JSON; what Python cannot hold (numbers of thousands of digits, deep nesting) stays text."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return text
