"""What goes over the wire: the bodies of requests and answers. Unknown fields are refused."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pgqueue.models import (
    AuditEntry,
    Execution,
    LogLine,
    Missed,
    Moment,
    OnConflict,
    Overlap,
    QueueStats,
    ScheduledTask,
    ScheduledTaskRequest,
    ScheduleTick,
    Scope,
    Status,
    TaskProgress,
    TaskRecord,
    TaskRequest,
    WorkerInfo,
)
from pgqueue_web.fields import Bigint, Body, Cron, Due, Id200, Name, Reason, Seconds, UniqueKey, Zone

__all__ = [
    "AuditList",
    "BatchAnswer",
    "BatchBody",
    "ExecutionList",
    "Info",
    "LogList",
    "NewQueue",
    "NextRuns",
    "PauseBody",
    "QueueBody",
    "QueueChange",
    "QueueList",
    "QueueStats",
    "ResultBody",
    "ScheduleBody",
    "ScheduleChange",
    "ScheduleList",
    "StatisticsBody",
    "TaskBody",
    "TaskList",
    "TaskProgress",
    "TaskRequestBody",
    "TickList",
    "WorkerList",
    "as_request",
]


class TaskRequestBody(Body):
    """A task to run."""

    task_type: Annotated[Name, Meta(description="names the handler that runs it", examples=["content_generation"])]
    queue_name: Annotated[Name, Meta(description="must exist", examples=["processing"])] = "default"
    priority: Annotated[
        int, Meta(ge=-32768, le=32767, description="higher runs first: 1 low, 5 normal, 10 high, 20 urgent")
    ] = 5
    payload: Annotated[Any, Meta(description="what the handler is given; at most 1 MiB of JSON, no NUL in it")] = (
        msgspec.field(default_factory=dict)
    )
    max_retries: Annotated[int, Meta(ge=0, le=10_000, description="failures that are followed by another attempt")] = 3
    timeout: Annotated[
        Annotated[int, Meta(ge=1, le=31_536_000)] | None, Meta(description="seconds an attempt may run")
    ] = None
    run_at: Annotated[Due | None, Meta(description="not before this moment; null: now")] = None
    unique_key: Annotated[UniqueKey | None, Meta(description="at most one live task has this key in its type")] = None
    user_id: Annotated[Id200 | None, Meta(description="to filter by")] = None
    project_id: Annotated[Id200 | None, Meta(description="to filter by")] = None
    metadata: Annotated[dict[str, Any] | None, Meta(description="kept beside the payload; at most 64 KiB")] = None
    on_conflict: Annotated[
        OnConflict, Meta(description="what a taken unique key leads to: the live task, 409, or its payload replaced")
    ] = "return"
    parent_id: Annotated[Bigint | None, Meta(description="the task that submits it, to filter by")] = None

    def request(self) -> TaskRequest:
        """Return it as the services take it."""
        return TaskRequest(**{name: getattr(self, name) for name in TaskRequest.__struct_fields__})


class BatchBody(Body):
    """Tasks to submit in one transaction: all or none."""

    tasks: Annotated[list[TaskRequestBody], Meta(min_length=1, max_length=10_000)]


class TaskBody(msgspec.Struct, kw_only=True):
    """A task."""

    task_id: Annotated[Bigint, Meta(examples=[42])]
    task_type: str
    queue_name: str
    priority: int
    payload: Any
    status: Status
    attempt: Annotated[int, Meta(description="starts so far")]
    max_retries: int
    timeout: int | None
    run_at: Moment | None
    created_at: Moment | None
    started_at: Moment | None
    finished_at: Moment | None
    error: str | None
    user_id: str | None
    project_id: str | None
    unique_key: str | None
    metadata: Any
    failures: Annotated[int, Meta(description="failures that count against max_retries")]
    crashes: Annotated[int, Meta(description="workers that died under it")]
    worker_id: int | None
    cancel_requested_at: Moment | None
    parent_id: Annotated[int | None, Meta(description="the task that submitted it; it may be gone")]

    @classmethod
    def of(cls, task: TaskRecord) -> TaskBody:
        """Show a task."""
        return cls(**{name: getattr(task, name) for name in cls.__struct_fields__})


class TaskList(msgspec.Struct):
    """One page of tasks, newest first."""

    tasks: list[TaskBody]
    total: int
    total_capped: Annotated[bool, Meta(description="there are at least so many; counting stopped there")]
    page: int
    page_size: int
    next_cursor: Annotated[str | None, Meta(description="pass it as cursor for the next page")]


class BatchItem(msgspec.Struct):
    """One task of a batch; not created: its unique key was taken by this one."""

    task_id: int
    created: bool


class BatchAnswer(msgspec.Struct):
    """The tasks of a batch, in their order."""

    tasks: list[BatchItem]


class ResultBody(msgspec.Struct):
    """What a task's handler returned, or where the task stands."""

    task_id: int
    status: Status
    result: Annotated[Any, Meta(description="absent until the task is completed")] = UNSET


