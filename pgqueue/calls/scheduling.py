"""Schedules: making and changing them, and what schedulers do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
from msgspec import UNSET

from pgqueue.calls.call import Call, Row, checked_names, json_of, nothing, utc, value
from pgqueue.cron import cron_of
from pgqueue.errors import InvalidInput
from pgqueue.models import (
    DueSchedule,
    Missed,
    OnConflict,
    Overlap,
    ScheduledTask,
    ScheduledTaskRequest,
    SchedulerStats,
    ScheduleTick,
    check_number,
    check_text,
    check_time,
    encode_payload,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = [
    "backfill_schedule",
    "create_schedule",
    "delete_schedule",
    "due_schedules",
    "fire_schedules",
    "get_schedule",
    "get_schedule_ticks",
    "list_schedules",
    "pause_schedule",
    "release_ticks",
    "resume_schedule",
    "run_schedule_now",
    "scheduler_stats",
    "schedules_due_in",
    "update_schedule",
]

COLUMNS = (
    "name, task_type, cron_expr, time_zone, queue_name, payload::text, priority, max_retries, timeout, user_id, "
    "project_id, metadata::text, missed, catch_up_window, overlap, jitter, starts_at, ends_at, max_runs, is_active, "
    "paused_at, pause_reason, case when is_active then next_run_at end, last_run_at, last_task_id, run_count, error, "
    "created_at, updated_at"
)
NAMES = ScheduledTask.__struct_fields__
TEXTS = ("name", "task_type", "cron_expr", "queue_name", "time_zone")
OPTIONAL_TEXTS = ("user_id", "project_id")
CHOICES = {"missed": Missed, "overlap": Overlap, "on_conflict": OnConflict}
NUMBERS = {
    "priority": (-32768, 32767),
    "max_retries": (0, 10_000),
    "timeout": (1, 31_536_000),
    "catch_up_window": (0, 31_536_000),
    "jitter": (0, 86_400),
    "max_runs": (1, 2**31 - 1),
}
NULLABLE = ("timeout", "max_runs")
TYPES = {"payload": "jsonb", "metadata": "jsonb", "starts_at": "timestamptz", "ends_at": "timestamptz"}
MOST_ROWS = 10_000


def create_schedule(request: ScheduledTaskRequest) -> Call[int]:
    """pgqueue.create_schedule: its id. Raises InvalidInput, QueueNotFound, DuplicateTask where the name is taken."""
    given = _given(request)
    for name in ("name", "task_type", "cron_expr"):
        if name not in given:
            hint = "a schedule needs name, task_type and cron_expr"
            raise InvalidInput(f"{name} is missing", detail={"field": name}, hint=hint)
    cron_of(request.cron_expr, given.get("time_zone", "UTC"))
    names = ", ".join(f"p_{name} => %s::{TYPES.get(name) or _type_of(name)}" for name in given)
    return Call(f"select pgqueue.create_schedule({names})", [_parameter(*item) for item in given.items()], value)


def update_schedule(name: str, request: ScheduledTaskRequest) -> Call[int]:
    """pgqueue.update_schedule: its id. Raises ScheduleNotFound, InvalidInput, QueueNotFound."""
    check_text(name, "name")
    given = _given(request)
    changes = {key: _json_value(key, item) for key, item in given.items()}
    return Call("select pgqueue.update_schedule(%s, %s::jsonb)", (name, msgspec.json.encode(changes).decode()), value)


def _given(request: object) -> dict[str, Any]:
    """Return the fields that are set. Raises InvalidInput, naming field and value."""
    if not isinstance(request, ScheduledTaskRequest):
        msg = f"a schedule is described by a ScheduledTaskRequest, not {type(request).__name__}"
        raise InvalidInput(msg, hint="write ScheduledTaskRequest(name=…, task_type=…, cron_expr=…)")
    fields = ((name, getattr(request, name)) for name in request.__struct_fields__)
    given = {name: found for name, found in fields if found is not UNSET}
    for name, found in given.items():
        _check(name, found)
    return given


def _check(name: str, found: object) -> None:
    if name in TEXTS or name in OPTIONAL_TEXTS:
        check_text(found, name, optional=name in OPTIONAL_TEXTS)
    elif name in CHOICES and found not in get_args(CHOICES[name]):
        choices = ", ".join(get_args(CHOICES[name]))
        msg = f"{name} must be one of {choices}, not {found!r}"
        raise InvalidInput(msg, detail={"field": name, "value": repr(found)}, hint="choose one of them")
    elif name in NUMBERS and not (found is None and name in NULLABLE):
        check_number(found, name, *NUMBERS[name])
    elif name in ("starts_at", "ends_at"):
        check_time(found, name)
    elif name == "is_active" and not isinstance(found, bool):
        raise InvalidInput(
            f"is_active must be True or False, not {found!r}", detail={"field": name}, hint="give a bool"
        )


def _type_of(name: str) -> str:
    return "int" if name in NUMBERS else "boolean" if name == "is_active" else "text"


def _parameter(name: str, found: object) -> object:
    """Return what is sent for a field; JSON as text."""
    if name in ("payload", "metadata") and not (name == "metadata" and found is None):
        return encode_payload(found, name)
    return found


def _json_value(name: str, found: object) -> object:
    sent = _parameter(name, found)
    return msgspec.Raw(sent.encode()) if isinstance(sent, str) and TYPES.get(name) == "jsonb" else sent


def pause_schedule(name: str, reason: str | None = None) -> Call[None]:
    """pgqueue.pause_schedule. Raises ScheduleNotFound."""
    check_text(name, "name")
    check_text(reason, "reason", optional=True)
    return Call("select pgqueue.pause_schedule(%s, %s)", (name, reason), nothing)


def resume_schedule(name: str) -> Call[None]:
    """pgqueue.resume_schedule. Raises ScheduleNotFound."""
    check_text(name, "name")
    return Call("select pgqueue.resume_schedule(%s)", (name,), nothing)


def delete_schedule(name: str) -> Call[None]:
    """pgqueue.delete_schedule. Raises ScheduleNotFound."""
    check_text(name, "name")
    return Call("select pgqueue.delete_schedule(%s)", (name,), nothing)


def run_schedule_now(name: str) -> Call[int]:
    """pgqueue.run_schedule_now: the id of the task. Raises ScheduleNotFound, QueueFull."""
    check_text(name, "name")
    return Call("select pgqueue.run_schedule_now(%s)", (name,), value)


def get_schedule(name: str) -> Call[ScheduledTask]:
    """pgqueue.get_schedule. Raises ScheduleNotFound."""
    check_text(name, "name")
    return Call(f"select {COLUMNS} from pgqueue.get_schedule(%s)", (name,), lambda rows: _schedule(rows[0]))


def list_schedules(
    limit: int = 1000, after: str | None = None, queue_names: Sequence[str] | None = None
) -> Call[list[ScheduledTask]]:
    """pgqueue.list_schedules: by name, those after a name, of all queues or of some."""
    check_number(limit, "limit", 1, MOST_ROWS)
    check_text(after, "after", optional=True)
    sql = f"select {COLUMNS} from pgqueue.list_schedules(%s::int, %s, %s::text[])"
    return Call(sql, (limit, after, checked_names(queue_names)), lambda rows: [_schedule(row) for row in rows])


def _schedule(row: Row) -> ScheduledTask:
    fields = dict(zip(NAMES, row, strict=True))
    for name in ("payload", "metadata"):
        fields[name] = json_of(fields[name])
    for name in NAMES:
        if name.endswith("_at"):
            fields[name] = utc(fields[name])
    return ScheduledTask(**fields)


def get_schedule_ticks(name: str, limit: int = 100, before: datetime | None = None) -> Call[list[ScheduleTick]]:
    """pgqueue.get_schedule_ticks: newest first. Raises ScheduleNotFound."""
    check_text(name, "name")
    check_number(limit, "limit", 1, MOST_ROWS)
    check_time(before, "before")
    sql = (
        "select tick, kind, state, reason, until, task_id, decided_at "
        "from pgqueue.get_schedule_ticks(%s, %s::int, %s::timestamptz)"
    )
    return Call(sql, (name, limit, before), lambda rows: [_tick(row) for row in rows])


def _tick(row: Row) -> ScheduleTick:
    tick, kind, state, reason, until, task_id, decided_at = row
    return ScheduleTick(
        tick=utc(tick) or tick,
        kind=kind,
        state=state,
        reason=reason,
        until=utc(until),
        task_id=task_id,
        decided_at=utc(decided_at),
    )


def backfill_schedule(
    name: str, ticks: Sequence[datetime], following: datetime | None, *, dry_run: bool
) -> Call[list[ScheduleTick]]:
    """pgqueue.backfill_schedule: what became of all ticks of a range, which another one follows.

    Raises ScheduleNotFound, InvalidInput for a tick to come.
    """
    check_text(name, "name")
    sql = (
        "select tick, 'backfill', state, null, null, task_id, null "
        "from pgqueue.backfill_schedule(%s, %s::timestamptz[], %s::timestamptz, %s)"
    )
    return Call(sql, (name, list(ticks), following, dry_run), lambda rows: [_tick(row) for row in rows])


def scheduler_stats(queue_names: Sequence[str] | None = None) -> Call[SchedulerStats]:
    """pgqueue.scheduler_stats: of all schedules, or of those of some queues."""
    sql = (
        "select active_jobs, paused_jobs, ended_jobs, failed_jobs, next_run_at, lag, fired, queued_ticks "
        "from pgqueue.scheduler_stats(%s::text[])"
    )
    return Call(sql, (checked_names(queue_names),), lambda rows: SchedulerStats(*rows[0]))


def due_schedules(limit: int = 100, name: str | None = None) -> Call[list[DueSchedule]]:
    """pgqueue.due_schedules, locked until the transaction ends."""
    sql = (
        "select id, revision, cron_expr, time_zone, missed, catch_up_window, starts_at, ends_at, next_run_at, since, "
        "now from pgqueue.due_schedules(%s::int, %s)"
    )
    return Call(sql, (limit, name), lambda rows: [DueSchedule(*row) for row in rows])


def fire_schedules(plans: Sequence[dict[str, object]]) -> Call[int]:
    """pgqueue.fire_schedules: how many ticks were fired."""
    return Call("select pgqueue.fire_schedules(%s::jsonb)", (msgspec.json.encode(plans).decode(),), value)


def schedules_due_in() -> Call[tuple[float | None, bool]]:
    """pgqueue.schedules_due_in: seconds until a schedule needs a scheduler, and whether ticks wait for a task."""
    sql = "select due_in, has_queued from pgqueue.schedules_due_in()"
    return Call(sql, (), lambda rows: (rows[0][0], rows[0][1]))


def release_ticks() -> Call[int]:
    """pgqueue.release_ticks: how many ticks still wait."""
    return Call("select pgqueue.release_ticks()", (), value)
