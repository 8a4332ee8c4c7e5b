"""Retrying, cancelling and deleting by a filter, blocking. Each method promises what the async one of its name does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.sync.operations import sync_method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.database import SyncDatabase
    from pgqueue.models import BulkFilter, Operation, OperationKind, OperationPreview

__all__ = ["BulkOperations"]

BUSY_S = 0.1


class BulkOperations:
    """Each holds a few rows for a few milliseconds at a time, and goes on with any worker when its caller dies."""

    db: SyncDatabase

    def retry_tasks(self, chosen: BulkFilter, *, requested_by: str | None = None) -> Operation:
        """Start all failed tasks that match again (or cancelled ones, by status). Raises InvalidInput."""
        return self._run("retry", chosen, None, requested_by)

    def cancel_tasks(
        self, chosen: BulkFilter, *, reason: str | None = None, requested_by: str | None = None
    ) -> Operation:
        """Cancel all live tasks that match. Raises InvalidInput."""
        return self._run("cancel", chosen, reason, requested_by)

    def delete_tasks(self, chosen: BulkFilter, *, requested_by: str | None = None) -> Operation:
        """Delete all finished tasks that match, with their executions and logs. Raises InvalidInput."""
        return self._run("delete", chosen, None, requested_by)

    def preview(self, kind: OperationKind, chosen: BulkFilter) -> OperationPreview:
        """Count what retry, cancel or delete would deal with; nothing is changed. Raises InvalidInput."""
        return self.db.run(calls.preview_operation(kind, chosen))

    def start_operation(
        self,
        kind: OperationKind,
        chosen: BulkFilter,
        *,
        reason: str | None = None,
        requested_by: str | None = None,
        conn: object = None,
    ) -> int:
        """Note an operation and return its id. Raises InvalidInput."""
        return self.db.run(calls.start_operation(kind, chosen, reason, requested_by), conn=conn)

    def follow_operation(self, operation_id: int) -> Iterator[Operation]:
        """Carry an operation out, or watch whoever does, and yield it after each step. Raises OperationNotFound."""
        while True:
            operation = self.db.run(calls.step_operation(operation_id))
            if operation is None:
                time.sleep(BUSY_S)
                operation = self.get_operation(operation_id)
            yield operation
            if operation.state != "running":
                return

    get_operation = sync_method(calls.get_operation)
    list_operations = sync_method(calls.list_operations)
    cancel_operation = sync_method(calls.cancel_operation)

    def _run(self, kind: OperationKind, chosen: BulkFilter, reason: str | None, requested_by: str | None) -> Operation:
        operation_id = self.start_operation(kind, chosen, reason=reason, requested_by=requested_by)
        for operation in self.follow_operation(operation_id):
            if operation.state != "running":
                return operation
        raise AssertionError("an operation is followed to its end")
