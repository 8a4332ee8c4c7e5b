"""One pure function per SQL function: what to ask, and how to read the answer.

A Call is a value: SQL text, parameters, decoder. Services run it, async or blocking. This is the only
module of Python that holds SQL, and each text only calls a function (or reads a view) of sql/.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from pgqueue.errors import InvalidInput
from pgqueue.models import (
    Execution,
    LogLine,
    Orders,
    QueueInfo,
    QueueStats,
    TaskFilter,
    TaskProgress,
    TaskRecord,
    TaskRequest,
    TaskStatistics,
    WorkerInfo,
    encode_payload,
)

__all__ = ["Call", "Idle", "Submitted"]

T = TypeVar("T")
Row = tuple[Any, ...]


class Call(NamedTuple, Generic[T]):
    """What to send, and how to read the rows that come back."""

    sql: str
    parameters: Sequence[Any]
    decode: Callable[[list[Row]], T]


class Submitted(NamedTuple):
    """The answer to a submit."""

    task_id: int
    created: bool
    status: str
    attempt: int
    run_at: datetime
    created_at: datetime


class Idle(NamedTuple):
    """Whether a fence is clear, and seconds until the next task falls due (None: there is none)."""

    is_clear: bool
    due_in: float | None


class Partition(NamedTuple):
    """One day of history that is over."""

    name: str
    parent: str
    statements: list[str]


def _nothing(_rows: list[Row]) -> None:
    return None


def _value(rows: list[Row]) -> Any:  # noqa: ANN401 - the one column of the one row
    return rows[0][0]


def _text(value: object) -> str | None:
    return None if value is None else str(value)


# Submitting

SUBMIT = (
    "select * from pgqueue.submit_task(%s, %s::jsonb, %s, %s::int, %s::int, %s::int, %s::timestamptz, %s, %s, %s, %s::jsonb, %s)"
)
SUBMIT_MANY = "select task_id, created from pgqueue.submit_many(%s::jsonb) order by position_no"


def submit_task(request: TaskRequest) -> Call[Submitted]:
    """pgqueue.submit_task. Raises InvalidInput for a payload that is no JSON."""
    return Call(SUBMIT, _request_row(request), lambda rows: Submitted(*rows[0]))


def check_request(request: TaskRequest) -> None:
    """Raise InvalidInput for a field of the wrong type; ranges are the database's to check."""
    for name in ("priority", "max_retries", "timeout"):
        value = getattr(request, name)
        if not isinstance(value, int) and not (value is None and name == "timeout"):
            msg = f"{name} must be a whole number, not {value!r}"
            raise InvalidInput(msg, detail={"field": name}, hint="timeouts are whole seconds")
    if request.run_at is not None and request.run_at.tzinfo is None:
        msg = f"run_at must have a time zone, which {request.run_at} has not"
        raise InvalidInput(msg, detail={"field": "run_at"}, hint="use datetime.now(timezone.utc) + timedelta(…)")


def _request_row(request: TaskRequest) -> tuple[Any, ...]:
    check_request(request)
    return (
        request.task_type,
        encode_payload(request.payload),
        request.queue_name,
        int(request.priority),
        request.max_retries,
        request.timeout,
        request.run_at,
        request.unique_key,
        request.user_id,
        request.project_id,
        None if request.metadata is None else encode_payload(request.metadata, "metadata"),
        request.on_conflict,
    )


def encode_request(request: TaskRequest) -> bytes:
    """One element of submit_many's array. Raises InvalidInput for a payload that is no JSON."""
    check_request(request)
    metadata = None if request.metadata is None else msgspec.Raw(encode_payload(request.metadata, "metadata").encode())
    row = {
        "task_type": request.task_type,
        "payload": msgspec.Raw(encode_payload(request.payload).encode()),
        "queue_name": request.queue_name,
        "priority": int(request.priority),
        "max_retries": request.max_retries,
        "timeout": request.timeout,
        "run_at": request.run_at,
        "unique_key": request.unique_key,
        "user_id": request.user_id,
        "project_id": request.project_id,
        "metadata": metadata,
        "on_conflict": request.on_conflict,
    }
    return msgspec.json.encode({name: value for name, value in row.items() if value is not None})


def submit_many(encoded: Sequence[bytes]) -> Call[list[tuple[int, bool]]]:
    """pgqueue.submit_many over what encode_request made: (task_id, created) in the order given."""
    return Call(SUBMIT_MANY, (b"[" + b",".join(encoded) + b"]",), lambda rows: [(row[0], row[1]) for row in rows])


# Reading

COLUMNS = (
    "id, task_type, queue_name, priority, payload::text, status, max_retries, timeout, run_at, unique_key, user_id, project_id, "
    "metadata::text, attempt, failures, crashes, worker_id, created_at, started_at, finished_at, result::text, error, "
    "progress::text, cancel_requested_at"
)


