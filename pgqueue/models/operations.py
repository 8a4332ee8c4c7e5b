"""Retrying, cancelling and deleting by a filter."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec

from pgqueue.models.structs import Moment, Status

__all__ = ["BulkFilter", "Operation", "OperationKind", "OperationPreview"]

OperationKind = Literal["retry", "cancel", "delete"]


class BulkFilter(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which tasks: all fields that are given must match. One that gives none must say `all=True`."""

    all: bool = False
    queue_name: str | None = None
    task_type: str | None = None
    status: Status | None = None
    """A retry without it takes failed tasks only."""
    user_id: str | None = None
    project_id: str | None = None
    parent_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    finished_from: datetime | None = None
    finished_to: datetime | None = None
    error_contains: str | None = None
    """A part of the error's text, in any case."""
    payload_path: list[str] | None = None
    """Where in the payload `payload_value` must stand: keys, and numbers of array elements."""
    payload_value: str | None = None
    """Compared as text."""


class Operation(msgspec.Struct, frozen=True):
    """A bulk operation, and how far it has come."""

    id: int
    kind: OperationKind
    filter: dict[str, Any]
    reason: str | None
    state: Literal["running", "completed", "cancelled"]
    last_id: int
    """Tasks up to this id are dealt with."""
    until_id: int
    examined: int
    done: int
    skipped: int
    """Tasks that matched and were left alone: a live one has their unique key, or somebody held them."""
    skipped_ids: list[int]
    requested_by: str
    created_at: Moment
    updated_at: Moment
    finished_at: Moment | None

    @property
    def share(self) -> float:
        """From 0 to 1, by the ids that it has walked up."""
        return 1.0 if self.state == "completed" else min(1.0, self.last_id / max(self.until_id, 1))


class OperationPreview(msgspec.Struct, frozen=True):
    """What an operation would deal with."""

    matched: int
    is_capped: bool
    """There are more tasks than were looked at: it may be more."""
    sample: list[int]
    """Up to twenty of them."""
