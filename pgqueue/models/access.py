"""Who may use the HTTP interface, and what they did with it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from pgqueue.models.structs import Moment

__all__ = ["ApiKey", "AuditEntry", "KeptAnswer", "MetricTotal", "Metrics", "Principal", "QueueDepth", "Scope"]

Scope = Literal["read", "submit", "manage", "admin"]


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is kept: without the secret. `rate_limit` in requests a minute."""

    id: int
    name: str
    selector: str
    scopes: list[Scope]
    queues: list[str] | None
    rate_limit: int | None
    created_at: Moment
    expires_at: Moment | None
    revoked_at: Moment | None
    last_used_at: Moment | None


class Principal(msgspec.Struct, frozen=True):
    """Who makes a request: a key, or anybody where no key is needed."""

    key_id: int | None
    name: str
    scopes: list[Scope]
    queues: list[str] | None

    def may_touch(self, queue_name: str) -> bool:
        """Tell whether the principal sees this queue."""
        return self.queues is None or queue_name in self.queues

    def has_scope(self, scope: Scope) -> bool:
        """Tell whether the principal has a scope; admin includes the others."""
        return scope in self.scopes or "admin" in self.scopes

    def may_audit(self) -> bool:
        """Tell whether the principal may read the audit log, which is about all queues."""
        return self.queues is None and self.has_scope("admin")


class AuditEntry(msgspec.Struct, frozen=True):
    """One row of the audit log."""

    id: int
    happened_at: Moment
    actor: str
    key_id: int | None
    database_user: str
    action: str
    target: str | None
    outcome: str
    detail: Any


class KeptAnswer(msgspec.Struct, frozen=True):
    """What a request with an idempotency key was answered."""

    status: int
    location: str | None
    body: str


class MetricTotal(msgspec.Struct, frozen=True):
    """Tasks of a queue and type that ended in one way, or were submitted. Times in microseconds."""

    queue_name: str
    task_type: str
    outcome: str
    tasks: int
    run_us: float
    wait_us: float
    run_buckets: list[int]
    """Up to each of the bounds, then all."""
    wait_buckets: list[int]


class QueueDepth(msgspec.Struct, frozen=True):
    """What waits and runs in a queue."""

    queue_name: str
    pending: int
    scheduled: int
    blocked: int
    running: int
    oldest_pending_age_s: float


class Metrics(msgspec.Struct, frozen=True):
    """All that Prometheus is told of the database. Times in seconds."""

    bounds: list[float]
    totals: list[MetricTotal]
    retries: int
    rescued: int
    queues: list[QueueDepth]
    slots: int
    slots_busy: int
    schedule_lag: float
    dead_tuples: dict[str, int]
    oldest_transaction: float