def get_task(task_id: int) -> Call[TaskRecord]:
    """pgqueue.get_task. Raises TaskNotFound."""
    return Call(f"select {COLUMNS} from pgqueue.get_task(%s::bigint)", (task_id,), lambda rows: _record(rows[0]))


def _record(row: Row) -> TaskRecord:
    return TaskRecord(
        task_id=row[0],
        task_type=row[1],
        queue_name=row[2],
        priority=row[3],
        payload=_json(row[4]),
        status=row[5],
        max_retries=row[6],
        timeout=row[7],
        run_at=row[8],
        unique_key=row[9],
        user_id=row[10],
        project_id=row[11],
        metadata=_json(row[12]),
        attempt=row[13],
        failures=row[14],
        crashes=row[15],
        worker_id=row[16],
        created_at=row[17],
        started_at=row[18],
        finished_at=row[19],
        result_value=_json(row[20]),
        error=row[21],
        progress_report=_json(row[22]),
        cancel_requested_at=row[23],
    )


def _json(text: str | None) -> Any:  # noqa: ANN401 - any JSON
    """Read JSON; what Python cannot hold (numbers of thousands of digits, deep nesting) stays text."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return text


def list_tasks(task_filter: TaskFilter) -> Call[list[TaskRecord]]:
    """pgqueue.list_tasks: one page, newest id first. Raises InvalidInput for a status or page that does not exist."""
    f = task_filter
    offset = 0 if f.before_id is not None else (f.page - 1) * f.page_size
    parameters = (*_filter_row(f), f.page_size, offset, f.before_id)
    sql = f"select {COLUMNS} from pgqueue.list_tasks(%s, %s, %s, %s, %s, %s, %s, %s::int, %s::bigint, %s::bigint)"
    return Call(sql, parameters, lambda rows: [_record(row) for row in rows])


def count_tasks(task_filter: TaskFilter) -> Call[tuple[int, bool]]:
    """pgqueue.count_tasks: how many match, and whether counting stopped there."""
    sql = "select total, is_capped from pgqueue.count_tasks(%s, %s, %s, %s, %s, %s, %s)"
    return Call(sql, _filter_row(task_filter), lambda rows: (rows[0][0], rows[0][1]))


def _filter_row(f: TaskFilter) -> tuple[Any, ...]:
    return (f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_from, f.created_to)


def get_executions(task_id: int) -> Call[list[Execution]]:
    """pgqueue.get_executions: the ended attempts of a task, in their order."""
    sql = (
        "select task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message, traceback "
        "from pgqueue.get_executions(%s::bigint)"
    )
    return Call(sql, (task_id,), lambda rows: [Execution(*row) for row in rows])


def get_logs(task_id: int, after: int = 0, limit: int = 1000) -> Call[list[LogLine]]:
    """pgqueue.get_logs: lines after a line's id, in order of arrival."""
    sql = "select id, task_id, attempt, logged_at, level, message, fields::text from pgqueue.get_logs(%s::bigint, %s::bigint, %s::int)"
    return Call(sql, (task_id, after, limit), lambda rows: [LogLine(*row[:6], _json(row[6])) for row in rows])


def get_retryable_tasks(limit: int = 100, queue_name: str | None = None) -> Call[list[TaskRecord]]:
    """pgqueue.get_retryable_tasks: failed and cancelled tasks, newest first."""
    sql = f"select {COLUMNS} from pgqueue.get_retryable_tasks(%s::int, %s)"
    return Call(sql, (limit, queue_name), lambda rows: [_record(row) for row in rows])


def get_progress(task_id: int) -> Call[TaskProgress]:
    """pgqueue.get_progress. Raises TaskNotFound."""
    return Call("select * from pgqueue.get_progress(%s::bigint)", (task_id,), lambda rows: TaskProgress(*rows[0]))


def why_waiting(task_id: int) -> Call[str]:
    """pgqueue.why_waiting: one line in plain words. Raises TaskNotFound."""
    return Call("select pgqueue.why_waiting(%s::bigint)", (task_id,), _value)


def queue_stats(name: str) -> Call[QueueStats]:
    """pgqueue.queue_stats. Raises QueueNotFound."""
    return Call("select * from pgqueue.queue_stats(%s)", (name,), lambda rows: QueueStats(*rows[0]))


def task_statistics(start: datetime, end: datetime) -> Call[TaskStatistics]:
    """pgqueue.task_statistics: what finished from start up to before end."""
    return Call("select * from pgqueue.task_statistics(%s, %s)", (start, end), lambda rows: TaskStatistics(*rows[0]))


