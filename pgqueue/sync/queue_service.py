"""QueueService, blocking: one object to declare handlers, submit tasks and run a worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pgqueue import queue_service
from pgqueue.database import Database
from pgqueue.sync.operations import QueueOperations, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pgqueue.database import SyncDatabase
    from pgqueue.handlers import Executor, Handler, Registry, Retry
    from pgqueue.models import QueueConfig, TaskRequest
    from pgqueue.settings import Settings

__all__ = ["QueueService"]


class QueueService(QueueOperations):
    """Declares queues and handlers (fine at import time), submits tasks, and runs a worker with `start`.

    `handlers` is the async service over the same registry, which runs them.
    """

    def __init__(self, db: SyncDatabase, config: QueueConfig | None = None) -> None:
        """Opens no connection."""
        super().__init__(db, config)
        self.handlers = queue_service.QueueService(Database(db.given_dsn, settings=db.settings), config)

    @property
    def registry(self) -> Registry:
        """The handlers, by task type."""
        return self.handlers.registry

    def register_queue(self, name: str, concurrency: int | None = None) -> None:
        """Declare a queue that this service serves: made by the first submit, set up as declared when it starts.

        Raises ConfigurationError for a negative number.
        """
        self.handlers.register_queue(name, concurrency)

    def handler(  # noqa: PLR0913 - as in the guide
        self,
        task_type: str,
        *,
        queue_name: str = "default",
        max_retries: int | None = None,
        timeout: int | None = None,
        retry: Retry | None = None,
        executor: Executor | None = None,
        memory_limit_mb: int | None = None,
    ) -> Callable[[Callable[..., Any]], Handler[Any, Any]]:
        """Register the decorated function `f(ctx, payload)` for a task type; its `submit` blocks.

        The options are those of the async service. Raises ConfigurationError for a function that cannot be a
        handler or a type that has one.
        """
        register = self.handlers.handler(
            task_type,
            queue_name=queue_name,
            max_retries=max_retries,
            timeout=timeout,
            retry=retry,
            executor=executor,
            memory_limit_mb=memory_limit_mb,
        )

        def registered(fn: Callable[..., Any]) -> Handler[Any, Any]:
            handler = register(fn)
            handler.submitter = self._submit_typed
            return handler

        return registered

    def register_handler(self, task_type: str, fn: Callable[..., Any], **options: Any) -> Handler[Any, Any]:  # noqa: ANN401 - any JSON, or any connection
        """Register a function without decorating it; the options are those of `handler`."""
        return self.handler(task_type, **options)(fn)

    def start(self, *, queues: Mapping[str, int | None] | None = None, settings: Settings | None = None) -> None:
        """Run a worker until SIGTERM or SIGINT; it ends as the async service's does."""
        asyncio.run(self._serve(queues, settings))

    async def _serve(self, queues: Mapping[str, int | None] | None, settings: Settings | None) -> None:
        async with self.handlers.db:
            await self.handlers.start(queues=queues, settings=settings)

    def drain(self, *, queues: Mapping[str, int | None] | None = None, settings: Settings | None = None) -> None:
        """Run a worker until nothing is due and nothing runs; for tests and scripts."""
        asyncio.run(self._drain(queues, settings))

    async def _drain(self, queues: Mapping[str, int | None] | None, settings: Settings | None) -> None:
        async with self.handlers.db:
            await self.handlers.drain(queues=queues, settings=settings)

    def submit_task(self, request: TaskRequest, *, conn: object = None) -> Task:
        """Submit a task, as QueueOperations does; a declared queue is made at the first submit."""
        self._make([request])
        return super().submit_task(request, conn=conn)

    def submit_tasks(self, requests: Iterable[TaskRequest], *, conn: object = None) -> list[Task]:
        """Submit many tasks, as QueueOperations does; declared queues are made at the first submit."""
        given = list(requests)
        self._make(given)
        return super().submit_tasks(given, conn=conn)

    def _make(self, requests: Iterable[TaskRequest]) -> None:
        names = self.handlers.to_make(requests)
        known = {queue.name for queue in self.list_queues()} if names else set()
        for name in names:
            if name not in known:
                self.create_queue(name, concurrency=self.handlers.slots_of(name))
            self.handlers.note_made(name)

    def _submit_typed(
        self,
        handler: Handler[Any, Any],
        payload: object,
        *,
        conn: object = None,
        **options: Any,  # noqa: ANN401 - any JSON, or any connection
    ) -> Task:
        return self.submit_task(handler.request(payload, **options), conn=conn)
