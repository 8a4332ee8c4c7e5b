"""Worker processes end in order: they drain, release what is left at no cost, and fence themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgqueue import schema
from tests.polling import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pgqueue.embedded import Server

DEADLINE_S = 30.0
Start = "Callable[..., subprocess.Popen[bytes]]"


def wait_until(condition: Callable[[], bool], what: str) -> None:
    poll(condition, what=what, deadline_s=DEADLINE_S)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    path = tmp_path / "witness"
    path.touch()
    return path


@pytest.fixture
def start(witness: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a worker process on a database; it is killed at the end if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(dsn: str, **settings: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PGQUEUE_DSN": dsn,
            "PGQUEUE_TEST_WITNESS": str(witness),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **{f"PGQUEUE_{name.upper()}": value for name, value in settings.items()},
        }
        program = Path(sys.executable).with_name("pgqueue-worker")
        started.append(subprocess.Popen([program, "worker.stopping_app:queue_service"], env=environment))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def submit(conn: psycopg.Connection[Any], *types: str) -> None:
    for task_type in types:
        conn.execute("select pgqueue.submit(%s)", (task_type,))


def said(witness: Path, *words: str) -> Callable[[], bool]:
    return lambda: all(any(line.startswith(word) for line in witness.read_text().splitlines()) for word in words)


def test_sigterm_drains(
    dsn: str, conn: psycopg.Connection[Any], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = start(dsn)
    submit(conn, "short")
    wait_until(said(witness, "short started"), "the task starts")
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0
    assert conn.execute("select status, attempt from pgqueue.finished_tasks").fetchall() == [("completed", 1)]
    assert conn.execute("select count(*) from pgqueue.workers").fetchone() == (0,)


def test_what_outlasts_the_grace_period_is_released_and_costs_no_retry(
    dsn: str, conn: psycopg.Connection[Any], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = start(dsn, grace_s="0.2")
    submit(conn, "endless", "thread", "cpu")
    wait_until(said(witness, "endless started", "thread started", "cpu started"), "the tasks start")
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0
    assert said(witness, "endless cancelled", "thread stopped")()
    rows = conn.execute("select status, attempt, failures, crashes from pgqueue.tasks").fetchall()
    assert rows == [("pending", 1, 0, 0)] * 3
    assert conn.execute("select distinct outcome from pgqueue.executions").fetchall() == [("released",)]


def test_a_second_signal_cancels_at_once(
    dsn: str, conn: psycopg.Connection[Any], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = start(dsn, grace_s="3600")
    submit(conn, "endless")
    wait_until(said(witness, "endless started"), "the task starts")
    worker.terminate()
    wait_until(lambda: stopping(conn), "the worker says that it stops")
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0
    assert said(witness, "endless cancelled")()
    assert conn.execute("select status, failures from pgqueue.tasks").fetchall() == [("pending", 0)]


def stopping(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("select status ->> 'stopping' from pgqueue.workers").fetchone()
    return row == ("true",)


def test_a_thread_that_does_not_end_does_not_keep_the_process(
    dsn: str, conn: psycopg.Connection[Any], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = start(dsn, grace_s="0.1")
    submit(conn, "deaf")
    wait_until(said(witness, "deaf started"), "the task starts")
    worker.terminate()
    assert worker.wait(DEADLINE_S) == 0
    assert conn.execute("select status, attempt, failures from pgqueue.tasks").fetchall() == [("pending", 1, 0)]


def test_a_process_for_cpu_work_dies_with_its_worker(
    dsn: str, conn: psycopg.Connection[Any], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    worker = start(dsn)
    submit(conn, "cpu")
    wait_until(said(witness, "cpu started"), "the task starts")
    pid = int(witness.read_text().split()[-1])
    worker.kill()
    wait_until(lambda: not alive(pid), "the process dies")


def alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_worker_that_cannot_renew_its_lease_stops_its_handlers_and_lives_on(
    new_server: Callable[..., Server], witness: Path, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    server = new_server(fsync=True, synchronous_commit=True, full_page_writes=True)
    server.start()
    server.create_database("fenced")
    dsn = server.dsn("fenced")
    schema.migrate(dsn)
    worker = start(dsn, lease_s="1.5", heartbeat_s="0.3")
    with psycopg.connect(dsn, autocommit=True) as conn:
        submit(conn, "endless", "thread")
    wait_until(said(witness, "endless started", "thread started"), "the tasks start")
    server.stop("immediate")
    wait_until(
        said(witness, "endless cancelled", "thread stopped"), "the handlers are stopped while the server is away"
    )
    server.start()
    with psycopg.connect(dsn, autocommit=True) as conn:
        wait_until(lambda: witness.read_text().count("endless started") == 2, "the task runs again")
        assert ("lost",) in conn.execute("select outcome from pgqueue.executions").fetchall()
        assert conn.execute("select count(*) from pgqueue.tasks where attempt = 2").fetchone() == (2,)
    worker.send_signal(signal.SIGTERM)
    worker.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("pooler", ["false", "true"], ids=["notified", "by heartbeat"])
def test_an_operator_stops_a_worker(
    dsn: str,
    conn: psycopg.Connection[Any],
    witness: Path,
    start: Callable[..., subprocess.Popen[bytes]],
    pooler: str,
) -> None:
    worker = start(dsn, pooler=pooler, heartbeat_s="0.2")
    submit(conn, "short")
    wait_until(said(witness, "short started"), "the task starts")
    conn.execute("select pgqueue.request_stop(id) from pgqueue.workers")
    assert worker.wait(DEADLINE_S) == 0
    assert conn.execute("select status from pgqueue.finished_tasks").fetchall() == [("completed",)]
    assert conn.execute("select count(*) from pgqueue.workers").fetchone() == (0,)
