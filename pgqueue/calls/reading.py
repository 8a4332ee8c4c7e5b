"""Asking about tasks, queues and workers."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any

from pgqueue.calls.call import Call, Row, checked_names, json_of, task_key, utc, value
from pgqueue.errors import InvalidInput
from pgqueue.models import (
    Execution,
    LogLine,
    QueueInfo,
    QueueStats,
    SeriesPoint,
    TaskFilter,
    TaskProgress,
    TaskRecord,
    TaskStatistics,
    WorkerInfo,
    check_number,
    check_text,
    check_time,
)
from pgqueue.telemetry import without_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

__all__ = [
    "backend_pid",
    "clock",
    "count_tasks",
    "get_executions",
    "get_logs",
    "get_progress",
    "get_retryable_tasks",
    "get_task",
    "list_cursor",
    "list_queues",
    "list_tasks",
    "list_workers",
    "overview",
    "queue_stats",
    "task_series",
    "task_statistics",
    "why_waiting",
]

COLUMNS = (
    "id, task_type, queue_name, priority, payload::text, status, max_retries, timeout, run_at, unique_key, user_id, "
    "project_id, metadata::text, attempt, failures, crashes, worker_id, "
    "case when created_at between '0001-01-02' and '9999-12-30' then created_at end, "
    "started_at, finished_at, result::text, error, progress::text, cancel_requested_at, parent_id"
)
"""A plain insert may set created_at to a moment that Python cannot hold."""

VIEWS = frozenset(
    {
        *("queue_overview", "running_tasks", "failed_tasks", "retrying_tasks", "stuck_tasks", "worker_overview"),
        *("schedule_overview", "health"),
    }
)
MOST_OFFSET = 2**31
MOST_ROWS = 10_000


def get_task(task_id: int) -> Call[TaskRecord]:
    """pgqueue.get_task. Raises TaskNotFound."""
    parameters = (task_key(task_id),)
    return Call(f"select {COLUMNS} from pgqueue.get_task(%s::bigint)", parameters, lambda rows: _record(rows[0]))


def _record(row: Row) -> TaskRecord:
    return TaskRecord(
        task_id=row[0],
        task_type=row[1],
        queue_name=row[2],
        priority=row[3],
        payload=json_of(row[4]),
        status=row[5],
        max_retries=row[6],
        timeout=row[7],
        run_at=utc(row[8]),
        unique_key=row[9],
        user_id=row[10],
        project_id=row[11],
        metadata=without_trace(json_of(row[12])),
        attempt=row[13],
        failures=row[14],
        crashes=row[15],
        worker_id=row[16],
        created_at=utc(row[17]),
        started_at=utc(row[18]),
        finished_at=utc(row[19]),
        result_value=json_of(row[20]),
        error=row[21],
        progress_report=json_of(row[22]),
        cancel_requested_at=utc(row[23]),
        parent_id=row[24],
    )


def list_tasks(task_filter: TaskFilter) -> Call[list[TaskRecord]]:
    """pgqueue.list_tasks: one page and, where there is one, the task after it; newest id first. Raises InvalidInput."""
    f = task_filter
    offset = 0 if f.before_id is not None else (f.page - 1) * f.page_size
    check_number(offset, "page * page_size", 0, MOST_OFFSET)
    before_id = None if f.before_id is None else task_key(f.before_id)
    limit = min(f.page_size + 1, max(MOST_ROWS - offset, f.page_size))
    parameters = (*_filter_row(f), limit, offset, before_id, f.parent_id)
    function, queues = _queues_of("list_tasks", f)
    sql = (
        f"select {COLUMNS} from pgqueue.{function}("
        f"{queues}, %s, %s, %s, %s, %s, %s, %s::int, %s::bigint, %s::bigint, %s::bigint)"
    )
    return Call(sql, parameters, lambda rows: [_record(row) for row in rows])


def count_tasks(task_filter: TaskFilter) -> Call[tuple[int, bool]]:
    """pgqueue.count_tasks: how many match, and whether counting stopped there."""
    function, queues = _queues_of("count_tasks", task_filter)
    sql = (
        f"select total, is_capped from pgqueue.{function}({queues}, %s, %s, %s, %s, %s, %s, p_parent_id => %s::bigint)"
    )
    parameters = (*_filter_row(task_filter), task_filter.parent_id)
    return Call(sql, parameters, lambda rows: (rows[0][0], rows[0][1]))


def list_cursor(task_filter: TaskFilter) -> Call[int | None]:
    """pgqueue.list_cursor: where a search that found too few has stopped; None where it saw all."""
    before_id = None if task_filter.before_id is None else task_key(task_filter.before_id)
    function, queues = _queues_of("list_cursor", task_filter)
    sql = f"select pgqueue.{function}({queues}, %s, %s, %s, %s, %s, %s, %s::bigint, %s::bigint)"
    return Call(sql, (*_filter_row(task_filter), before_id, task_filter.parent_id), value)


def _queues_of(function: str, f: TaskFilter) -> tuple[str, str]:
    """Return the function for one queue or all, or the one for several."""
    return (function, "%s") if f.queue_names is None else (f"{function}_in", "%s::text[]")


def _filter_row(f: TaskFilter) -> Row:
    for name in ("queue_name", "status", "task_type", "user_id", "project_id"):
        check_text(getattr(f, name), name, optional=True)
    check_time(f.created_from, "created_from")
    check_time(f.created_to, "created_to")
    if f.parent_id is not None:
        task_key(f.parent_id)
    queues = checked_names(f.queue_names) if f.queue_names is not None else f.queue_name
    return (queues, f.status, f.task_type, f.user_id, f.project_id, f.created_from, f.created_to)


def get_executions(task_id: int) -> Call[list[Execution]]:
    """pgqueue.get_executions: the ended attempts of a task, in their order."""
    sql = (
        "select task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message, traceback "
        "from pgqueue.get_executions(%s::bigint)"
    )
    return Call(sql, (task_key(task_id),), lambda rows: [Execution(*row) for row in rows])


def get_logs(task_id: int, after: int = 0, limit: int = 1000) -> Call[list[LogLine]]:
    """pgqueue.get_logs: lines after a line's id, in order of arrival."""
    sql = (
        "select id, task_id, attempt, logged_at, level, message, fields::text "
        "from pgqueue.get_logs(%s::bigint, %s::bigint, %s::int)"
    )
    check_number(limit, "limit", 1, MOST_ROWS)
    return Call(sql, (task_key(task_id), task_key(after), limit), lambda rows: [_line(row) for row in rows])


