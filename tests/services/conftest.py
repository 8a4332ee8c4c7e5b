"""Services over this test's database, async and blocking, and SQL that plays the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import pytest
import pytest_asyncio

from pgqueue import Database, QueueService, StateService, sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest_asyncio.fixture
async def db(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn) as database:
        yield database


@pytest.fixture
def service(db: Database) -> QueueService:
    return QueueService(db)


@pytest.fixture
def state(db: Database) -> StateService:
    return StateService(db)


@pytest.fixture
def sync_db(dsn: str) -> Iterator[sync.Database]:
    with sync.Database(dsn) as database:
        yield database


@pytest.fixture
def blocking(sync_db: sync.Database) -> sync.QueueService:
    return sync.QueueService(sync_db)


class Engine:
    """Claims and finishes by SQL, as a worker would."""

    def __init__(self, dsn: str) -> None:
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.worker_id = self.value("select pgqueue.register_worker('here', 1, '{default}', '{}', 3600, 'test')")
        self._claim_no = 0

    def value(self, query: str, *params: object) -> Any:  # noqa: ANN401 - any value
        row = self.conn.execute(query.encode(), params or None).fetchone()
        assert row is not None
        return row[0]

    def run(self, query: str, *params: object) -> None:
        self.conn.execute(query.encode(), params or None)

    def claim(self, limit: int = 100, queue_name: str = "default") -> dict[int, int]:
        """Claim what is due; return attempts by task."""
        self._claim_no += 1
        sql = "select * from pgqueue.claim(%s, %s, %s, %s, '{}'::int[], '{}', '{}', null, '{}')"
        rows = self.conn.execute(sql, (self.worker_id, queue_name, limit, self._claim_no)).fetchall()
        return {row[0]: row[1] for row in rows}

    def finish(
        self, task_id: int, attempt: int, *, result: object = None, failure: dict[str, Any] | None = None
    ) -> None:
        results = [None if result is None else msgspec.json.encode(result).decode()]
        failures = [None if failure is None else msgspec.json.encode(failure).decode()]
        sql = "select pgqueue.finish(%s::bigint[], %s::int[], '{1000}', %s::jsonb[], %s::jsonb[], true)"
        left = self.value(
            sql, [task_id], [attempt], results if result is not None else None, failures if failure else None
        )
        assert not left

    def complete(self, task_id: int, result: object = None) -> None:
        """Run a pending task to its end."""
        self.finish(task_id, self.claim()[task_id], result=result)

    def fail(self, task_id: int, message: str = "broken") -> None:
        """Run a pending task to a failure that is not retried."""
        failure = {"outcome": "failed", "error_type": "ValueError", "error_message": message, "permanent": True}
        self.finish(task_id, self.claim()[task_id], failure=failure)


@pytest.fixture
def engine(dsn: str) -> Iterator[Engine]:
    made = Engine(dsn)
    with made.conn:
        yield made