def list_queues() -> Call[list[QueueInfo]]:
    """The rows of pgqueue.queues, by name."""
    sql = "select name, concurrency, capacity, max_crashes, paused_at, pause_reason from pgqueue.queues order by name"
    return Call(
        sql,
        (),
        lambda rows: [
            QueueInfo(name=r[0], concurrency=r[1], capacity=r[2], max_crashes=r[3], paused_at=r[4], pause_reason=r[5])
            for r in rows
        ],
    )


def list_workers() -> Call[list[WorkerInfo]]:
    """The view pgqueue.worker_overview."""
    sql = (
        "select id, hostname, pid, version, queues, concurrency, started_at, extract(epoch from heartbeat_age)::float8, "
        "state, running, status from pgqueue.worker_overview"
    )
    return Call(sql, (), lambda rows: [WorkerInfo(*row) for row in rows])


def overview(view: str) -> Call[list[dict[str, Any]]]:
    """The rows of one of the views for operators, as dicts. Raises InvalidInput for another name."""
    if view not in VIEWS:
        msg = f"there is no view {view!r}"
        raise InvalidInput(msg, hint=f"choose one of {', '.join(sorted(VIEWS))}")
    return Call(f"select to_json(v)::text from pgqueue.{view} v limit 1000", (), lambda rows: [_json(row[0]) for row in rows])


VIEWS = frozenset(
    {"queue_overview", "running_tasks", "failed_tasks", "retrying_tasks", "stuck_tasks", "worker_overview", "health"}
)


# Changing

def cancel_task(task_id: int, reason: str | None = None) -> Call[str]:
    """pgqueue.cancel_task: the status then. Raises TaskNotFound, InvalidTransition."""
    return Call("select pgqueue.cancel_task(%s::bigint, %s)", (task_id, _text(reason)), _value)


def retry_task(task_id: int) -> Call[int]:
    """pgqueue.retry_task. Raises TaskNotFound, InvalidTransition, DuplicateTask."""
    return Call("select pgqueue.retry_task(%s::bigint)", (task_id,), _value)


def set_task_result(task_id: int, value: object) -> Call[None]:
    """pgqueue.set_task_result. Raises TaskNotFound, InvalidInput."""
    return Call("select pgqueue.set_task_result(%s::bigint, %s::jsonb)", (task_id, encode_payload(value, "result")), _nothing)


def update_progress(  # noqa: PLR0913 - as in SQL
    task_id: int,
    progress: int,
    message: str | None = None,
    step: str | None = None,
    completed_steps: int | None = None,
    total_steps: int | None = None,
) -> Call[None]:
    """pgqueue.update_progress. Raises TaskNotFound, InvalidTransition, InvalidInput."""
    parameters = (task_id, progress, message, step, completed_steps, total_steps)
    return Call("select pgqueue.update_progress(%s::bigint, %s::int, %s, %s, %s::int, %s::int)", parameters, _nothing)


def create_queue(
    name: str, concurrency: int | None = None, capacity: int | None = None, max_crashes: int | None = None
) -> Call[str]:
    """pgqueue.create_queue: makes it, or changes what is given. Raises InvalidInput."""
    return Call("select pgqueue.create_queue(%s, %s::int, %s::int, %s::int)", (name, concurrency, capacity, max_crashes), _value)


def pause_queue(name: str, reason: str | None = None) -> Call[None]:
    """pgqueue.pause_queue. Raises QueueNotFound."""
    return Call("select pgqueue.pause_queue(%s, %s)", (name, reason), _nothing)


def resume_queue(name: str) -> Call[None]:
    """pgqueue.resume_queue. Raises QueueNotFound."""
    return Call("select pgqueue.resume_queue(%s)", (name,), _nothing)


def delete_queue(name: str) -> Call[None]:
    """pgqueue.delete_queue. Raises QueueNotFound, InvalidTransition."""
    return Call("select pgqueue.delete_queue(%s)", (name,), _nothing)


def cleanup(age: timedelta) -> Call[int]:
    """pgqueue.cleanup: how many finished tasks were deleted. Raises InvalidInput."""
    return Call("select pgqueue.cleanup(%s)", (age,), _value)


def partitions_older(age: timedelta) -> Call[list[Partition]]:
    """pgqueue._partitions_before: days that ended longer ago, oldest first."""
    sql = (
        "select partition_name, parent_name, statements from pgqueue._partitions_before("
        "pgqueue._now() - least(%s::interval, interval '1000 years'))"
    )
    return Call(sql, (age,), lambda rows: [Partition(*row) for row in rows])


def partition_rows(name: str) -> Call[int]:
    """pgqueue._partition_rows."""
    return Call("select pgqueue._partition_rows(%s)", (name,), _value)


# Following

