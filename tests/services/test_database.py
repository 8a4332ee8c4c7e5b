"""The pool: servers that stop and start, event loops that end, hints that help."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgqueue import (
    Database,
    DatabaseUnavailable,
    QueueService,
    SchemaMismatch,
    Settings,
    TaskRequest,
    calls,
    schema,
    sync,
)
from pgqueue.listen import cancel_all, hub_of
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.embedded import Server

DEADLINE_S = 20.0


async def test_operations_fail_with_a_hint_while_the_server_is_down_and_go_on_after(
    new_server: Callable[..., Server],
) -> None:
    server = new_server()
    server.start()
    dsn = server.dsn("postgres")
    schema.migrate(dsn)
    async with Database(dsn) as database:
        with sync.Database(dsn) as sync_database:
            service, blocking = QueueService(database), sync.QueueService(sync_database)
            task = await service.submit_task(TaskRequest(task_type="t"))
            waiting = asyncio.create_task(task.wait(2 * DEADLINE_S))
            await until(lambda: hub_of(database).is_alive)
            assert blocking.get_task(task.task_id).status == "pending"
            server.stop("fast")
            started = time.monotonic()
            for fetch in (lambda: service.get_task(task.task_id), lambda: asyncio.to_thread(blocking.list_queues)):
                with pytest.raises(DatabaseUnavailable) as caught:
                    await fetch()
                assert caught.value.hint
            assert time.monotonic() - started < DEADLINE_S
            server.start()
            deadline = time.monotonic() + DEADLINE_S
            while True:
                try:
                    assert (await service.get_task(task.task_id)).status == "pending"
                    assert await asyncio.to_thread(blocking.list_queues)
                    break
                except DatabaseUnavailable:
                    assert time.monotonic() < deadline
            await task.cancel()
            assert (await waiting).status == "cancelled"


async def test_connections_that_were_cut_are_replaced_before_they_are_used(dsn: str) -> None:
    async with Database(dsn) as database:
        service = QueueService(database)
        await asyncio.gather(*(service.list_queues() for _ in range(10)))
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                assert [queue.name for queue in await service.list_queues()] == ["default"]
                break
            except DatabaseUnavailable:
                assert time.monotonic() < deadline


def test_one_database_serves_one_event_loop_after_another(dsn: str) -> None:
    database = Database(dsn)
    service = QueueService(database)

    async def use(close: bool) -> int:  # noqa: FBT001 - a flag of this test
        task = await service.submit_task(TaskRequest(task_type="t"))
        with pytest.raises(TimeoutError):
            await task.wait(0.01)
        if close:
            await database.close()
        return task.task_id

    ids = [asyncio.run(use(close)) for close in (False, True, False, True)]
    assert len(set(ids)) == 4


async def test_no_server_is_said_at_once_with_a_hint(empty_dsn: str) -> None:
    for database in (Database("host=/nonexistent dbname=x"), Database("host=127.0.0.1 port=1 dbname=x")):
        with pytest.raises(DatabaseUnavailable, match="cannot be reached") as caught:
            await database.open()
        assert caught.value.hint
        assert isinstance(caught.value.__cause__, psycopg.Error)
    with pytest.raises(DatabaseUnavailable), sync.Database("host=/nonexistent dbname=x"):
        pass
    async with Database(empty_dsn) as database:
        with pytest.raises(SchemaMismatch, match="pgqueue") as mismatch:
            await QueueService(database).list_queues()
        assert "migrate" in str(mismatch.value.hint)


async def test_an_exhausted_pool_says_so(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.database.CONNECT_TIMEOUT_S", 1)
    async with Database(dsn, settings=Settings(dsn=dsn, pool_min=1, pool_max=1)) as database, database.connection():
        with pytest.raises(DatabaseUnavailable, match="no connection to the database within 1 s") as caught:
            await QueueService(database).list_queues()
        assert "pool_max" in str(caught.value.hint)


@pytest.mark.parametrize("mode", ["async", "blocking"])
async def test_who_asks_one_thing_at_a_time_has_one_connection(dsn: str, mode: str) -> None:
    sql = "select count(*) from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"
    database, blocking = Database(dsn), sync.Database(dsn)

    async def one_connection() -> bool:
        row = await (await looking.execute(sql)).fetchone()
        return row == (1,)

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as looking:
        for _ in range(5):
            if mode == "async":
                await QueueService(database).list_queues()
            else:
                sync.QueueService(blocking).list_queues()
        await until(one_connection)
    await database.close()
    blocking.close()


async def test_connections_say_who_they_are_and_keep_utc(dsn: str) -> None:
    async with Database(dsn + " application_name=mine") as database:
        async with database.connection() as conn:
            row = await (
                await conn.execute("select current_setting('application_name'), current_setting('timezone')")
            ).fetchone()
        assert row == ("mine", "UTC")
        async with await database.connect() as own:
            assert own.autocommit
            assert own.prepare_threshold == 0
    async with Database(dsn, settings=Settings(dsn=dsn, pooler=True)) as database, database.connection() as conn:
        assert conn.prepare_threshold is None


async def test_a_connection_that_the_server_closed_is_never_lent(dsn: str) -> None:
    """However shortly it was used before."""
    async with Database(dsn) as db, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as killer:
        for _ in range(5):
            await asyncio.gather(*(db.run(calls.list_queues()) for _ in range(5)))
            await killer.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
                " where application_name = 'pgqueue' and datname = current_database()"
            )
            await asyncio.gather(*(db.run(calls.list_queues()) for _ in range(5)))


async def test_a_cancellation_that_gets_lost_is_repeated() -> None:
    """As in psycopg, where it may meet a connection that breaks."""
    lost: list[str] = []

    async def stubborn() -> None:
        while len(lost) < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost.append("cancelled")
        await asyncio.Event().wait()

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await cancel_all([task])
    assert task.cancelled()
    assert len(lost) == 2
