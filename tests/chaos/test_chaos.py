"""Nothing lost, nothing doubled.

Workers are killed and stopped, connections cut, the server crashed, and the history holds.
PGQUEUE_TEST_SEED repeats a run's choices; --long makes it longer.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg

from pgqueue import schema
from tests.chaos.history import Execution, Finished, History, violations

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.embedded import Server

SHORT, LONG = 20_000, 100_000
BATCH = 250
PAUSE_S = 0.2
HARMS = 15
LEASE_S = 3.0
WORKERS = 4
KINDS = [*["quick"] * 14, *["waiting"] * 2, "flaky", "hopeless", "threaded", "threaded"]
SETTLE_S = 100.0


class Fleet:
    """Worker processes that are replaced when they die."""

    def __init__(self, dsn: str, folder: Path) -> None:
        self.environment = os.environ | {
            "PGQUEUE_DSN": dsn,
            "PGQUEUE_LEASE_S": str(LEASE_S),
            "PGQUEUE_HEARTBEAT_S": "0.5",
            "PGQUEUE_POLL_S": "0.5",
            "PGQUEUE_TEST_WITNESS": str(folder / "witness"),
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        self.log = (folder / "workers.log").open("ab")
        self.processes = [self.start() for _ in range(WORKERS)]

    def start(self) -> subprocess.Popen[bytes]:
        worker = Path(sys.executable).with_name("pgqueue-worker")
        command = [str(worker), "chaos.app:queue_service", "--queue", "default=50", "--queue", "slow=10"]
        return subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log)

    def kill_one(self, chance: random.Random) -> str:
        place = chance.randrange(WORKERS)
        self.processes[place].kill()
        self.processes[place].wait()
        self.processes[place] = self.start()
        return f"killed worker {place}"

    def stop_one(self, chance: random.Random) -> str:
        """Let one sleep past its lease and wake up among those that took over."""
        process = chance.choice(self.processes)
        process.send_signal(signal.SIGSTOP)
        threading.Event().wait(LEASE_S * chance.uniform(1.1, 1.8))
        process.send_signal(signal.SIGCONT)
        return f"stopped worker {process.pid} past its lease"

    def revive(self) -> None:
        """Start those again that ended by themselves, as a supervisor would: a start needs the database."""
        for place, process in enumerate(self.processes):
            if process.poll() is not None:
                self.processes[place] = self.start()

    def end(self) -> list[int]:
        """SIGTERM all; return their exit statuses."""
        for process in self.processes:
            process.terminate()
        self.log.close()
        return [process.wait(timeout=60) for process in self.processes]


def cut_connections(dsn: str, chance: random.Random) -> str:
    with psycopg.connect(dsn, autocommit=True) as conn:
        pids = [
            row[0]
            for row in conn.execute(
                "select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            )
        ]
        chosen = chance.sample(pids, min(len(pids), 5))
        conn.execute("select pg_terminate_backend(pid) from unnest(%s::int[]) as t (pid)", (chosen,))
    return f"cut {len(chosen)} connections"


def batch(first: int, count: int) -> str:
    """Tasks of mixed kinds as submit_many takes them; `n` tells them apart."""
    made = []
    for n in range(first, first + count):
        kind = "slow" if n % 400 == 0 else KINDS[n % len(KINDS)]
        made.append(
            {
                "task_type": kind,
                "queue_name": "slow" if kind == "slow" else "default",
                "payload": {"n": n},
                "max_retries": 1 if kind == "hopeless" else 5,
                "priority": 10 if n % 10 == 0 else 5,
            }
        )
    return json.dumps(made)


def produce(dsn: str, total: int) -> set[int]:
    """Submit everything once. A transaction whose outcome is unknown is looked up before it is repeated."""
    submitted: set[int] = set()
    for first in range(0, total, BATCH):
        while True:
            time.sleep(PAUSE_S)
            with contextlib.suppress(psycopg.OperationalError):
                submitted.update(submit(dsn, first))
                break
    return submitted


def submit(dsn: str, first: int) -> list[int]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        with conn.transaction(force_rollback=True):
            conn.execute("select count(*) from pgqueue.submit_many(%s)", (batch(first + 10**6, 10),))
        known = conn.execute(
            "select id from pgqueue.all_tasks where (payload ->> 'n')::int between %s and %s",
            (first, first + BATCH - 1),
        ).fetchall()
        rows = known or conn.execute("select task_id from pgqueue.submit_many(%s)", (batch(first, BATCH),)).fetchall()
    return [row[0] for row in rows]


def is_settled(dsn: str, fleet: Fleet) -> bool:
    """Whether no task is live and all workers are up."""
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(dsn, autocommit=True) as conn:
        live = conn.execute("select count(*) from pgqueue.tasks").fetchone()
        up = {row[0] for row in conn.execute("select pid from pgqueue.worker_overview where state = 'alive'")}
        return live == (0,) and all(process.pid in up for process in fleet.processes)
    return False


def read_history(dsn: str, submitted: set[int], witness: Path) -> History:
    with psycopg.connect(dsn, autocommit=True) as conn:

        def rows(sql: LiteralString) -> list[Any]:
            return conn.execute(sql).fetchall()

        history = History(
            submitted=submitted,
            live={row[0] for row in rows("select id from pgqueue.tasks")},
            finished=[
                Finished(*row)
                for row in rows("select id, status, attempt, failures, crashes from pgqueue.finished_tasks")
            ],
            executions=[
                Execution(*row)
                for row in rows(
                    "select task_id, attempt, worker_id, outcome, started_at, finished_at from pgqueue.executions"
                )
            ],
        )
    for line in witness.read_text().splitlines():
        what, task_id, attempt = line.split()
        (history.starts if what == "start" else history.ends).append((int(task_id), int(attempt)))
    return history


def harm(server: Server, fleet: Fleet, dsn: str, chance: random.Random) -> str:
    """Do one bad thing."""
    kind = chance.choices(["kill", "stop", "cut", "crash"], weights=[4, 3, 4, 2])[0]
    if kind == "kill":
        return fleet.kill_one(chance)
    if kind == "stop":
        return fleet.stop_one(chance)
    if kind == "cut":
        return cut_connections(dsn, chance)
    server.restart("immediate")
    return "crashed the server"


def test_nothing_is_lost_and_nothing_is_doubled(
    new_server: Callable[..., Server], tmp_path: Path, *, long: bool
) -> None:
    seed = int(os.environ.get("PGQUEUE_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    chance = random.Random(seed)  # noqa: S311 - a run that can be repeated
    server = new_server(fsync=True, synchronous_commit=True, full_page_writes=True)
    server.start()
    server.create_database("chaos")
    dsn = server.dsn("chaos")
    schema.migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        for queue in ("default", "slow"):
            conn.execute("select pgqueue.create_queue(%s, p_max_crashes => 100)", (queue,))
    fleet = Fleet(dsn, tmp_path)
    submitted: set[int] = set()
    producer = threading.Thread(target=lambda: submitted.update(produce(dsn, LONG if long else SHORT)))
    producer.start()
    done = []
    try:
        for _ in range(HARMS * 10 if long else HARMS):
            time.sleep(chance.uniform(0.3, 1.5))
            done.append(harm(server, fleet, dsn, chance))
            fleet.revive()
        producer.join()
        deadline = time.monotonic() + SETTLE_S
        while not is_settled(dsn, fleet) and time.monotonic() < deadline:
            fleet.revive()
            time.sleep(0.2)
    finally:
        statuses = fleet.end()
    problems = violations(read_history(dsn, submitted, tmp_path / "witness"))
    report = f"seed {seed}: {len(problems)} violations\n" + "\n".join([*problems[:20], *done])
    assert problems == [], report + (tmp_path / "workers.log").read_text()[-5000:]
    assert statuses == [0] * WORKERS, report + (tmp_path / "workers.log").read_text()[-5000:]
    assert len(submitted) == (LONG if long else SHORT)
