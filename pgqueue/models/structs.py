"""What goes in and comes out."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import msgspec

__all__ = [
    "FINAL",
    "Event",
    "Execution",
    "LogLine",
    "Moment",
    "OnConflict",
    "Orders",
    "Priority",
    "QueueConfig",
    "QueueInfo",
    "QueueStats",
    "SeriesPoint",
    "Status",
    "TaskFilter",
    "TaskProgress",
    "TaskRecord",
    "TaskRequest",
    "TaskStatistics",
    "WorkerInfo",
    "requested",
]

Status = Literal["blocked", "pending", "running", "completed", "failed", "cancelled"]
OnConflict = Literal["return", "raise", "replace"]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
"""A time with its zone."""
FINAL = frozenset({"completed", "failed", "cancelled"})


class Priority(enum.IntEnum):
    """Usual priorities; any number from -32768 to 32767 is allowed, and higher runs first."""

    LOW = 1
    NORMAL = 5
    HIGH = 10
    URGENT = 20


class TaskRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What to run. `timeout` in seconds; `run_at` with a time zone, None for now.

    The garbage collector passes it by (`gc=False`): a bulk submit makes thousands, and none is part of a cycle.
    """

    task_type: str
    queue_name: str = "default"
    priority: int = Priority.NORMAL
    payload: Any = msgspec.field(default_factory=dict)
    max_retries: int = 3
    timeout: int | None = None
    run_at: datetime | None = None
    unique_key: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    metadata: Mapping[str, Any] | None = None
    on_conflict: OnConflict = "return"
    parent_id: int | None = None
    """The task that submits it; None: the one whose handler submits it through a service, if any."""


class TaskRecord(msgspec.Struct, kw_only=True):
    """A task as the view pgqueue.all_tasks shows it; times carry UTC."""

    task_id: int
    task_type: str
    queue_name: str
    priority: int
    payload: Any
    status: Status
    max_retries: int
    timeout: int | None = None
    run_at: Moment | None = None
    unique_key: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    metadata: Any = None
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    worker_id: int | None = None
    created_at: Moment | None = None
    started_at: Moment | None = None
    finished_at: Moment | None = None
    result_value: Any = None
    error: str | None = None
    progress_report: Any = None
    cancel_requested_at: Moment | None = None
    parent_id: int | None = None
    """The task that submitted it; it may have been cleaned up."""
    created: bool = False
    """True on the answer to a submit that made the task; False where its unique key was taken, and on reads."""


B = TypeVar("B", bound=TaskRecord)


def requested(kind: type[B], request: TaskRequest, task_id: int, *, created: bool) -> B:
    """The task that a request asked for, by what the request says; its times are not known."""
    return kind(
        task_id=task_id,
        task_type=request.task_type,
        queue_name=request.queue_name,
        priority=int(request.priority),
        payload=request.payload,
        status="pending",
        max_retries=request.max_retries,
        timeout=request.timeout,
        run_at=request.run_at,
        unique_key=request.unique_key,
        user_id=request.user_id,
        project_id=request.project_id,
        metadata=request.metadata,
        parent_id=request.parent_id,
        created=created,
    )


class TaskFilter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which tasks to list; what is None does not matter. Pages start at 1."""

    queue_name: str | None = None
    queue_names: list[str] | None = None
    """Any of these queues; for one who may not see the others."""
    status: Status | None = None
    task_type: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    parent_id: int | None = None
    """Tasks that this task submitted."""
    page: int = 1
    page_size: int = 20
    before_id: int | None = None
    """Keyset paging: only tasks with a smaller id."""


class TaskProgress(msgspec.Struct, frozen=True):
    """How far a task is. `progress` in percent; 100 once it is completed."""

    task_id: int
    status: Status
    progress: int = 0
    message: str | None = None
    step: str | None = None
    completed_steps: int | None = None
    total_steps: int | None = None
    updated_at: Moment | None = None

    @property
    def is_final(self) -> bool:
        """True once the task ended."""
        return self.status in FINAL


class QueueConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Defaults of a QueueService."""

    concurrency: int | None = None
    """Slots of a registered queue that names none; None: what the queue's row says, 5 for a new one."""


class QueueInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A queue's settings."""

    name: str
    concurrency: int
    capacity: int | None
    max_crashes: int
    paused_at: Moment | None
    pause_reason: str | None
    keep_completed: timedelta | None = None
    """How long completed tasks are kept; None: as the settings say. So for those that failed or were cancelled."""
    keep_failed: timedelta | None = None
    keep_cancelled: timedelta | None = None


class QueueStats(msgspec.Struct, frozen=True):
    """A queue now, and what of it is kept as finished."""

    queue_name: str
    pending: int
    scheduled: int
    blocked: int
    running: int
    completed: int
    failed: int
    cancelled: int
    queue_size: int
    queue_capacity: int | None
    concurrency: int
    paused: bool
    oldest_pending_age_s: float
    counted_at: Moment | None = None
    """Where more than 10,000 wait, or an old snapshot is held: when maintenance counted; None where all is of now."""


class TaskStatistics(msgspec.Struct, frozen=True):
    """What finished in a window; pending and running are now. Durations in milliseconds, of the last attempt."""

    total: int
    completed: int
    failed: int
    cancelled: int
    pending: int
    running: int
    success_rate: float
    """Percent of the tasks that ended."""
    avg_duration_ms: float
    p50_duration_ms: float
    p95_duration_ms: float
    p99_duration_ms: float


class SeriesPoint(msgspec.Struct, frozen=True):
    """What finished within one step of a time series. Durations and waits in milliseconds; percentiles true to 5 %."""

    bucket: Moment
    """The start of the step."""
    queue_name: str | None
    task_type: str | None
    """None where the series is not split by them."""
    total: int
    completed: int
    failed: int
    cancelled: int
    avg_duration_ms: float
    p50_duration_ms: float
    p95_duration_ms: float
    p99_duration_ms: float
    avg_wait_ms: float
    """From runnable to start, of the last attempt."""
    p50_wait_ms: float
    p95_wait_ms: float
    p99_wait_ms: float


class Execution(msgspec.Struct, frozen=True):
    """One attempt that ended."""

    task_id: int
    attempt: int
    worker_id: int | None
    started_at: Moment
    finished_at: Moment
    outcome: Literal["completed", "failed", "timed_out", "cancelled", "lost", "released", "snoozed"]
    error_type: str | None
    error_message: str | None
    traceback: str | None


class LogLine(msgspec.Struct, frozen=True):
    """One line that a handler logged."""

    id: int
    task_id: int
    attempt: int
    logged_at: Moment
    level: str
    message: str
    fields: Any


class WorkerInfo(msgspec.Struct, frozen=True):
    """A worker process; `state` is alive, paused, stopping, silent or lost."""

    id: int
    hostname: str
    pid: int
    version: str | None
    queues: list[str]
    concurrency: dict[str, int]
    started_at: Moment
    heartbeat_age_s: float
    state: str
    running: int
    status: dict[str, Any]
    paused_at: Moment | None = None
    pause_reason: str | None = None


class Orders(msgspec.Struct, frozen=True):
    """What a heartbeat brings back."""

    is_lost: bool
    stop_requested: bool
    is_paused: bool
    cancel_ids: list[int]


class Event(msgspec.Struct, frozen=True):
    """A change of a task: its status, or its progress."""

    kind: Literal["status", "progress"]
    task_id: int
    queue_name: str = ""
    task_type: str = ""
    status: str | None = None
    attempt: int | None = None
    progress: int | None = None
    message: str | None = None
    step: str | None = None
    completed_steps: int | None = None
    total_steps: int | None = None
