"""What workers say and ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from pgqueue.calls.call import Call, Row, nothing, value
from pgqueue.models import Orders, check_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "CLAIM",
    "EXCHANGE",
    "FINISH",
    "REPORT_PROGRESS",
    "WRITE_LOGS",
    "Idle",
    "array",
    "hand_over",
    "heartbeat",
    "idle",
    "maintain",
    "pause_worker",
    "register_worker",
    "report_progress",
    "request_stop",
    "rescue",
    "resume_worker",
    "set_wait",
    "stop_worker",
    "write_logs",
]

CLAIM = (
    "select * from pgqueue.claim(%s, %s, %s, %s, %s::int[], %s::timestamptz[], %s::bigint[], %s::interval, %s::int[])"
)
FINISH = "select pgqueue.finish(%s::bigint[], %s::int[], %s::bigint[], %s::jsonb[], %s::jsonb[], %s)"
EXCHANGE = (
    "select c.*, f.unsettled from (select nullif("
    "pgqueue.finish(%s::bigint[], %s::int[], %s::bigint[], %s::jsonb[], %s::jsonb[]), '{}') as unsettled offset 0) f "
    "left join lateral pgqueue.claim("
    "%s, %s, %s, %s, %s::int[], %s::timestamptz[], %s::bigint[], %s::interval, %s::int[]) c on true"
)
"""FINISH, then CLAIM, in one statement: the claim's columns, and last the ids that were not settled, or null."""
REPORT_PROGRESS = "select pgqueue.report_progress(%s::jsonb)"
WRITE_LOGS = "select pgqueue.write_logs(%s::jsonb)"


def array(parts: Iterable[str]) -> str:
    """Write an array of numbers or times as PostgreSQL reads it: psycopg's own way costs ten times as much."""
    return "{" + ",".join(parts) + "}"


class Idle(NamedTuple):
    """Whether a fence is clear, and seconds until the next task falls due (None: there is none)."""

    is_clear: bool
    due_in: float | None


def report_progress(reports: str) -> Call[list[int]]:
    """pgqueue.report_progress: the tasks whose lease is lost."""
    return Call(REPORT_PROGRESS, (reports,), value)


def write_logs(lines: str) -> Call[int]:
    """pgqueue.write_logs: how many lines were kept."""
    return Call(WRITE_LOGS, (lines,), value)


def register_worker(  # noqa: PLR0913, PLR0917 - as in SQL
    hostname: str, pid: int, queues: list[str], concurrency: Mapping[str, int], lease_s: float, version: str
) -> Call[int]:
    """pgqueue.register_worker: the worker's id."""
    parameters = (hostname, pid, queues, msgspec.json.encode(concurrency).decode(), lease_s, version)
    return Call("select pgqueue.register_worker(%s, %s, %s::text[], %s::jsonb, %s, %s)", parameters, value)


def heartbeat(worker_id: int, last_claim: int, open_claims: list[int], status: Mapping[str, Any]) -> Call[Orders]:
    """pgqueue.heartbeat: what the worker shall do."""
    parameters = (worker_id, last_claim, open_claims, msgspec.json.encode(status).decode())
    sql = "select is_lost, stop_requested, is_paused, cancel_ids from pgqueue.heartbeat(%s, %s, %s::int[], %s::jsonb)"
    return Call(sql, parameters, _orders)


def _orders(rows: list[Row]) -> Orders:
    is_lost, stop_requested, is_paused, cancel_ids = rows[0]
    return Orders(is_lost, bool(stop_requested), bool(is_paused), cancel_ids)


def stop_worker(worker_id: int) -> Call[int]:
    """pgqueue.stop_worker: how many tasks were released."""
    return Call("select pgqueue.stop_worker(%s)", (worker_id,), value)


def request_stop(worker_id: int) -> Call[None]:
    """pgqueue.request_stop. Raises WorkerNotFound."""
    return Call("select pgqueue.request_stop(%s::bigint)", (worker_id,), nothing)


def pause_worker(worker_id: int, reason: str | None = None) -> Call[None]:
    """pgqueue.pause_worker. Raises WorkerNotFound."""
    check_text(reason, "reason", optional=True)
    return Call("select pgqueue.pause_worker(%s::bigint, %s)", (worker_id, reason), nothing)


def resume_worker(worker_id: int) -> Call[None]:
    """pgqueue.resume_worker. Raises WorkerNotFound."""
    return Call("select pgqueue.resume_worker(%s::bigint)", (worker_id,), nothing)


def set_wait(worker_id: int, queue_name: str, attending: bool | None) -> Call[None]:  # noqa: FBT001 - the three states of pgqueue.waits
    """pgqueue.set_wait."""
    return Call("select pgqueue.set_wait(%s, %s, %s)", (worker_id, queue_name, attending), nothing)


def hand_over(queue_name: str) -> Call[None]:
    """pgqueue.hand_over."""
    return Call("select pgqueue.hand_over(%s)", (queue_name,), nothing)


def idle(queue_name: str, fence_id: str) -> Call[Idle]:
    """pgqueue.idle."""
    return Call(
        "select is_clear, due_in from pgqueue.idle(%s, %s)", (queue_name, fence_id), lambda rows: Idle(*rows[0])
    )


def rescue() -> Call[list[tuple[int, int]]]:
    """pgqueue.rescue: the workers that were lost, and how many of their tasks go on elsewhere."""
    return Call("select worker_id, rescued from pgqueue.rescue()", (), lambda rows: [(row[0], row[1]) for row in rows])


def maintain(days_ahead: int) -> Call[bool]:
    """pgqueue.maintain: False where another session is at it."""
    return Call("select pgqueue.maintain(%s)", (days_ahead,), value)
