"""QueueService: the operations of a queue, the handlers that serve it, and the worker that runs them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError
from pgqueue.handlers import Executor, Handler, Registry, Retry
from pgqueue.models import QueueConfig, TaskRequest
from pgqueue.services import QueueOperations, Task
from pgqueue.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pgqueue.database import Database
    from pgqueue.settings import Settings

__all__ = ["QueueService"]


class QueueService(QueueOperations):
    """Declares queues and handlers (fine at import time), submits tasks, and runs a worker with `start`."""

    def __init__(self, db: Database, config: QueueConfig | None = None) -> None:
        """Opens no connection."""
        super().__init__(db, config or QueueConfig())
        self.registry = Registry()
        self._queues: dict[str, int | None] = {}
        self._made: set[str] = set()

    def register_queue(self, name: str, concurrency: int | None = None) -> None:
        """Declare a queue that this service serves: made by the first submit, set up as declared when it starts.

        `concurrency` is the number of slots in each worker process; None takes the config's, or else that of the
        queue's row.
        Raises ConfigurationError for a negative number.
        """
        if concurrency is not None and concurrency < 0:
            msg = f"queue {name!r} cannot have a concurrency of {concurrency}"
            raise ConfigurationError(msg, hint="give the number of slots; 0 runs nothing")
        self._queues[name] = concurrency if concurrency is not None else self.config.concurrency

    def handler(  # noqa: PLR0913 - the options of a handler
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
        """Register the decorated function `f(ctx, payload)` for a task type.

        An async function runs on the event loop, a plain one in a thread, or with executor="process" in a
        process that is killed on a timeout (seconds) and may be given a memory limit. queue_name,
        max_retries and timeout are defaults of `submit`; retry says how long failures wait.
        Raises ConfigurationError for a function that cannot be a handler or a type that has one.
        """

        def register(fn: Callable[..., Any]) -> Handler[Any, Any]:
            handler: Handler[Any, Any] = Handler(
                task_type,
                fn,
                queue_name=queue_name,
                max_retries=max_retries,
                timeout=timeout,
                retry=retry,
                executor=executor,
                memory_limit_mb=memory_limit_mb,
            )
            handler.submitter = self._submit_typed
            self.registry.add(handler)
            return handler

        return register

    def register_handler(self, task_type: str, fn: Callable[..., Any], **options: Any) -> Handler[Any, Any]:  # noqa: ANN401 - those of handler()
        """Register a function without decorating it; the options are those of `handler`."""
        return self.handler(task_type, **options)(fn)

    async def start(
        self,
        *,
        queues: Mapping[str, int | None] | None = None,
        settings: Settings | None = None,
        handle_signals: bool = True,
    ) -> None:
        """Run a worker until it is cancelled or gets SIGTERM or SIGINT (where this is the main thread).

        It then claims nothing more, lets running tasks end for the grace period, and releases the rest.
        `queues` maps names to slots, and replaces the registered ones.
        """
        worker = self.worker(queues=queues, settings=settings)
        running = asyncio.ensure_future(worker.run(handle_signals=handle_signals))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            worker.stop()
            await running
            raise

    async def drain(self, *, queues: Mapping[str, int | None] | None = None, settings: Settings | None = None) -> None:
        """Run a worker until nothing is due and nothing runs; for tests and scripts."""
        await self.worker(queues=queues, settings=settings).run(until_idle=True)

    def worker(self, *, queues: Mapping[str, int | None] | None = None, settings: Settings | None = None) -> Worker:
        """Return the worker that `start` runs."""
        served = queues if queues is not None else dict.fromkeys(self.declared_queues())
        declared = {name: slots for name, slots in self._queues.items() if slots is not None}
        return Worker(self.registry, self.db, settings or self.db.settings, served, declared)

    def declared_queues(self) -> list[str]:
        """Return the queues that `start` serves: the registered ones, then those that handlers name."""
        return list(dict.fromkeys([*self._queues, *sorted(self.registry.queue_names())]))

    async def submit_task(self, request: TaskRequest, *, conn: object = None) -> Task:
        """Submit a task, as QueueOperations does; a declared queue is made at the first submit."""
        await self._make([request])
        return await super().submit_task(request, conn=conn)

    async def submit_tasks(self, requests: Iterable[TaskRequest], *, conn: object = None) -> list[Task]:
        """Submit many tasks, as QueueOperations does; declared queues are made at the first submit."""
        given = list(requests)
        await self._make(given)
        return await super().submit_tasks(given, conn=conn)

    def to_make(self, requests: Iterable[object]) -> list[str]:
        """Return the declared queues of these requests that are not known to have been made."""
        given = (getattr(request, "queue_name", None) for request in requests)
        names = {name for name in given if isinstance(name, str)}
        return [name for name in self.declared_queues() if name in names and name not in self._made]

    def note_made(self, name: str) -> None:
        """Remember that a declared queue was made."""
        self._made.add(name)

    def slots_of(self, name: str) -> int | None:
        """Return the concurrency that was declared for a queue."""
        return self._queues.get(name)

    async def _make(self, requests: Iterable[object]) -> None:
        names = self.to_make(requests)
        known = {queue.name for queue in await self.list_queues()} if names else set()
        for name in names:
            if name not in known:
                await self.create_queue(name, concurrency=self.slots_of(name))
            self.note_made(name)

    async def _submit_typed(
        self,
        handler: Handler[Any, Any],
        payload: object,
        *,
        conn: object = None,
        **options: Any,  # noqa: ANN401 - fields of TaskRequest
    ) -> Task:
        return await self.submit_task(handler.request(payload, **options), conn=conn)
