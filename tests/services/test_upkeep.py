"""Retention, as programs and workers do it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import Database, QueueService, RetryManager, Settings, retention, sync
from pgqueue.errors import DatabaseUnavailable, InvalidInput
from pgqueue.listen import cancel_all
from pgqueue.worker import maintenance
from tests.polling import until

if TYPE_CHECKING:
    from tests.services.conftest import Engine


def aged(engine: Engine, days: int, count: int = 1, queue_name: str = "default") -> list[int]:
    """Let tasks of so many days ago be completed."""
    ids = [engine.value("select pgqueue.submit('old', p_queue_name => %s)", queue_name) for _ in range(count)]
    for task_id, attempt in engine.claim(queue_name=queue_name).items():
        engine.finish(task_id, attempt)
    for table, column in (("finished_tasks", "finished_at"), ("attempts", "finished_at"), ("task_logs", "logged_at")):
        sql = "select pgqueue._make_partition(%s, %s, (now() at time zone 'UTC')::date - %s)"
        engine.run(sql, table, column, days)
    for table, times in (("finished_tasks", ("created_at", "finished_at")), ("attempts", ("finished_at",))):
        moved = ", ".join(f"{name} = {name} - make_interval(days => {days})" for name in times)
        key = "id" if table == "finished_tasks" else "task_id"
        engine.run(f"update pgqueue.{table} set {moved} where {key} = any(%s)", ids)
    return ids


def days_kept(engine: Engine) -> int:
    sql = "select count(*) from pg_class where relname ~ '^(finished_tasks|attempts|task_logs)_[0-9]{8}$'"
    return int(engine.value(sql + " and right(relname, 8) < to_char(now() at time zone 'UTC', 'YYYYMMDD')"))


def kept(engine: Engine) -> list[int]:
    return [row[0] for row in engine.conn.execute("select id from pgqueue.all_tasks order by id").fetchall()]


def failed(engine: Engine, count: int) -> list[int]:
    ids = [engine.value("select pgqueue.submit('work')") for _ in range(count)]
    failure = {"outcome": "failed", "permanent": True, "error_type": "E", "error_message": "broken"}
    for task_id, attempt in engine.claim(count).items():
        engine.finish(task_id, attempt, failure=failure)
    return ids


class Breaking(Database):
    """Its connections break at the moment in which their statements are cancelled."""

    asked = 0
    lost = 0

    async def run(self, call: Any, conn: Any = None) -> Any:  # noqa: ANN401, ARG002 - as Database
        self.asked += 1
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.lost += 1
            raise DatabaseUnavailable("the server closed the connection") from None


class TestRetention:
    @pytest.mark.parametrize("kind", ["async", "blocking"])
    async def test_it_follows_queues_and_settings(
        self, service: QueueService, sync_db: sync.Database, engine: Engine, kind: str
    ) -> None:
        await service.create_queue("short", keep_completed=timedelta(days=2))
        old = aged(engine, 40, 3)
        short = aged(engine, 5, 3, "short")
        stays = aged(engine, 5, 2)
        [info] = [info for info in await service.list_queues() if info.name == "short"]
        assert (info.keep_completed, info.keep_failed) == (timedelta(days=2), None)
        if kind == "async":
            removed = await RetryManager(service.db).apply_retention()
        else:
            removed = await asyncio.to_thread(sync.RetryManager(sync_db).apply_retention)
        assert removed == len(old) + len(short)
        assert kept(engine) == stays
        assert days_kept(engine) == 3

    async def test_many_batches_remove_everything_once(
        self, service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine.run(
            "insert into pgqueue.finished_tasks (id, task_type, queue_name, priority, payload, status, max_retries,"
            " run_at, attempt, failures, crashes, created_at, finished_at)"
            " select 1000000 + n, 'a', 'default', 5, '{}', 'completed', 3, now(), 1, 0, 0, now(), now()"
            " from generate_series(1, 5500) n"
        )
        monkeypatch.setattr(retention, "REST", 0.0)
        manager = RetryManager(service.db)
        removed = await asyncio.gather(*(manager.cleanup_old_tasks(timedelta(0)) for _ in range(2)))
        assert sum(removed) + await manager.cleanup_old_tasks(timedelta(0)) == 5500
        assert kept(engine) == []

    async def test_an_admin_who_owns_nothing_can_do_it_all(
        self, service: QueueService, engine: Engine, dsn: str
    ) -> None:
        stays = aged(engine, 5)
        old = aged(engine, 40, 3)
        assert service.db is not None
        name = "upkeep_admin"
        engine.run(f"drop role if exists {name}")
        engine.run(f"create role {name} login in role pgqueue_admin")
        try:
            async with Database(make_conninfo(dsn, user=name)) as database:
                assert await RetryManager(database).cleanup_old_tasks(timedelta(days=30)) == len(old)
        finally:
            engine.run(f"drop role {name}")
        assert kept(engine) == stays
        assert days_kept(engine) == 3

    async def test_behind_a_pooler_no_setting_is_left_on_a_connection(self, engine: Engine, dsn: str) -> None:
        """Without a direct way the days go by a function, whose lock_timeout ends with it."""
        old = aged(engine, 40, 3)
        sent: list[str] = []
        async with Database(dsn, settings=Settings(pooler=True, pool_max=1)) as database:

            async def never(dsn: str | None = None) -> Any:  # noqa: ANN401 - it never returns
                sent.append(str(dsn))
                raise AssertionError

            database.connect = never  # type: ignore[method-assign]
            assert await RetryManager(database).cleanup_old_tasks(timedelta(days=30)) == len(old)
            async with database.connection() as conn:
                assert await (await conn.execute("show lock_timeout")).fetchone() == ("0",)
        assert sent == []

    async def test_under_a_dump_nothing_waits_and_the_days_go_when_it_has_ended(
        self, service: QueueService, engine: Engine, dsn: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retention, "TRIES", 3)
        aged(engine, 40, 2)
        aged(engine, 41, 2)
        manager = RetryManager(service.db)
        engine.run("set lock_timeout = '500ms'")
        async with await psycopg.AsyncConnection.connect(dsn) as dump:
            await dump.execute("set transaction isolation level repeatable read")
            await dump.execute("select count(*) from pgqueue.all_tasks, pgqueue.executions, pgqueue.task_logs")
            cleaning = asyncio.create_task(manager.cleanup_old_tasks(timedelta(days=30)))
            while not cleaning.done():
                await asyncio.to_thread(engine.complete, engine.value("select pgqueue.submit('new')"))
            before = await cleaning
        after = await manager.cleanup_old_tasks(timedelta(days=30))
        assert before + after == 4
        assert days_kept(engine) == 0

    async def test_workers_do_it_by_themselves(
        self, service: QueueService, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(maintenance, "MAINTAIN_S", 0.05)
        aged(engine, 40, 3)
        running = [asyncio.create_task(chore) for chore in maintenance.chores(service.db, Settings())]
        await until(lambda: bool(engine.value("select completed_at is not null from pgqueue.retention")))
        await cancel_all(running)
        assert all(chore.cancelled() for chore in running)
        assert kept(engine) == []

    async def test_it_ends_though_a_cancellation_gets_lost_in_a_breaking_connection(self, dsn: str) -> None:
        database = Breaking(dsn)
        running = [asyncio.create_task(chore) for chore in maintenance.chores(database, Settings())]
        await until(lambda: database.asked == len(running))
        async with asyncio.timeout(20):
            await cancel_all(running)
        assert database.lost == len(running)
        assert all(chore.cancelled() for chore in running)

    @pytest.mark.parametrize("keep", [timedelta(seconds=-1), timedelta.max, 30, "1 day"])
    async def test_times_of_nonsense_are_refused(self, service: QueueService, keep: Any) -> None:  # noqa: ANN401 - any value
        with pytest.raises(InvalidInput, match="keep_failed"):
            await service.create_queue("q", keep_failed=keep)