class ExecutionList(msgspec.Struct):
    """The ended attempts of a task, in their order."""

    executions: list[Execution]


class LogList(msgspec.Struct):
    """What a task logged, in order of arrival."""

    logs: list[LogLine]
    next_after: Annotated[int | None, Meta(description="pass it as after for what comes next")]


class StatisticsBody(msgspec.Struct):
    """What finished in a window; pending and running are now. Durations in milliseconds, of the last attempt."""

    start_time: Moment
    end_time: Moment
    total: int
    completed: int
    failed: int
    cancelled: int
    pending: int
    running: int
    success_rate: Annotated[float, Meta(description="percent of the tasks that ended")]
    avg_duration_ms: float
    p50_duration_ms: float
    p95_duration_ms: float
    p99_duration_ms: float


class NewQueue(Body):
    """A queue to make, or of one that exists, what to change."""

    name: Annotated[Name, Meta(examples=["processing"])]
    concurrency: Annotated[
        Annotated[int, Meta(ge=0, le=100_000)] | None, Meta(description="slots in each worker process; 0 runs nothing")
    ] = None
    capacity: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None, Meta(description="most tasks that may wait; 0: no limit")
    ] = None
    max_crashes: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None, Meta(description="workers that may die under a task")
    ] = None


class QueueChange(Body):
    """What to change of a queue."""

    concurrency: Annotated[int, Meta(ge=0, le=100_000)] | UnsetType = UNSET
    capacity: Annotated[int, Meta(ge=0, le=2**31 - 1, description="0 takes the limit away")] | UnsetType = UNSET
    max_crashes: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET


class PauseBody(Body):
    """Why a queue, a schedule or a worker is paused."""

    reason: Reason | None = None


class QueueBody(msgspec.Struct, kw_only=True):
    """A queue's settings."""

    name: str
    concurrency: int
    capacity: int | None
    max_crashes: int
    paused: bool
    paused_at: Moment | None
    pause_reason: str | None


class QueueList(msgspec.Struct):
    """The queues, by name."""

    queues: list[QueueBody]


class ScheduleChange(Body):
    """What to change of a schedule."""

    name: Name | UnsetType = UNSET
    task_type: Name | UnsetType = UNSET
    cron_expr: Cron | UnsetType = UNSET
    queue_name: Name | UnsetType = UNSET
    payload: Any | UnsetType = UNSET
    time_zone: Zone | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=-32768, le=32767)] | UnsetType = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=10_000)] | UnsetType = UNSET
    timeout: Seconds | UnsetType | None = UNSET
    user_id: Id200 | UnsetType | None = UNSET
    project_id: Id200 | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    missed: Missed | UnsetType = UNSET
    catch_up_window: Annotated[int, Meta(ge=0, le=31_536_000)] | UnsetType = UNSET
    overlap: Overlap | UnsetType = UNSET
    jitter: Annotated[int, Meta(ge=0, le=86_400)] | UnsetType = UNSET
    starts_at: Due | UnsetType | None = UNSET
    ends_at: Due | UnsetType | None = UNSET
    max_runs: Annotated[int, Meta(ge=1, le=2**31 - 1)] | UnsetType | None = UNSET


class ScheduleBody(ScheduleChange):
    """A schedule to make."""

    name: Name
    task_type: Name
    cron_expr: Cron
    queue_name: Name = "default"
    is_active: bool = True
    on_conflict: Annotated[
        OnConflict, Meta(description="where the name is taken: 409, the one there is, or replaced")
    ] = "raise"


def as_request(body: ScheduleChange) -> ScheduledTaskRequest:
    """Return a body as the services take it."""
    return ScheduledTaskRequest(**{name: getattr(body, name) for name in body.__struct_fields__})


class ScheduleList(msgspec.Struct):
    """Schedules, by name."""

    scheduled_tasks: list[ScheduledTask]
    next_after: Annotated[str | None, Meta(description="pass it as after for those that follow")]


class NextRuns(msgspec.Struct):
    """When a schedule runs next."""

    next_runs: list[Moment]


class TickList(msgspec.Struct):
    """What became of a schedule's ticks, newest first."""

    ticks: list[ScheduleTick]


class WorkerList(msgspec.Struct):
    """The worker processes."""

    workers: list[WorkerInfo]


class AuditList(msgspec.Struct):
    """The audit log, newest first."""

    entries: list[AuditEntry]
    next_before: Annotated[int | None, Meta(description="pass it as before for what is older")]


class PrincipalBody(msgspec.Struct):
    """Who asks."""

    name: str
    scopes: list[Scope]
    queues: list[str] | None


class Limits(msgspec.Struct):
    """What the server accepts."""

    max_body_bytes: int
    max_payload_bytes: int
    max_page_size: int
    max_batch: int
    max_wait_s: int


class Info(msgspec.Struct):
    """The server, the database and who asks."""

    name: str
    version: str
    schema_version: str | None
    server_time: Moment
    principal: PrincipalBody
    limits: Limits
