"""Query strings; what is unknown in them is refused."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from pgqueue.models import Moment, Status  # noqa: TC001 - msgspec reads the types of fields
from pgqueue_web.fields import Bigint, Body, Id200, Name

__all__ = [
    "EventsQuery",
    "LogsQuery",
    "NextQuery",
    "NoQuery",
    "PageQuery",
    "SchedulesQuery",
    "StatisticsQuery",
    "TaskQuery",
    "TicksQuery",
]


class NoQuery(Body):
    """No parameters at all."""


class TaskQuery(Body):
    """Which tasks to list."""

    queue_name: Name | None = None
    status: Status | None = None
    task_type: Name | None = None
    user_id: Id200 | None = None
    project_id: Id200 | None = None
    created_from: Annotated[Moment | None, Meta(description="created at or after")] = None
    created_to: Annotated[Moment | None, Meta(description="created before")] = None
    parent_id: Annotated[Bigint | None, Meta(description="submitted by this task")] = None
    page: Annotated[int, Meta(ge=1, le=10_000, description="pages end at row 10,000: go on by cursor")] = 1
    page_size: Annotated[int, Meta(ge=1, le=500)] = 20
    cursor: Annotated[
        Annotated[str, Meta(pattern=r"^[0-7][0-9a-v]{12}$")] | None,
        Meta(description="next_cursor of a page; page is ignored"),
    ] = None


class StatisticsQuery(Body):
    """The window: the last 24 hours unless it is given."""

    start_time: Moment | None = None
    end_time: Moment | None = None


class LogsQuery(Body):
    """Which lines of a log."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1, description="only lines after this one")] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1000


class PageQuery(Body):
    """Which rows of the audit log."""

    before: Annotated[Bigint | None, Meta(description="only rows before this one")] = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class EventsQuery(Body):
    """Which events."""

    queue_name: Name | None = None
    kind: Literal["status", "progress"] | None = None
    limit: Annotated[
        Annotated[int, Meta(ge=1, le=2**31 - 1)] | None, Meta(description="the stream ends after so many events")
    ] = None
    wait: Annotated[
        Annotated[int, Meta(ge=0, le=86_400)] | None, Meta(description="the stream ends after so many seconds")
    ] = None


class SchedulesQuery(Body):
    """Which schedules."""

    after: Annotated[Name | None, Meta(description="only those after this name")] = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class NextQuery(Body):
    """How many moments."""

    count: Annotated[int, Meta(ge=1, le=1000)] = 5


class TicksQuery(Body):
    """Which ticks."""

    before: Annotated[Moment | None, Meta(description="only ticks before this moment")] = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
