"""Retention and changes of many tasks, as programs and workers do them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import Database, OperationFilter, QueueService, RetryManager, Settings, retention, sync
from pgqueue.errors import InvalidInput, PgqueueError
from pgqueue.worker import maintenance
from tests.polling import until

if TYPE_CHECKING:
    from pathlib import Path

    from pgqueue.models import Operation
    from tests.services.conftest import Engine

EVERYTHING = OperationFilter(all=True)
DRIVER = """
import os, signal, sys
from pgqueue import OperationFilter, sync
from pgqueue.sync import state

def progress(operation):
    if operation.done >= 10:
        os.kill(os.getpid(), signal.SIGKILL)

state.BATCH = 5
manager = sync.RetryManager(sync.Database(sys.argv[1]))
manager.retry_tasks(OperationFilter(all=True), on_progress=progress)
"""


def aged(engine: Engine, days: int, count: int = 1, queue_name: str = "default") -> list[int]:
    """Let tasks of so many days ago be completed."""
    ids = [engine.value("select pgqueue.submit('old', p_queue_name => %s)", queue_name) for _ in range(count)]
    for task_id, attempt in engine.claim(queue_name=queue_name).items():
        engine.finish(task_id, attempt)
    for table, column in (("finished_tasks", "finished_at"), ("executions", "finished_at"), ("task_logs", "logged_at")):
        sql = "select pgqueue._make_partition(%s, %s, (now() at time zone 'UTC')::date - %s)"
        engine.run(sql, table, column, days)
    for table, times in (("finished_tasks", ("created_at", "finished_at")), ("executions", ("finished_at",))):
        moved = ", ".join(f"{name} = {name} - make_interval(days => {days})" for name in times)
        key = "id" if table == "finished_tasks" else "task_id"
        engine.run(f"update pgqueue.{table} set {moved} where {key} = any(%s)", ids)
    return ids


def days_kept(engine: Engine) -> int:
    sql = "select count(*) from pg_class where relname ~ '^(finished_tasks|executions|task_logs)_[0-9]{8}$'"
    return int(engine.value(sql + " and right(relname, 8) < to_char(now() at time zone 'UTC', 'YYYYMMDD')"))


def kept(engine: Engine) -> list[int]:
    return [row[0] for row in engine.conn.execute("select id from pgqueue.all_tasks order by id").fetchall()]


def failed(engine: Engine, count: int) -> list[int]:
    ids = [engine.value("select pgqueue.submit('work')") for _ in range(count)]
    failure = {"outcome": "failed", "permanent": True, "error_type": "E", "error_message": "broken"}
    for task_id, attempt in engine.claim(count).items():
        engine.finish(task_id, attempt, failure=failure)
    return ids


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
        running = asyncio.create_task(maintenance.maintain(service.db, Settings()))
        await until(lambda: bool(engine.value("select completed_at is not null from pgqueue.retention")))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert kept(engine) == []

    @pytest.mark.parametrize("keep", [timedelta(seconds=-1), timedelta.max, 30, "1 day"])
    async def test_times_of_nonsense_are_refused(self, service: QueueService, keep: Any) -> None:  # noqa: ANN401 - any value
        with pytest.raises(InvalidInput, match="keep_failed"):
            await service.create_queue("q", keep_failed=keep)


class TestOperations:
    @pytest.mark.parametrize("kind", ["async", "blocking"])
    async def test_retry_cancel_delete_with_progress(
        self,
        service: QueueService,
        sync_db: sync.Database,
        engine: Engine,
        kind: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for module in ("services.operating", "sync.state"):
            monkeypatch.setattr(f"pgqueue.{module}.BATCH", 2)
        ids = failed(engine, 5)
        manager, blocking = RetryManager(service.db), sync.RetryManager(sync_db)
        told: list[Operation] = []

        async def call(name: str, **options: Any) -> Operation:  # noqa: ANN401 - those of the methods
            if kind == "async":
                operation: Operation = await getattr(manager, name)(EVERYTHING, **options)
                return operation
            return await asyncio.to_thread(getattr(blocking, name), EVERYTHING, **options)

        preview = await call("retry_tasks", dry_run=True)
        assert (preview.state, preview.matched, preview.sample_ids) == ("preview", 5, ids[::-1])
        done = await call("retry_tasks", on_progress=told.append)
        assert (done.state, done.matched, done.done, done.skipped, done.percent) == ("completed", 5, 5, 0, 100)
        assert [operation.done for operation in told] == [2, 4, 5]
        assert told[0].percent < told[1].percent < 100
        assert (await call("cancel_tasks", reason="no more")).done == 5
        assert (await service.get_task(ids[0])).error == "no more"
        assert (await call("delete_tasks")).done == 5
        assert (await service.list_tasks())[1] == 0
        found = await manager.get_operations() if kind == "async" else blocking.get_operations()
        assert [(operation.kind, operation.is_final) for operation in found] == [
            ("delete", True),
            ("cancel", True),
            ("retry", True),
        ]
        assert found[0].requested_by == "postgres"

    async def test_two_drivers_of_one_operation_share_it(
        self, service: QueueService, sync_db: sync.Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("services.operating", "sync.state"):
            monkeypatch.setattr(f"pgqueue.{module}.BATCH", 3)
        ids = failed(engine, 60)
        operation_id = engine.value("select pgqueue.start_operation('retry', '{\"all\": true}')")

        async def drive() -> Operation:
            return [operation async for operation in RetryManager(service.db).follow_operation(operation_id)][-1]

        def drive_blocking() -> Operation:
            return list(sync.RetryManager(sync_db).follow_operation(operation_id))[-1]

        ends = await asyncio.gather(drive(), drive(), asyncio.to_thread(drive_blocking))
        assert {(end.state, end.done) for end in ends} == {("completed", 60)}
        assert sorted(engine.claim()) == ids

    async def test_a_killed_driver_leaves_it_to_the_workers(
        self, service: QueueService, engine: Engine, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ids = failed(engine, 40)
        program = tmp_path / "driver.py"
        program.write_text(DRIVER)
        command = [sys.executable, str(program), dsn]
        done = await asyncio.to_thread(lambda: subprocess.run(command, check=False, timeout=60))
        assert done.returncode == -9
        manager = RetryManager(service.db)
        [left] = await manager.get_operations()
        assert (left.state, left.done) == ("running", 10)
        monkeypatch.setattr(maintenance, "MAINTAIN_S", 0.05)
        monkeypatch.setattr(maintenance, "FORGOTTEN_S", 0.2)
        running = asyncio.create_task(maintenance.maintain(service.db, Settings()))

        async def ended() -> bool:
            return (await manager.get_operations())[0].is_final

        await until(ended)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        [end] = await manager.get_operations()
        assert (end.state, end.done) == ("completed", 40)
        assert sorted(engine.claim()) == ids

    async def test_a_step_that_cannot_be_done_fails_the_operation_and_says_why(
        self, service: QueueService, engine: Engine
    ) -> None:
        failed(engine, 2)
        engine.run("alter table pgqueue.tasks add constraint nothing_more check (false) not valid")
        manager = RetryManager(service.db)
        with pytest.raises(PgqueueError, match="nothing_more"):
            await manager.retry_tasks(EVERYTHING)
        [operation] = await manager.get_operations()
        assert operation.state == "failed"
        assert "nothing_more" in (operation.error or "")

    async def test_cancelling_one(self, service: QueueService, engine: Engine) -> None:
        failed(engine, 2)
        operation_id = engine.value("select pgqueue.start_operation('retry', '{\"all\": true}')")
        manager = RetryManager(service.db)
        assert await manager.cancel_operation(operation_id) == "cancelled"
        assert (await manager.get_operation(operation_id)).finished_at is not None
        with pytest.raises(InvalidInput, match="no operation 99"):
            await manager.get_operation(99)

    @pytest.mark.parametrize(
        "wanted",
        [
            OperationFilter(),
            OperationFilter(queue_name=5),  # type: ignore[arg-type]
            OperationFilter(created_from=datetime(2030, 1, 1)),  # noqa: DTZ001 - that is what is wrong with it
            OperationFilter(status="running"),
            {"queue_name": "default"},
            None,
        ],
    )
    async def test_nonsense_is_refused(self, service: QueueService, wanted: Any) -> None:  # noqa: ANN401 - any value
        manager = RetryManager(service.db)
        for dry_run in (True, False):
            with pytest.raises(InvalidInput):
                await manager.retry_tasks(wanted, dry_run=dry_run)
        assert await manager.get_operations() == []

    async def test_times_filter(self, service: QueueService, engine: Engine) -> None:
        failed(engine, 2)
        manager = RetryManager(service.db)
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        assert (await manager.delete_tasks(OperationFilter(finished_from=tomorrow), dry_run=True)).matched == 0
        assert (await manager.delete_tasks(OperationFilter(finished_to=tomorrow, error="BROKEN"))).done == 2
