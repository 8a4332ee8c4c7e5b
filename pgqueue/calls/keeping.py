"""How long history is kept, and taking away what is older."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from pgqueue.calls.call import Call, nothing, value
from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import date, datetime

    from pgqueue.calls.call import Row

__all__ = [
    "Expired",
    "Keep",
    "Partition",
    "Pass",
    "begin_retention",
    "count_older",
    "drop_days",
    "end_retention",
    "expire",
    "fold_statistics",
    "partitions_before",
    "plan_cleanup",
]

LOWEST = -(2**63)


class Keep(NamedTuple):
    """How long finished tasks are kept where their queue says nothing, by their status."""

    completed: timedelta
    failed: timedelta
    cancelled: timedelta


class Pass(NamedTuple):
    """What a pass over the history has to do: drop days that ended before a moment, go through others."""

    started_at: datetime
    drop_before: datetime
    days: list[date]


class Expired(NamedTuple):
    """What one batch removed, how many due tasks somebody else held, and where to go on; None at the day's end."""

    removed: int
    skipped: int
    last_id: int | None


class Partition(NamedTuple):
    """One day of history that is over, and the statement that detaches it; None where it is detached."""

    name: str
    detach: str | None


def begin_retention(keep: Keep, every: timedelta) -> Call[Pass | None]:
    """pgqueue.begin_retention: None where somebody did it within that time."""
    sql = (
        "select started_at, drop_before, days "
        "from pgqueue.begin_retention(%s::interval, %s::interval, %s::interval, %s::interval)"
    )
    return Call(sql, (*keep, every), lambda rows: Pass(*rows[0]) if rows else None)


def end_retention(started_at: datetime) -> Call[None]:
    """pgqueue.end_retention: the pass left nothing."""
    return Call("select pgqueue.end_retention(%s::timestamptz)", (started_at,), nothing)


def plan_cleanup(age: timedelta) -> Call[Pass]:
    """pgqueue.plan_cleanup. Raises InvalidInput."""
    sql = "select started_at, drop_before, days from pgqueue.plan_cleanup(%s::interval)"
    return Call(sql, (checked_age(age),), lambda rows: Pass(*rows[0]))


def count_older(age: timedelta) -> Call[int]:
    """pgqueue.count_older: how many tasks finished longer ago. Raises InvalidInput."""
    sql = "select pgqueue.count_older(%s::interval)"
    return Call(sql, (checked_age(age),), value)


def expire(day: date, after_id: int | None, keep: Keep, *, by_queue: bool) -> Call[Expired]:
    """pgqueue.expire: one batch of a day, after a task's id."""
    sql = (
        "select removed, skipped, last_id from pgqueue.expire("
        "%s::date, %s::bigint, %s::interval, %s::interval, %s::interval, %s::boolean)"
    )
    return Call(sql, (day, LOWEST if after_id is None else after_id, *keep, by_queue), _expired)


def _expired(rows: list[Row]) -> Expired:
    return Expired(*rows[0])


def fold_statistics() -> Call[datetime | None]:
    """pgqueue._fold_statistics: what ended before this moment is counted; None while another session counts."""
    sql = "select case when isfinite(f) then f end from pgqueue._fold_statistics() f"
    return Call(sql, (), value)


def partitions_before(moment: datetime) -> Call[list[Partition]]:
    """pgqueue._partitions_before: days that are over, the one to remove next first."""
    sql = "select partition_name, detach from pgqueue._partitions_before(%s::timestamptz)"
    return Call(sql, (moment,), lambda rows: [Partition(*row) for row in rows])


def drop_days(names: list[str]) -> Call[int]:
    """pgqueue._drop_days: how many tasks they had."""
    return Call("select pgqueue._drop_days(%s)", (names,), value)


def checked_age(age: object) -> timedelta:
    """Return an age, at most a thousand years. Raises InvalidInput for what is no timedelta, or negative."""
    if not isinstance(age, timedelta) or age < timedelta(0):
        msg = f"the age of tasks to clean up must be a timedelta that is not negative, not {age!r}"
        raise InvalidInput(msg, detail={"field": "age"}, hint="for instance timedelta(days=30)")
    return min(age, timedelta(days=365_000))
