"""Nothing is done twice and no end is missed, whatever becomes of connections and servers."""

from __future__ import annotations

import asyncio
import itertools
import socket
from typing import TYPE_CHECKING

import pytest

from pgqueue import (
    ConfigurationError,
    Database,
    DatabaseUnavailable,
    Forbidden,
    PgqueueError,
    QueueService,
    RateLimited,
    Settings,
    TaskContext,
    TaskRequest,
    Unauthenticated,
)
from pgqueue.errors import ServerUnavailable
from pgqueue.http import Client, SyncClient
from pgqueue.services import AccessService
from tests.http.proxy import proxying
from tests.web.conftest import DEADLINE_S, working

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue_web import Server
    from tests.web.conftest import Running

REQUEST = TaskRequest(task_type="greet", payload={"name": "Ann"})


def first(fate: str, of: str, *, times: int = 1) -> Callable[[str], str]:
    """Decide so for the first requests that begin with `of`; let the others pass."""
    count = itertools.count()
    return lambda head: fate if head.startswith(of) and next(count) < times else "pass"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class TestOnce:
    async def test_a_submit_whose_answer_is_lost_is_repeated_and_makes_one_task(
        self, api: Server, db: Database
    ) -> None:
        async with (
            proxying(api.url, first("lose", "POST", times=2)) as proxy,
            Client(proxy.url) as client,
        ):
            task = await client.submit_task(REQUEST)
            batch = await client.submit_tasks([REQUEST, REQUEST])
        keys = [line for head in proxy.heads for line in head.split("\r\n") if line.lower().startswith("idempotency")]
        assert len(keys) == 4
        assert len(set(keys)) == 2
        (found, total) = await QueueService(db).list_tasks()
        assert total == 3
        assert {task.task_id, *(one.task_id for one in batch)} == {one.task_id for one in found}

    async def test_what_cannot_be_repeated_is_not(self, api: Server) -> None:
        async with proxying(api.url, first("lose", "POST /api/v1/tasks/1/retry")) as proxy, Client(proxy.url) as client:
            task = await client.submit_task(REQUEST)
            await task.cancel()
            with pytest.raises(ServerUnavailable):
                await task.retry()
            assert (await task.refresh()).status == "pending"
        assert len([head for head in proxy.heads if "/retry" in head]) == 1

    async def test_reads_are_repeated_a_few_times(self, api: Server) -> None:
        async with proxying(api.url, first("refuse", "GET", times=2)) as proxy, Client(proxy.url) as client:
            assert [queue.name for queue in await client.list_queues()] == ["default"]
        assert len(proxy.heads) == 3
        async with proxying(api.url, first("refuse", "GET", times=99)) as proxy, Client(proxy.url, retries=1) as client:
            with pytest.raises(ServerUnavailable, match="502 Bad Gateway"):
                await client.list_queues()
        assert len(proxy.heads) == 2