def _line(row: Row) -> LogLine:
    log_id, task_id, attempt, logged_at, level, message, fields = row
    return LogLine(log_id, task_id, attempt, logged_at, level, message, json_of(fields))


def get_retryable_tasks(limit: int = 100, queue_name: str | None = None) -> Call[list[TaskRecord]]:
    """pgqueue.get_retryable_tasks: failed and cancelled tasks, newest first."""
    check_number(limit, "limit", 1, MOST_ROWS)
    check_text(queue_name, "queue_name", optional=True)
    sql = f"select {COLUMNS} from pgqueue.get_retryable_tasks(%s::int, %s)"
    return Call(sql, (limit, queue_name), lambda rows: [_record(row) for row in rows])


def get_progress(task_id: int) -> Call[TaskProgress]:
    """pgqueue.get_progress. Raises TaskNotFound."""
    sql = (
        "select task_id, status, progress, message, step, completed_steps, total_steps, "
        "case when updated_at between '0001-01-02' and '9999-12-30' then updated_at end "
        "from pgqueue.get_progress(%s::bigint)"
    )
    return Call(sql, (task_key(task_id),), lambda rows: TaskProgress(*rows[0]))


def why_waiting(task_id: int) -> Call[str]:
    """pgqueue.why_waiting: one line in plain words. Raises TaskNotFound."""
    return Call("select pgqueue.why_waiting(%s::bigint)", (task_key(task_id),), value)


def queue_stats(name: str) -> Call[QueueStats]:
    """pgqueue.queue_stats. Raises QueueNotFound."""
    check_text(name, "name")
    return Call("select * from pgqueue.queue_stats(%s)", (name,), lambda rows: QueueStats(*rows[0]))


def task_statistics(start: datetime, end: datetime, queue_names: Sequence[str] | None = None) -> Call[TaskStatistics]:
    """pgqueue.task_statistics: what finished from start up to before end, in all queues or in some."""
    check_time(start, "start")
    check_time(end, "end")
    sql = "select * from pgqueue.task_statistics(%s::timestamptz, %s::timestamptz, %s::text[])"
    return Call(sql, (start, end, checked_names(queue_names)), lambda rows: TaskStatistics(*rows[0]))


def task_series(  # noqa: PLR0913 - as in SQL
    start: datetime,
    end: datetime,
    step: str = "hour",
    *,
    queue_name: str | None = None,
    task_type: str | None = None,
    by: Sequence[str] = (),
) -> Call[list[SeriesPoint]]:
    """pgqueue.task_series: what finished from start up to before end, by minute, hour or day of UTC.

    `by` splits it by queue_name, task_type or both; else one point a step, zeros included. Raises InvalidInput.
    """
    check_time(start, "start")
    check_time(end, "end")
    for name, given in (("queue_name", queue_name), ("task_type", task_type)):
        check_text(given, name, optional=True)
    sql = "select * from pgqueue.task_series(%s::timestamptz, %s::timestamptz, %s, %s, %s, %s::text[])"
    return Call(
        sql,
        (start, end, step, queue_name, task_type, list(by)),
        lambda rows: [SeriesPoint(row[0].astimezone(UTC), *row[1:]) for row in rows],
    )


def list_queues() -> Call[list[QueueInfo]]:
    """The rows of pgqueue.queues, by name."""
    sql = (
        "select name, concurrency, capacity, max_crashes, paused_at, pause_reason, "
        "keep_completed, keep_failed, keep_cancelled from pgqueue.queues order by name"
    )
    return Call(sql, (), lambda rows: [_queue(row) for row in rows])


def _queue(row: Row) -> QueueInfo:
    return QueueInfo(**dict(zip(QueueInfo.__struct_fields__, row, strict=True)))


def list_workers() -> Call[list[WorkerInfo]]:
    """The view pgqueue.worker_overview."""
    sql = (
        "select id, hostname, pid, version, queues, concurrency, started_at, "
        "extract(epoch from heartbeat_age)::float8, state, running, status, paused_at, pause_reason "
        "from pgqueue.worker_overview"
    )
    return Call(sql, (), lambda rows: [WorkerInfo(*row) for row in rows])


def overview(view: str) -> Call[list[dict[str, Any]]]:
    """The rows of one of the views for operators, as dicts. Raises InvalidInput for another name."""
    if view not in VIEWS:
        msg = f"there is no view {view!r}"
        raise InvalidInput(msg, hint=f"choose one of {', '.join(sorted(VIEWS))}")
    sql = f"select to_json(v)::text from pgqueue.{view} v limit 1000"
    return Call(sql, (), lambda rows: [json_of(row[0]) for row in rows])


def clock() -> Call[datetime]:
    """pgqueue._now: the database's time."""
    return Call("select pgqueue._now()", (), value)


def backend_pid() -> Call[int]:
    """pg_backend_pid: the server process of the connection that asks."""
    return Call("select pg_backend_pid()", (), value)
