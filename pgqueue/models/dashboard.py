"""What the pages of the dashboard show."""

from __future__ import annotations

from datetime import datetime

import msgspec

from pgqueue.models.structs import Status

__all__ = ["EndedOfType", "Migration", "RelationSize", "SearchPage", "ServerFacts", "TaskRow", "TaskSearch"]


class TaskSearch(msgspec.Struct, kw_only=True):
    """Which tasks a page lists; what is None does not matter."""

    queue_names: list[str] | None = None
    status: Status | None = None
    task_type: str | None = None
    user_id: str | None = None
    project_id: str | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    path: list[str] | None = None
    """Where in the payload `value` must stand."""
    value: str | None = None
    parent_id: int | None = None
    error: str | None = None
    """Text that the error must have in it, in any case."""
    before_id: int | None = None
    limit: int = 50


class TaskRow(msgspec.Struct, frozen=True):
    """A task in a list: without payload and result, its error cut short."""

    task_id: int
    task_type: str
    queue_name: str
    priority: int
    status: Status
    attempt: int
    failures: int
    max_retries: int
    run_at: datetime
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None
    user_id: str | None
    project_id: str | None
    worker_id: int | None
    cancel_requested_at: datetime | None
    progress: int | None
    message: str | None


class SearchPage(msgspec.Struct, frozen=True):
    """One page of tasks, and the id to go on before; None: there are no more."""

    tasks: list[TaskRow]
    next_before_id: int | None


class EndedOfType(msgspec.Struct, frozen=True):
    """What finished of one task type in a window."""

    task_type: str
    completed: int
    failed: int
    cancelled: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.completed + self.failed + self.cancelled


class RelationSize(msgspec.Struct, frozen=True):
    """A table with its indexes; the partitions of one are taken together."""

    name: str
    partitions: int
    total_bytes: int
    live_rows: int
    dead_rows: int
    last_vacuum: datetime | None


class ServerFacts(msgspec.Struct, frozen=True):
    """The server and this database."""

    server_version: str
    database_name: str
    database_bytes: int
    started_at: datetime
    connections: int
    max_connections: int
    oldest_transaction_s: float | None
    oldest_transaction_pid: int | None
    oldest_transaction_application: str | None
    notify_queue_usage: float


class Migration(msgspec.Struct, frozen=True):
    """A file of the schema that was applied."""

    name: str
    kind: str
    applied_at: datetime
