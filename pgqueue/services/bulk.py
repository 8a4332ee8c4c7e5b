"""Retrying, cancelling and deleting by a filter: durable operations, carried out in small steps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.services.operations import async_method

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgqueue.database import Database
    from pgqueue.models import BulkFilter, Operation, OperationKind, OperationPreview

__all__ = ["BulkOperations"]

BUSY_S = 0.1


class BulkOperations:
    """Each holds a few rows for a few milliseconds at a time, and goes on with any worker when its caller dies."""

    db: Database

    async def retry_tasks(self, chosen: BulkFilter, *, requested_by: str | None = None) -> Operation:
        """Start all failed tasks that match again (or cancelled ones, by status); return the finished operation.

        Each keeps its id and its executions. One whose unique key a live task has is skipped. Raises InvalidInput.
        """
        return await self._run("retry", chosen, None, requested_by)

    async def cancel_tasks(
        self, chosen: BulkFilter, *, reason: str | None = None, requested_by: str | None = None
    ) -> Operation:
        """Cancel all live tasks that match; running ones are asked to stop. Raises InvalidInput."""
        return await self._run("cancel", chosen, reason, requested_by)

    async def delete_tasks(self, chosen: BulkFilter, *, requested_by: str | None = None) -> Operation:
        """Delete all finished tasks that match, with their executions and logs. Raises InvalidInput."""
        return await self._run("delete", chosen, None, requested_by)

    async def preview(self, kind: OperationKind, chosen: BulkFilter) -> OperationPreview:
        """Count what retry, cancel or delete would deal with; nothing is changed. Raises InvalidInput."""
        return await self.db.run(calls.preview_operation(kind, chosen))

    async def start_operation(
        self,
        kind: OperationKind,
        chosen: BulkFilter,
        *,
        reason: str | None = None,
        requested_by: str | None = None,
        conn: object = None,
    ) -> int:
        """Note an operation and return its id: `follow_operation` carries it out, or else a worker does, seconds later.

        Raises InvalidInput.
        """
        return await self.db.run(calls.start_operation(kind, chosen, reason, requested_by), conn=conn)

    async def follow_operation(self, operation_id: int) -> AsyncIterator[Operation]:
        """Carry an operation out, or watch whoever does, and yield it after each step; the last one has ended.

        Raises OperationNotFound.
        """
        while True:
            operation = await self.db.run(calls.step_operation(operation_id))
            if operation is None:
                await asyncio.sleep(BUSY_S)
                operation = await self.get_operation(operation_id)
            yield operation
            if operation.state != "running":
                return

    get_operation = async_method(calls.get_operation)
    list_operations = async_method(calls.list_operations)
    cancel_operation = async_method(calls.cancel_operation)

    async def _run(
        self, kind: OperationKind, chosen: BulkFilter, reason: str | None, requested_by: str | None
    ) -> Operation:
        operation_id = await self.start_operation(kind, chosen, reason=reason, requested_by=requested_by)
        async for operation in self.follow_operation(operation_id):
            if operation.state != "running":
                return operation
        raise AssertionError("an operation is followed to its end")
