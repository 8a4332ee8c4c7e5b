"""The small examples do what they say."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import Database, QueueService, TaskFilter
from tests.polling import until

if TYPE_CHECKING:
    import psycopg

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = Path(sys.executable).parent
MOST_S = 60


@pytest.fixture
def environment(dsn: str) -> dict[str, str]:
    """The environment of a user whose database is this test's."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
    return plain | {"PGQUEUE_DSN": dsn, "NO_COLOR": "1"}


def run(arguments: list[str | Path], environment: dict[str, str]) -> list[str]:
    """Run a command in the folder of the examples; return the lines it wrote."""
    done = subprocess.run(
        arguments, cwd=EXAMPLES, env=environment, capture_output=True, text=True, timeout=MOST_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_order_and_task_are_kept_or_lost_together(environment: dict[str, str], conn: psycopg.Connection[Any]) -> None:
    said = run([sys.executable, "outbox.py"], environment)

    assert said == [
        "Edsger: no tea is left; neither order nor task was kept",
        "Ada: your order 1 is on its way",
        "Grace: your order 2 is on its way",
    ]
    assert conn.execute("select array_agg(customer order by id) from shop_orders").fetchone() == (["Ada", "Grace"],)
    assert conn.execute("select count(*) from pgqueue.all_tasks").fetchone() == (2,)


def test_processes_count_are_killed_and_limited(environment: dict[str, str]) -> None:
    said = run([sys.executable, "cpu_in_processes.py"], environment)

    assert said[:2] == ["count_primes: completed: 5133", "count_primes: completed: 4459"]
    assert said[2].startswith("never_ends: failed: TimeoutError")
    assert said[3].startswith("wants_it_all: failed: MemoryError")


def test_hours_that_are_over_are_reported_on_once(environment: dict[str, str], conn: psycopg.Connection[Any]) -> None:
    said = run([sys.executable, "schedules.py"], environment)

    assert said[0].startswith("hourly_report: Every hour (UTC), next ")
    assert said[1].startswith("daily_summary: At 09:00, Monday through Friday (Europe/Berlin), next ")
    assert len(said) == 5
    assert all(re.fullmatch(r"hourly: \d\d:00 to \d\d:00 UTC", line) for line in said[2:])

    run([sys.executable, "schedules.py"], environment)
    most = conn.execute("select max(count) from (select count(*) from pgqueue.all_tasks group by metadata) each")
    assert most.fetchone() == (1,)


async def test_tasks_of_plain_sql_run(environment: dict[str, str], dsn: str) -> None:
    psql: list[str | Path] = [PROGRAMS / "pgqueue", "db", "psql", "--", "-v", "ON_ERROR_STOP=1", "-f", "plain_sql.sql"]
    await asyncio.to_thread(run, psql, environment)
    worker = await asyncio.create_subprocess_exec(
        PROGRAMS / "pgqueue-worker",
        "plain_sql:queue_service",
        cwd=EXAMPLES,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        async with Database(dsn) as db:
            service = QueueService(db)
            completed = TaskFilter(status="completed")

            async def all_ran() -> bool:
                return (await service.list_tasks(completed))[1] == 6

            await until(all_ran)
            tasks, _ = await service.list_tasks(completed)
    finally:
        worker.terminate()
        await asyncio.wait_for(worker.wait(), MOST_S)

    names = ["insert", "function", "row 1", "row 2", "row 3", "trigger"]
    assert sorted(task.result_value for task in tasks) == sorted(f"Hello, {name}!" for name in names)
