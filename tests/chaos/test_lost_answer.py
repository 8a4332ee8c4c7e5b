"""The lost answer: the connection is cut just after a claim's commit, or a finish's.

The worker never hears of it. No task stays running with nobody, and none runs twice at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

import pgqueue
from pgqueue.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TASKS = 40
DEADLINE_S = 30.0


class CuttingProxy:
    """Passes bytes between clients and the server's socket until it is told to cut after a statement.

    Once armed, the first client that sends `needle` is cut as soon as the server's answer to that message has
    arrived here: what was asked for has been committed, and nobody hears of it.
    """

    def __init__(self, socket_path: str, listen_path: str) -> None:
        self.needle: bytes | None = None
        self.cuts = 0
        self._target = socket_path
        self._path = listen_path
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for client in self._clients:
            client.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        upstream_reader, upstream_writer = await asyncio.open_unix_connection(self._target)
        armed = asyncio.Event()
        there = asyncio.create_task(self._forward(reader, upstream_writer, armed))
        back = asyncio.create_task(self._return(upstream_reader, writer, armed))
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
        for part in (there, back):
            part.cancel()
        await asyncio.gather(there, back, return_exceptions=True)
        for end in (writer, upstream_writer):
            end.close()
        self._clients.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event) -> None:
        while data := await reader.read(65536):
            if self.needle is not None and self.needle in data:
                self.needle = None
                armed.set()
            writer.write(data)
            await writer.drain()

    async def _return(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, armed: asyncio.Event) -> None:
        """Pass answers on; once armed, swallow them up to ReadyForQuery, which follows a commit, and cut."""
        while data := await reader.read(65536):
            if armed.is_set():
                while data[-6:-1] != b"Z\x00\x00\x00\x05":
                    data += await reader.read(65536)
                self.cuts += 1
                return
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def proxied(dsn: str, folder: str) -> AsyncIterator[tuple[CuttingProxy, str]]:
    parts = psycopg.conninfo.conninfo_to_dict(dsn)
    port = parts.get("port") or 5432
    proxy = CuttingProxy(f"{parts['host']}/.s.PGSQL.{port}", f"{folder}/.s.PGSQL.{port}")
    await proxy.start()
    try:
        yield proxy, psycopg.conninfo.make_conninfo(dsn, host=folder)
    finally:
        await proxy.stop()


async def until_all_have_ended(conn: psycopg.AsyncConnection[Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            cursor = await conn.execute("select count(*) from pgqueue.tasks")
            if (await cursor.fetchone()) == (0,):
                return
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("needle", [b"pgqueue.claim(", b"pgqueue.finish("])
@pytest.mark.parametrize("slots", [5, 200])
async def test_a_lost_answer_loses_no_task_and_doubles_none(
    dsn: str, aconn: psycopg.AsyncConnection[Any], home: object, needle: bytes, slots: int
) -> None:
    starts: Counter[tuple[int, int]] = Counter()
    running: Counter[int] = Counter()
    settings = Settings(lease_s=3, heartbeat_s=0.3, poll_s=0.2, pooler=True)
    async with proxied(dsn, str(home)) as (proxy, proxied_dsn):
        database = pgqueue.Database(proxied_dsn, settings=settings)
        service = pgqueue.QueueService(database)

        @service.handler("work")
        async def work(ctx: pgqueue.TaskContext, _payload: dict[str, int]) -> None:
            starts[ctx.task_id, ctx.attempt] += 1
            running[ctx.task_id] += 1
            assert running[ctx.task_id] == 1, "two attempts of one task run at once"
            await asyncio.sleep(0.01)
            running[ctx.task_id] -= 1

        worker = asyncio.create_task(service.start(queues={"default": slots}, handle_signals=False, settings=settings))
        for _ in range(5):
            proxy.needle = needle
            await aconn.execute(
                "select count(*) from pgqueue.submit_many((select jsonb_agg(jsonb_build_object('task_type', 'work'))"
                " from generate_series(1, %s)))",
                (TASKS // 5,),
            )
            await until_all_have_ended(aconn)
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker
    assert proxy.cuts >= 3
    cursor = await aconn.execute("select status, count(*) from pgqueue.finished_tasks group by status")
    assert await cursor.fetchall() == [("completed", TASKS)]
    assert set(starts.values()) == {1}, "a lease was used twice"
    cursor = await aconn.execute("select outcome, count(*) from pgqueue.executions group by outcome order by outcome")
    outcomes = dict(await cursor.fetchall())
    assert outcomes["completed"] == TASKS
    assert outcomes.keys() <= {"completed", "released"}
    if needle == b"pgqueue.claim(":
        assert outcomes["released"] >= 3, "a claim whose answer was lost is released, at no cost"