def follow(hub_id: str, scope: str, task_id: int = 0, queue_name: str = "") -> Call[None]:
    """pgqueue.follow."""
    return Call("select pgqueue.follow(%s, %s, %s, %s)", (hub_id, scope, task_id, queue_name), _nothing)


def keep_following(hub_id: str) -> Call[None]:
    """pgqueue.keep_following."""
    return Call("select pgqueue.keep_following(%s)", (hub_id,), _nothing)


def unfollow(hub_id: str, scope: str | None = None, task_id: int = 0, queue_name: str = "") -> Call[None]:
    """pgqueue.unfollow."""
    return Call("select pgqueue.unfollow(%s, %s, %s, %s)", (hub_id, scope, task_id, queue_name), _nothing)


def notify(channel: str, payload: str) -> Call[None]:
    """pg_notify, for the listener's own probe."""
    return Call("select pg_notify(%s, %s)", (channel, payload), _nothing)


def fence() -> Call[str]:
    """pgqueue.fence."""
    return Call("select pgqueue.fence()", (), _value)


def is_clear(fence_id: str) -> Call[bool]:
    """pgqueue.is_clear."""
    return Call("select pgqueue.is_clear(%s)", (fence_id,), _value)


# Working

CLAIM = (
    "select * from pgqueue.claim(%s, %s, %s, %s, %s::int[], %s::timestamptz[], %s::bigint[], %s::interval, %s::int[])"
)
FINISH = "select pgqueue.finish(%s::bigint[], %s::int[], %s::bigint[], %s::jsonb[], %s::jsonb[], %s)"
REPORT_PROGRESS = "select pgqueue.report_progress(%s::jsonb)"
WRITE_LOGS = "select pgqueue.write_logs(%s::jsonb)"


def report_progress(reports: str) -> Call[list[int]]:
    """pgqueue.report_progress: the tasks whose lease is lost."""
    return Call(REPORT_PROGRESS, (reports,), _value)


def write_logs(lines: str) -> Call[int]:
    """pgqueue.write_logs: how many lines were kept."""
    return Call(WRITE_LOGS, (lines,), _value)


def register_worker(  # noqa: PLR0913, PLR0917 - as in SQL
    hostname: str, pid: int, queues: list[str], concurrency: Mapping[str, int], lease_s: float, version: str
) -> Call[int]:
    """pgqueue.register_worker: the worker's id."""
    parameters = (hostname, pid, queues, msgspec.json.encode(concurrency).decode(), lease_s, version)
    return Call("select pgqueue.register_worker(%s, %s, %s::text[], %s::jsonb, %s, %s)", parameters, _value)


def heartbeat(worker_id: int, last_claim: int, open_claims: list[int], status: Mapping[str, Any]) -> Call[Orders]:
    """pgqueue.heartbeat: what the worker shall do."""
    parameters = (worker_id, last_claim, open_claims, msgspec.json.encode(status).decode())
    sql = "select is_lost, stop_requested, cancel_ids from pgqueue.heartbeat(%s, %s, %s::int[], %s::jsonb)"
    return Call(sql, parameters, lambda rows: Orders(bool(rows[0][0]), bool(rows[0][1]), rows[0][2]))


def stop_worker(worker_id: int) -> Call[int]:
    """pgqueue.stop_worker: how many tasks were released."""
    return Call("select pgqueue.stop_worker(%s)", (worker_id,), _value)


def request_stop(worker_id: int) -> Call[None]:
    """pgqueue.request_stop. Raises InvalidInput for a worker that is not there."""
    return Call("select pgqueue.request_stop(%s::bigint)", (worker_id,), _nothing)


def set_wait(worker_id: int, queue_name: str, attending: bool | None) -> Call[None]:  # noqa: FBT001 - the three states of pgqueue.waits
    """pgqueue.set_wait."""
    return Call("select pgqueue.set_wait(%s, %s, %s)", (worker_id, queue_name, attending), _nothing)


def hand_over(queue_name: str) -> Call[None]:
    """pgqueue.hand_over."""
    return Call("select pgqueue.hand_over(%s)", (queue_name,), _nothing)


def idle(queue_name: str, fence_id: str) -> Call[Idle]:
    """pgqueue.idle."""
    return Call("select is_clear, due_in from pgqueue.idle(%s, %s)", (queue_name, fence_id), lambda rows: Idle(*rows[0]))


def rescue() -> Call[list[tuple[int, int]]]:
    """pgqueue.rescue: the workers that were lost, and how many of their tasks go on elsewhere."""
    return Call("select worker_id, rescued from pgqueue.rescue()", (), lambda rows: [(row[0], row[1]) for row in rows])


def maintain(days_ahead: int) -> Call[bool]:
    """pgqueue.maintain: False where another session is at it."""
    return Call("select pgqueue.maintain(%s)", (days_ahead,), _value)
