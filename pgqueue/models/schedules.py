"""What goes in and comes out of schedules."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from pgqueue.models.structs import Moment, OnConflict

__all__ = [
    "DueSchedule",
    "Missed",
    "Overlap",
    "ScheduleTick",
    "ScheduledTask",
    "ScheduledTaskRequest",
    "SchedulerStats",
]

Missed = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue", "cancel_previous"]


class ScheduledTaskRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A schedule to make, or what of one to change: fields that are not set keep their value, or their default.

    To make one needs name, task_type and cron_expr. `catch_up_window`, `jitter` and `timeout` in seconds.
    """

    name: str | UnsetType = UNSET
    task_type: str | UnsetType = UNSET
    cron_expr: str | UnsetType = UNSET
    """Minute, hour, day of month, month, day of week; a sixth field, at the end, is the second; or @daily …"""
    queue_name: str | UnsetType = UNSET
    payload: Any | UnsetType = UNSET
    time_zone: str | UnsetType = UNSET
    """An IANA name; UTC by default."""
    priority: int | UnsetType = UNSET
    max_retries: int | UnsetType = UNSET
    timeout: int | UnsetType | None = UNSET
    user_id: str | UnsetType | None = UNSET
    project_id: str | UnsetType | None = UNSET
    metadata: Mapping[str, Any] | UnsetType | None = UNSET
    missed: Missed | UnsetType = UNSET
    """What becomes of ticks that nobody fired within a minute; once by default."""
    catch_up_window: int | UnsetType = UNSET
    """How far back `missed` looks; a day by default."""
    overlap: Overlap | UnsetType = UNSET
    """What becomes of a tick while a task of an earlier one is live; allow by default."""
    jitter: int | UnsetType = UNSET
    starts_at: datetime | UnsetType | None = UNSET
    ends_at: datetime | UnsetType | None = UNSET
    max_runs: int | UnsetType | None = UNSET
    is_active: bool | UnsetType = UNSET
    """False makes it paused; later, pause and resume it."""
    on_conflict: OnConflict | UnsetType = UNSET
    """Where the name is taken: raise (the default), return the schedule as it is, or replace its settings."""


class ScheduledTask(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule; times carry UTC."""

    name: str
    task_type: str
    cron_expr: str
    time_zone: str
    queue_name: str
    payload: Any
    priority: int
    max_retries: int
    timeout: int | None
    user_id: str | None
    project_id: str | None
    metadata: Any
    missed: Missed
    catch_up_window: int
    overlap: Overlap
    jitter: int
    starts_at: Moment | None
    ends_at: Moment | None
    max_runs: int | None
    is_active: bool
    paused_at: Moment | None
    pause_reason: str | None
    next_run_at: Moment | None
    """None while it is paused, cannot be planned (see `error`), or has ended."""
    last_run_at: Moment | None
    last_task_id: int | None
    run_count: int
    error: str | None
    created_at: Moment
    updated_at: Moment


class ScheduleTick(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a tick. With `until`, one row stands for all skipped ticks from `tick` up to before it."""

    tick: Moment
    kind: Literal["scheduled", "catch_up", "manual", "backfill"]
    state: Literal["fired", "queued", "skipped", "known", "due"]
    """known: a backfill found that it was dealt with before; due: a dry run of one found that it was not."""
    reason: str | None = None
    until: Moment | None = None
    task_id: int | None = None
    decided_at: Moment | None = None


class SchedulerStats(msgspec.Struct, frozen=True):
    """All schedules at a glance."""

    active_jobs: int
    paused_jobs: int
    ended_jobs: int
    failed_jobs: int
    """Those with an error."""
    next_run_at: Moment | None
    lag: float
    """Seconds by which the oldest due tick is late."""
    fired: int
    queued_ticks: int


class DueSchedule(msgspec.Struct, frozen=True):
    """What a scheduler needs to plan a schedule; `now` is the clock of the database."""

    id: int
    revision: int
    cron_expr: str
    time_zone: str
    missed: Missed
    catch_up_window: int
    starts_at: Moment | None
    ends_at: Moment | None
    next_run_at: Moment | None
    since: Moment
    now: Moment
