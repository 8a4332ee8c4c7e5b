"""What each contender written in Python is driven by: one program with three commands.

`install DSN` makes the schema. `work DSN PROFILE METER` runs a worker until SIGTERM, set up as its documents
recommend for throughput (`best`) or as it comes (`default`). `submit DSN` reads orders from stdin, one JSON object
a line, and answers each with the seconds it took: `{"do": "singles", "n": 100}` one call a task, with `"every_ms"`
paced, with `"clients"` so many at a time; `{"do": "bulk", "n": 1000, "size": 500}` in calls of `size`.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import json
import signal
import sys
import time
from typing import Any

from benchmarks.meter import Meter

Payload = dict[str, Any]


class Adapter(abc.ABC):
    """One contender. A payload is `{"i": number}`, with the time of its submit as `t` where latency is measured."""

    def __init__(self, dsn: str) -> None:
        """`dsn` is a URL."""
        self.dsn = dsn
        self.kind = "noop"

    @abc.abstractmethod
    async def install(self) -> None:
        """Make the schema in an empty database."""

    @abc.abstractmethod
    async def work(self, profile: str, meter: Meter) -> None:
        """Run a worker until cancelled; its handler calls `meter.mark(payload.get("t"))` and nothing else."""

    async def open(self, clients: int) -> None:  # noqa: B027 - some connect by themselves
        """Connect, for submitting by so many at a time."""

    @abc.abstractmethod
    async def submit_one(self, payload: Payload) -> None:
        """Submit a task by the call for one."""

    @abc.abstractmethod
    async def submit_many(self, payloads: list[Payload]) -> None:
        """Submit tasks by the call for many."""


def run(kind: type[Adapter]) -> None:
    """Do what the command line says."""
    command, dsn, *rest = sys.argv[1:]
    adapter = kind(dsn)
    if command == "install":
        asyncio.run(adapter.install())
    elif command == "work":
        asyncio.run(_work(adapter, rest[0], Meter(rest[1])))
    else:
        asyncio.run(_obey(adapter))


async def _work(adapter: Adapter, profile: str, meter: Meter) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run makes one
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await adapter.work(profile, meter)


async def _obey(adapter: Adapter) -> None:
    is_open = False
    orders = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        order = json.loads(line)
        if not is_open:
            await adapter.open(order.get("clients", 1))
            is_open = True
        adapter.kind = order.get("kind", "noop")
        began = time.perf_counter()
        await (_singles(adapter, order) if order["do"] == "singles" else _bulk(adapter, order))
        print(json.dumps(time.perf_counter() - began), flush=True)


async def _singles(adapter: Adapter, order: dict[str, Any]) -> None:
    count, clients = order["n"], order.get("clients", 1)
    if clients == 1:
        await _one_client(adapter, range(count), order.get("every_ms"))
        return
    async with asyncio.TaskGroup() as group:
        for first in range(clients):
            group.create_task(_one_client(adapter, range(first, count, clients), None))


async def _one_client(adapter: Adapter, numbers: range, every_ms: float | None) -> None:
    due = time.perf_counter()
    for number in numbers:
        if every_ms is None:
            await adapter.submit_one({"i": number})
            continue
        due += every_ms / 1000
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await adapter.submit_one({"i": number, "t": time.time()})


async def _bulk(adapter: Adapter, order: dict[str, Any]) -> None:
    count, size = order["n"], order["size"]
    extra = {"t": time.time()} if order.get("stamp") else {}
    for first in range(0, count, size):
        await adapter.submit_many([{"i": number} | extra for number in range(first, min(first + size, count))])
