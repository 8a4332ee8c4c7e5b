"""What the handlers of one process share: the services over one database, one listener, one feed of events."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

import structlog

from pgqueue.errors import DatabaseUnavailable, PgqueueError
from pgqueue.listen import cancel_all, hub_of
from pgqueue.services import AccessService, PageService, QueueOperations, RetryManager, SchedulerService, StateService
from pgqueue_web.feed import Feed
from pgqueue_web.metrics import Scrape

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from pgqueue.database import Database
    from pgqueue.models import Principal

__all__ = ["Action", "Context"]

UPKEEP_S = 600.0
log = structlog.get_logger()


@dataclasses.dataclass
class Action:
    """Something that is being done in a transaction, as the audit log will tell of it."""

    conn: Any
    target: str | None
    outcome: str = "done"
    detail: dict[str, object] | None = None


class Context:
    """Services, listener and feed, from the start of a server to its stop.

    `is_open` lets in whoever has no key, as long as no key was ever made: for servers that only this machine
    reaches.
    """

    def __init__(self, db: Database, *, is_open: bool) -> None:
        """Start it with `async with`, around the life of the server."""
        self.db = db
        self.settings = db.settings
        self.is_open = is_open
        self.operations = QueueOperations(db)
        self.state = StateService(db)
        self.scheduler = SchedulerService(db)
        self.access = AccessService(db)
        self.pages = PageService(db)
        self.retries = RetryManager(db)
        self.origins = frozenset(origin.strip() for origin in db.settings.api_cors_origins.split(",") if origin.strip())
        self.stopping = asyncio.Event()
        self.scrape = Scrape()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Start listening."""
        self.hub = hub_of(self.db)
        self.feed = Feed(self.db, self.hub)
        await self.hub.start()
        self.start(self._upkeep())
        return self

    async def __aexit__(self, *_error: object) -> None:
        """End the streams that are still there; the database is closed by whoever opened it."""
        self.stopping.set()
        await self.feed.stop()
        await cancel_all(list(self._tasks))

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something beside the requests, until it ends or the server stops; a database that fails is logged."""

        async def guarded() -> None:
            try:
                await work
            except PgqueueError as error:
                log.warning("what was done beside the requests failed", error=str(error))

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @contextlib.asynccontextmanager
    async def audited(self, who: Principal, action: str, target: object = None) -> AsyncIterator[Action]:
        """Lend a connection in a transaction that also writes the audit log; a refusal is written down as well."""
        done = Action(None, None if target is None else str(target))
        try:
            async with self.db.connection() as done.conn, done.conn.transaction():
                yield done
                await self.access.audit(who, action, done.target, done.outcome, detail=done.detail, conn=done.conn)
        except DatabaseUnavailable:
            raise
        except PgqueueError as error:
            await self.refused(who, action, done.target, error)
            raise

    async def refused(self, who: Principal, action: str, target: str | None, error: PgqueueError) -> None:
        """Write down what was refused; the refusal itself is what the client is told, whatever becomes of this."""
        with contextlib.suppress(PgqueueError):
            outcome = type(error).__name__
            await self.access.audit(who, action, target, outcome, detail={"message": error.message})

    async def _upkeep(self) -> None:
        while True:
            try:
                await self.access.forget_access(timedelta(days=self.settings.api_audit_days))
            except PgqueueError as error:
                log.debug("old rows of the audit log could not be deleted", error=str(error))
            await asyncio.sleep(UPKEEP_S)