class TestServer:
    async def test_a_server_that_is_not_there_is_told(self) -> None:
        url = f"http://127.0.0.1:{free_port()}"
        async with Client(url, retries=1) as client:
            with pytest.raises(ServerUnavailable, match="no answer from the server") as raised:
                await client.submit_task(REQUEST)
        assert isinstance(raised.value, DatabaseUnavailable)

        def ask() -> None:
            with SyncClient(url, retries=0) as client, pytest.raises(ServerUnavailable):
                client.list_queues()

        await asyncio.to_thread(ask)

    async def test_who_waits_and_who_follows_outlive_a_restart(
        self, run_api: Callable[..., Running], service: QueueService
    ) -> None:
        port = str(free_port())
        server = run_api("--port", port)
        async with Client(await server.url()) as client:
            task = await client.submit_task(REQUEST)
            waiting = asyncio.create_task(task.result(str, timeout=DEADLINE_S))
            progress = task.progress()
            assert (await anext(progress)).status == "pending"
            server.process.kill()
            await server.wait()
            await service.drain()
            await run_api("--port", port).url()
            assert await waiting == "Hello, Ann!"
            assert [state.status async for state in progress] == ["completed"]

    async def test_a_database_that_is_away_is_told_as_the_server_tells_it(
        self, client: Client, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def gone(*_arguments: object, **_options: object) -> None:
            raise DatabaseUnavailable("gone")

        monkeypatch.setattr(db, "run", gone)
        client.retries = 0
        with pytest.raises(DatabaseUnavailable) as raised:
            await client.list_queues()
        assert type(raised.value) is DatabaseUnavailable

    async def test_an_answer_of_another_server_is_told(self, api: Server) -> None:
        async with Client(f"{api.url}/elsewhere", retries=0) as client:
            with pytest.raises(PgqueueError, match="Not Found"):
                await client.list_queues()


class TestStreams:
    @pytest.mark.parametrize("after", [60, 300, 460])
    async def test_a_stream_that_is_cut_is_taken_up_again(self, api: Server, service: QueueService, after: int) -> None:
        ready, go_on = asyncio.Event(), asyncio.Event()

        @service.handler("two_steps")
        async def two_steps(ctx: TaskContext) -> None:
            await ctx.update_progress(30, "first")
            ready.set()
            await go_on.wait()
            await ctx.update_progress(60, "second")

        cut = first(f"cut:{after}", "GET /api/v1/tasks/1/progress", times=2)
        async with proxying(api.url, cut) as proxy, Client(proxy.url) as client, working(service):
            task = await client.submit_task(TaskRequest(task_type="two_steps"))
            told = []
            async for progress in task.progress():
                told.append(progress)
                if progress.progress == 30:
                    go_on.set()
        assert ready.is_set()
        assert told[-1].status == "completed"
        assert len(told) == len(set(told))

    async def test_a_client_that_comes_back_says_where_it_was(self, api: Server, service: QueueService) -> None:
        decide = first("one event", "GET /api/v1/tasks/1/progress")
        async with proxying(api.url, decide) as proxy, Client(proxy.url) as client:
            task = await client.submit_task(REQUEST)
            told = task.progress()
            assert (await anext(told)).status == "pending"
            async with working(service):
                rest = [progress async for progress in told]
        assert rest[-1].status == "completed"
        assert any("Last-Event-ID: pending-0-" in head for head in proxy.heads)

    async def test_a_client_follows_as_many_tasks_as_it_likes(self, client: Client, service: QueueService) -> None:
        async def last(task_id: int) -> str:
            return [progress.status async for progress in client.follow_progress(task_id)][-1]

        tasks = await client.submit_tasks([REQUEST] * 120)
        following = [asyncio.create_task(last(task.task_id)) for task in tasks]
        async with working(service):
            assert await asyncio.gather(*following) == ["completed"] * 120

    async def test_where_no_stream_gets_through_it_is_polled(self, api: Server, service: QueueService) -> None:
        def decide(head: str) -> str:
            return "refuse" if "text/event-stream" in head else "pass"

        async with proxying(api.url, decide) as proxy, Client(proxy.url) as client, working(service):
            task = await client.submit_task(REQUEST)
            told = [progress async for progress in task.progress()]
        assert told[-1].status == "completed"


class TestKeys:
    async def test_the_key_is_that_of_the_argument_or_the_settings(
        self, api: Server, db: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        access = AccessService(db)
        reader = await access.create_api_key("reader", ["read"])
        async with Client(api.url, reader.key) as client:
            assert len(await client.list_queues()) == 1
            with pytest.raises(Forbidden):
                await client.submit_task(REQUEST)
        async with Client(api.url) as client:
            with pytest.raises(Unauthenticated):
                await client.list_queues()
            with pytest.raises(Unauthenticated):
                await anext(client.follow_progress(1))
        monkeypatch.setenv("PGQUEUE_API_URL", api.url)
        monkeypatch.setenv("PGQUEUE_API_KEY", reader.key)
        async with Client() as client:
            assert len(await client.list_queues()) == 1

    async def test_a_rate_limit_says_how_long_to_wait(self, api: Server, db: Database) -> None:
        made = await AccessService(db).create_api_key("slow", ["read"], rate_limit=1)
        async with Client(api.url, made.key, retries=0) as client:
            await client.list_queues()
            with pytest.raises(RateLimited) as raised:
                await client.list_queues()
        assert 0 < int(str(raised.value.detail["retry_after"])) <= 60

    @pytest.mark.parametrize("url", [None, "localhost:8000", "ftp://x", "http://", "http://[::"])
    def test_a_url_that_cannot_be_right_is_refused(self, url: str | None) -> None:
        with pytest.raises(ConfigurationError):
            SyncClient(url, settings=Settings())

    @pytest.mark.parametrize("key", ["a b", "pgq_\n", "schlüssel"])
    def test_a_key_that_cannot_be_right_is_refused_and_not_shown(self, key: str) -> None:
        with pytest.raises(ConfigurationError) as raised:
            SyncClient("http://localhost", key)
        assert key not in str(raised.value)

    def test_a_path_before_the_interface_is_kept(self) -> None:
        with SyncClient("https://host/queue/api/v1/") as client:
            assert client.url == "https://host/queue"
