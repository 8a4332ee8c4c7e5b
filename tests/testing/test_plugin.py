"""The plugin gives each test a database of its own, and costs nothing where it is not used."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    import pytest

    from pgqueue.embedded import Server

TWO_TESTS = """
import pgqueue

async def submit(db):
    service = pgqueue.QueueService(db)
    await service.submit_task(pgqueue.TaskRequest(task_type="mail"))
    return (await service.list_tasks())[1]

async def test_one(pgqueue_db):
    assert await submit(pgqueue_db) == 1

async def test_two(pgqueue_db, pgqueue_dsn):
    assert pgqueue_db.dsn == pgqueue_dsn
    async with pgqueue_db:
        assert await submit(pgqueue_db) == 1
"""
SYNC_TEST = """
import pgqueue.sync

def test_blocking(pgqueue_dsn):
    with pgqueue.sync.Database(pgqueue_dsn) as db:
        service = pgqueue.sync.QueueService(db)
        task = service.submit_task(pgqueue.TaskRequest(task_type="mail"))
        assert service.get_task(task.task_id).status == "pending"

def test_unused(pgqueue_db):
    assert not pgqueue_db.is_open
"""
APPLICATION = """
import pgqueue

queue_service = pgqueue.QueueService(pgqueue.Database("dbname=production"))

@queue_service.handler("double")
async def double(ctx: pgqueue.TaskContext, payload: dict) -> int:
    return 2 * payload["number"]
"""
APPLICATION_TEST = """
import shop
from pgqueue.testing import assert_submitted, drain

async def test_doubling(pgqueue_db, monkeypatch):
    monkeypatch.setattr(shop.queue_service, "db", pgqueue_db)
    task = await shop.double.submit({"number": 21})
    assert_submitted(pgqueue_db, "double", {"number": 21})
    await drain(shop.queue_service)
    assert await task.result(int) == 42
"""


def test_loading_the_plugin_imports_neither_psycopg_nor_msgspec() -> None:
    code = "import sys, pgqueue.testing.plugin; print(*{'psycopg', 'msgspec', 'structlog'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def databases(server: Server) -> set[str]:
    with psycopg.connect(server.dsn()) as conn:
        return {name for (name,) in conn.execute("select datname from pg_database")}


def test_each_test_has_a_database_of_its_own_and_none_stays(project: pytest.Pytester, server: Server) -> None:
    before = databases(server)
    project.makepyfile(test_two=TWO_TESTS, test_blocking=SYNC_TEST, shop=APPLICATION, test_shop=APPLICATION_TEST)
    project.runpytest_subprocess().assert_outcomes(passed=5)
    assert databases(server) == before


def test_without_a_server_it_starts_one_and_without_asyncio_it_works(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGQUEUE_TEST_DSN")
    project.makeini("[pytest]\nfilterwarnings = error\n")
    project.makepyfile(SYNC_TEST)
    project.runpytest_subprocess("-p", "no:asyncio").assert_outcomes(passed=2)
