"""Server-sent events: what is told, what is told again, and to how many."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from pgqueue import schema
from pgqueue_web import feed as feed_module
from tests.polling import until
from tests.web.conftest import DEADLINE_S, stream, working

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest

    from pgqueue import QueueService
    from pgqueue.embedded import Server as PostgreSQL
    from pgqueue_web import Server
    from tests.web.conftest import Running

TASK = {"task_type": "a"}
CLIENTS = 1000
STOP_S = 3.0
"""How long a stop may take, as docs/rest.md says."""
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"


async def submit(web: httpx.AsyncClient) -> int:
    task_id: int = (await web.post("/tasks", json=TASK)).json()["task_id"]
    return task_id


async def test_each_change_of_progress_is_told_and_the_end_is_the_last(
    web: httpx.AsyncClient, service: QueueService
) -> None:
    go_on = asyncio.Event()

    @service.handler("a")
    async def run(ctx: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401 - a context
        await ctx.update_progress(30, "on the way")
        await go_on.wait()

    task_id = await submit(web)
    async with stream(web, f"/tasks/{task_id}/progress") as events:
        event, first, _ = await events.next()
        assert (event, first["status"]) == ("progress", "pending")
        async with working(service):
            while first["progress"] != 30:
                _, first, _ = await events.next()
            assert first["message"] == "on the way"
            go_on.set()
            told = await events.rest()
    assert [event for event, _, _ in told] == [*["progress"] * (len(told) - 1), "end"]
    assert told[-2][1]["status"] == "completed"


async def test_who_comes_back_to_progress_is_not_told_the_same_again(web: httpx.AsyncClient) -> None:
    task_id = await submit(web)
    async with stream(web, f"/tasks/{task_id}/progress") as events:
        _, _, seen = await events.next()
    assert seen is not None
    async with stream(web, f"/tasks/{task_id}/progress", **{"last-event-id": seen}) as events:
        await web.delete(f"/tasks/{task_id}")
        told = await events.rest()
    assert [event for event, _, _ in told] == ["progress", "end"]
    last = told[0][2]
    assert last is not None
    headers = {"accept": "text/event-stream", "last-event-id": last}
    assert (await web.get(f"/tasks/{task_id}/progress", headers=headers)).status_code == 204
    assert (await web.get("/tasks/77/progress", headers=headers)).status_code == 404


async def test_events_tell_what_happens_to_all_tasks_and_go_on_where_one_left(web: httpx.AsyncClient) -> None:
    first, second, third = [await submit(web) for _ in range(3)]
    async with stream(web, "/events") as events:
        await web.delete(f"/tasks/{first}")
        event, told, seen = await events.next()
        assert (event, told["task_id"], told["status"]) == ("status", first, "cancelled")
    assert seen is not None
    await web.delete(f"/tasks/{second}")
    await web.delete(f"/tasks/{third}")
    async with stream(web, "/events", **{"last-event-id": seen}) as events:
        assert [(await events.next())[1]["task_id"] for _ in range(2)] == [second, third]
    async with stream(web, "/events?kind=progress", **{"last-event-id": seen}) as events:
        await web.post(f"/tasks/{third}/retry")
    for stranger in ("0-7", "deadbeef-3", "x", f"{seen.partition('-')[0]}-999999", "-1"):
        async with stream(web, "/events", **{"last-event-id": stranger}) as events:
            if stranger.endswith("999999"):
                continue
            assert (await events.next())[0] == "reset"


async def test_one_who_falls_behind_is_told_to_read_anew_and_memory_is_bounded(
    web: httpx.AsyncClient, api: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await web.send(web.build_request("GET", "/queues"))).aread()
    feed = feed_module.Feed(api.context.db, api.context.hub)
    for number in range(feed_module.KEPT + 100):
        feed._add(None if number % 2 else feed_event(number))
    assert len(feed._ring) == feed_module.KEPT
    assert [item.event for item in feed.since(10)] == [None]
    assert feed.since(feed.last) == []
    assert [item.number for item in feed.since(feed.last - 3)] == [feed.last - 2, feed.last - 1, feed.last]


def feed_event(number: int) -> Any:  # noqa: ANN401 - an event
    from pgqueue.models import Event  # noqa: PLC0415 - for this alone

    return Event("status", number, "default", "a", "completed")


async def test_events_end_after_so_many_or_so_long_as_was_asked(web: httpx.AsyncClient) -> None:
    first, second, third = [await submit(web) for _ in range(3)]
    async with stream(web, "/events?wait=0") as events:
        assert await events.rest() == []
    async with stream(web, "/events?limit=2&kind=status") as events:
        for task_id in (first, second, third):
            await web.delete(f"/tasks/{task_id}")
        told = await events.rest()
    assert [data["task_id"] for _, data, _ in told] == [first, second]
    headers = {"last-event-id": str(told[0][2])}
    await until(lambda: tells(web, "/events?wait=0", headers, [second, third]))
    async with stream(web, "/events?wait=1", **headers) as events:
        assert [data["task_id"] for _, data, _ in await events.rest()] == [second, third]
    for query in ("limit=0", "limit=x", "wait=-1", "wait=86401", "wait=0.5"):
        assert (await web.get(f"/events?{query}")).status_code == 422, query


async def tells(web: httpx.AsyncClient, path: str, headers: dict[str, str], task_ids: list[int]) -> bool:
    async with stream(web, path, **headers) as events:
        return [data["task_id"] for _, data, _ in await events.rest()] == task_ids


FLOOD = """
select count(pg_notify('pgqueue_events', (
    select jsonb_agg(jsonb_build_object(
        'kind', 'status', 'task_id', g * 30 + i, 'queue_name', 'default', 'task_type', 'a', 'status', 'completed'
    ))
    from generate_series(1, 30) i
)::text))
from generate_series(1, 100) g
"""


async def test_a_reader_that_is_too_slow_is_told_so_and_goes_on(
    web: httpx.AsyncClient, api: Server, aconn: psycopg.AsyncConnection[Any]
) -> None:
    """It takes nothing while 90,000 events happen: 20 MB, of which the server keeps the last 4,096 events."""
    last = await submit(web)
    host, _, port = api.url.rpartition("/")[2].rpartition(":")
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((host, int(port)))
    reader, writer = await asyncio.open_connection(sock=slow, limit=4096)
    writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await reader.readuntil(b"\n\n")
    feed = api.context.feed
    for number in range(1, 31):
        await aconn.execute(FLOOD)
        await until(lambda number=number: feed.last >= 3000 * number)  # type: ignore[misc]
    assert len(feed._ring) == feed_module.KEPT
    told = b""
    async with asyncio.timeout(DEADLINE_S):
        while b"event: reset\n" not in told:
            told += await reader.read(65536)
        await web.delete(f"/tasks/{last}")
        while f'"task_id":{last},"queue_name"'.encode() not in told:
            told += await reader.read(65536)
    assert len(told) < 10_000_000
    writer.close()


async def test_a_lost_listener_leads_to_a_reset(web: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    async with stream(web, "/events") as events:
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and query ilike 'listen%'"
        )
        assert (await events.next())[0] == "reset"
        await web.delete(f"/tasks/{await submit(web)}")
        event = "reset"
        while event == "reset":
            event, _, _ = await events.next()
        assert event == "status"


async def test_nobody_follows_when_nobody_reads(
    web: httpx.AsyncClient, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "LINGER_S", 0.5)
    monkeypatch.setattr(feed_module, "LOOK_S", 0.01)
    async with stream(web, "/events"):
        assert conn.execute("select scope from pgqueue.listeners").fetchall() == [("all",)]
    await until(lambda: conn.execute("select count(*) from pgqueue.listeners").fetchone() == (0,))
    async with stream(web, "/events") as events:
        await web.delete(f"/tasks/{await submit(web)}")
        assert (await events.next())[0] == "status"


class Follower:
    """One of very many clients: a bare socket."""

    def __init__(self, task_id: int) -> None:
        self.task_id = task_id
        self.told = b""

    async def open(self, host: str, port: int, key: str) -> None:
        self.reader, self.writer = await asyncio.open_connection(host, port)
        head = f"GET /api/v1/tasks/{self.task_id}/progress HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
        self.writer.write(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
        self.told = await self.reader.readuntil(b"\n\n")

    async def read(self) -> None:
        while chunk := await self.reader.read(65536):
            self.told += chunk
            if b"0\r\n\r\n" in chunk:
                break
        self.writer.close()


async def test_a_thousand_streams_see_the_end_of_their_tasks(
    run_api: Callable[..., Running], service: QueueService, conn: psycopg.Connection[Any]
) -> None:
    from pgqueue.services import AccessService  # noqa: PLC0415 - for this alone

    key = (await AccessService(service.db).create_api_key("many", ["read"])).key
    running = run_api()
    host, _, port = (await running.url()).rpartition("/")[2].rpartition(":")

    @service.handler("a")
    async def run(ctx: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401 - a context
        await ctx.update_progress(50, "half")

    conn.execute("select pgqueue.submit('a') from generate_series(1, %s)", (CLIENTS,))
    before = running.memory_mb
    followers = [Follower(number) for number in range(1, CLIENTS + 1)]
    async with asyncio.timeout(120):
        for start in range(0, CLIENTS, 50):
            await asyncio.gather(*(one.open(host, int(port), key) for one in followers[start : start + 50]))
        reading = [asyncio.create_task(one.read()) for one in followers]
        opened = running.memory_mb
        async with working(service):
            await asyncio.gather(*reading)
    for one in followers:
        assert one.told.startswith(b"HTTP/1.1 200 OK")
        assert b'"status":"completed"' in one.told
        assert (
            b"event: end\ndata: "
            + json.dumps({"task_id": one.task_id, "status": "completed"}, separators=(",", ":")).encode()
            in one.told
        )
    assert opened - before < 150
    assert running.memory_mb - opened < 100
    running.terminate()
    assert await running.wait() == 0
    await until(lambda: conn.execute("select count(*) from pgqueue.listeners").fetchone() == (0,))


async def test_a_stop_ends_open_streams_and_waiting_requests_within_seconds(
    run_api: Callable[..., Running],
) -> None:
    running = run_api()
    async with httpx.AsyncClient(base_url=f"{await running.url()}/api/v1", timeout=30) as client:
        task_id = await submit(client)
        waiting = asyncio.create_task(client.get(f"/tasks/{task_id}", headers={"prefer": "wait=60"}))
        async with stream(client, f"/tasks/{task_id}/progress") as one, stream(client, "/events") as other:
            await one.next()
            running.terminate()
            assert await asyncio.to_thread(running.process.wait, STOP_S) == 0
            assert await one.rest() == []
            assert await other.rest() == []
        assert (await waiting).json()["status"] == "pending"
    assert "cut off" not in running.log
    assert "Traceback" not in running.log


async def test_a_stop_waits_no_longer_where_the_database_does_not_answer(
    run_api: Callable[..., Running], new_server: Callable[..., PostgreSQL]
) -> None:
    database = new_server()
    database.start()
    database.create_database("web")
    schema.migrate(database.dsn("web"))
    running = run_api(on=database.dsn("web"))
    async with httpx.AsyncClient(base_url=f"{await running.url()}/api/v1", timeout=DEADLINE_S) as client:
        await submit(client)
        with psycopg.connect(database.dsn("web")) as conn:
            conn.execute("lock table pgqueue.queues")
            asking = asyncio.create_task(client.get("/queues"))
            await until(lambda: conn.execute(WAITING).fetchone() == (1,))
            with frozen(database, conn):
                running.terminate()
                assert await asyncio.to_thread(running.process.wait, STOP_S) == 0
        with contextlib.suppress(httpx.HTTPError):
            await asking
    assert "cut off" in running.log
    assert "Traceback" not in running.log


@contextlib.contextmanager
def frozen(database: PostgreSQL, conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Stop all processes of a server within the block: it takes connections, and answers nothing."""
    pid = database.status().pid
    assert pid is not None
    pids = [pid, *(row[0] for row in conn.execute("select pid from pg_stat_activity"))]
    for one in pids:
        os.kill(one, signal.SIGSTOP)
    try:
        yield
    finally:
        for one in pids:
            os.kill(one, signal.SIGCONT)
