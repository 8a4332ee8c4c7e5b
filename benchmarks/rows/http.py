"""What HTTP costs: submit and get over keep-alive connections, against the same in Python directly."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from benchmarks.bench import percentile
from benchmarks.model import Figure, Row
from benchmarks.web import Connection, serving
from pgqueue import Database, QueueService, TaskRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

    Action = Callable[[], Awaitable[object]]

REQUEST = TaskRequest(task_type="noop", payload={"n": 1})
BODY = json.dumps({"task_type": "noop", "payload": {"n": 1}}).encode()
CLIENTS = (1, 8)


def http(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Both ways in turn, with one client and with eight."""
    seconds = bench.seconds(5, 0.2)
    with bench.database(peer) as database:
        dsn = bench.server.server.dsn(database)
        with serving(dsn) as url:
            for clients in CLIENTS:
                yield from asyncio.run(_compare(dsn, url, clients, seconds))


async def _compare(dsn: str, url: str, clients: int, seconds: float) -> list[Figure]:
    connections = [await Connection.open(url) for _ in range(clients)]
    who = "1 client" if clients == 1 else f"{clients} clients"
    async with Database(dsn) as db:
        service = QueueService(db)
        task_id = (await service.submit_task(REQUEST)).task_id
        actions: dict[tuple[str, str], Sequence[Action]] = {
            ("HTTP", "submit"): [lambda c=c: c.ask("POST /api/v1/tasks", BODY) for c in connections],  # type: ignore[misc]
            ("Python", "submit"): [lambda: service.submit_task(REQUEST)] * clients,
            ("HTTP", "get"): [lambda c=c: c.ask(f"GET /api/v1/tasks/{task_id}") for c in connections],  # type: ignore[misc]
            ("Python", "get"): [lambda: service.get_task(task_id)] * clients,
        }
        figures = []
        for (way, what), each in actions.items():
            times = await _repeat(each, seconds)
            contender, setup = f"{way}, {who}", f"{seconds:g} s each"
            figures += [
                Figure(contender, what, "/s", [len(times) / seconds], setup),
                Figure(contender, f"{what} p50", "ms", [percentile(times, 50)], setup),
                Figure(contender, f"{what} p99", "ms", [percentile(times, 99)], setup),
            ]
    for connection in connections:
        connection.close()
    return figures


async def _repeat(actions: Sequence[Action], seconds: float) -> list[float]:
    """Run each action without pause; return the ms of all."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def repeat(action: Action) -> None:
        while (start := time.perf_counter()) < end:
            await action()
            times.append((time.perf_counter() - start) * 1000)

    await asyncio.gather(*(repeat(action) for action in actions))
    return times


ROWS = (Row("http", "submit and get by HTTP over keep-alive connections, and in Python directly", http),)
