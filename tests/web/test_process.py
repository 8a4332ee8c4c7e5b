"""The program: its options, its refusals, and a database that goes away and comes back under load."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import httpx

from pgqueue import schema
from tests.polling import until
from tests.web.conftest import DEADLINE_S, PROGRAM, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    import psycopg

    from pgqueue.embedded import Server
    from tests.web.conftest import Running

    Run = Callable[..., Running]

WAIT = {"prefer": "wait=30"}
APP = """
import pgqueue

queue_service = pgqueue.QueueService(pgqueue.Database())


@queue_service.handler("double")
async def double(ctx: pgqueue.TaskContext, payload: int) -> int:
    return 2 * payload
"""


async def test_it_is_ready_once_it_serves_and_ends_in_order(run_api: Run) -> None:
    running = run_api()
    url = await running.url()
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (
            200,
            {"status": "ready", "database": "ok", "schema": "ok", "listener": "ok"},
        )
    running.terminate()
    assert await running.wait() == 0
    assert "serving http://127.0.0.1:" in running.log


async def test_a_taken_port_and_an_open_address_are_refused_with_what_to_do(run_api: Run) -> None:
    url = await run_api().url()
    port = url.rpartition(":")[2]
    second = run_api("--port", port)
    assert await second.wait() == 2
    assert f"cannot listen on 127.0.0.1, port {port}" in second.log
    public = run_api("--host", "0.0.0.0")  # noqa: S104 - refused
    assert await public.wait() == 2
    assert "pgqueue key create" in public.log


async def test_settings_come_from_the_environment_and_options_win(run_api: Run) -> None:
    running = run_api("--host", "127.0.0.1", PGQUEUE_API_HOST="::1", PGQUEUE_API_MAX_BODY="2000")
    async with httpx.AsyncClient(base_url=f"{await running.url()}/api/v1") as client:
        assert (await client.get("/info")).json()["limits"]["max_body_bytes"] == 2000
    other = run_api(PGQUEUE_API_HOST="::1")
    assert (await other.url()).startswith("http://[::1]:")
    wrong = run_api(PGQUEUE_API_PROT="8000")
    assert await wrong.wait() == 2
    assert "did you mean api_port" in wrong.log


async def test_without_the_schema_it_says_so_and_is_ready_once_it_is_there(run_api: Run, empty_dsn: str) -> None:
    running = run_api(on=empty_dsn)
    async with httpx.AsyncClient(base_url=await running.url()) as client:
        assert (await client.get("/healthz")).status_code == 200
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["schema"]) == (503, "run: pgqueue migrate")
        assert (await client.get("/api/v1/tasks")).json()["type"] == "urn:pgqueue:schema-mismatch"
        await asyncio.to_thread(schema.migrate, empty_dsn)
        assert (await client.get("/api/v1/tasks")).status_code == 200


class Load:
    """Clients that ask without pause, and what they were answered."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.statuses: list[int] = []
        self.answers: list[httpx.Response] = []
        self.is_over = False

    async def ask(self) -> None:
        while not self.is_over:
            for answer in (await self.client.post("/tasks", json={"task_type": "a"}), await self.client.get("/queues")):
                self.statuses.append(answer.status_code)
                if answer.status_code not in (200, 201):
                    self.answers.append(answer)

    def good(self) -> int:
        return sum(status < 300 for status in self.statuses)

    def bad(self) -> int:
        return len(self.statuses) - self.good()


async def test_a_database_that_goes_and_comes_back_costs_503s_and_no_restart(
    run_api: Run, new_server: Callable[..., Server]
) -> None:
    database = new_server(synchronous_commit="on")
    database.start()
    database.create_database("web")
    schema.migrate(database.dsn("web"))
    running = run_api(on=database.dsn("web"))
    async with httpx.AsyncClient(base_url=f"{await running.url()}/api/v1", timeout=DEADLINE_S) as client:
        task_id = (await client.post("/tasks", json={"task_type": "a"})).json()["task_id"]
        load = Load(client)
        async with stream(client, f"/tasks/{task_id}/progress") as events, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load.ask())
            await events.next()
            await until(lambda: load.good() > 20)
            await asyncio.to_thread(database.stop, "immediate")
            await until(lambda: load.bad() > 4)
            ready = await client.get(str(client.base_url.copy_with(path="/readyz")))
            assert (ready.status_code, ready.json()["database"]) == (503, "cannot be reached")
            assert (await client.get(str(client.base_url.copy_with(path="/healthz")))).status_code == 200
            await asyncio.to_thread(database.start)
            good = load.good()
            await until(lambda: load.good() > good + 20)
            load.is_over = True
            await client.delete(f"/tasks/{task_id}")
            told = await events.rest()
        assert told[-1][0] == "end", running.log
        await until(lambda: _is_ready(client))
    for answer in load.answers:
        assert answer.status_code == 503, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "2"
        assert "socket" not in answer.text
    running.terminate()
    assert await running.wait() == 0


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get(str(client.base_url.copy_with(path="/readyz")))).status_code == 200


async def test_a_second_signal_ends_it_at_once(run_api: Run) -> None:
    running = run_api()
    async with httpx.AsyncClient(base_url=f"{await running.url()}/api/v1", timeout=DEADLINE_S) as client:
        await client.post("/tasks", json={"task_type": "a"})
        before = time.monotonic()
        running.terminate()
        running.terminate()
        assert await running.wait() == 0
    assert time.monotonic() - before < DEADLINE_S


@contextlib.asynccontextmanager
async def up(dsn: str, folder: Path, **variables: str) -> AsyncIterator[httpx.AsyncClient]:
    """Run `pgqueue up` with APP; yield a client, and see it end in order."""
    (folder / "app.py").write_text(APP)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: ASYNC220 - it only starts it
            [PROGRAM.with_name("pgqueue"), "up", "app:queue_service", "--port", "0"],
            env=os.environ | {"PGQUEUE_DSN": dsn} | variables,
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        await until(lambda: "serving http://" in log.read_text())
        url = log.read_text().partition("serving ")[2].partition("/api/v1,")[0]
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=DEADLINE_S) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, DEADLINE_S) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()


async def test_up_serves_beside_the_worker_and_both_end_together(dsn: str, tmp_path: Path) -> None:
    async with up(dsn, tmp_path) as client:
        answer = await client.post("/tasks", json={"task_type": "double", "payload": 21}, headers=WAIT)
        assert answer.json()["status"] == "completed"
        assert (await client.get("/tasks/1/result")).json()["result"] == 42


async def test_up_gives_up_statements_of_requests_and_none_of_the_worker(
    dsn: str, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    async with up(dsn, tmp_path, PGQUEUE_API_TIMEOUT_S="0.3") as client:
        with conn.transaction():
            conn.execute("lock table pgqueue.audit_log")
            refused = await client.post("/tasks", json={"task_type": "double", "payload": 1})
            assert refused.json()["type"] == "urn:pgqueue:statement-timeout"
        assert (await client.get("/tasks")).json()["total"] == 0
        with conn.transaction():
            conn.execute("lock table pgqueue.finished_tasks")
            made = await client.post("/tasks", json={"task_type": "double", "payload": 21})
            assert (await client.get("/tasks")).status_code == 503
        done = await client.get(f"/tasks/{made.json()['task_id']}", headers=WAIT)
        assert (done.json()["status"], done.json()["attempt"]) == ("completed", 1)
