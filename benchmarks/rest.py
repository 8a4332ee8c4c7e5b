"""What HTTP costs: submit and get over keep-alive connections, against the same in Python directly.

python benchmarks/rest.py [--seconds 5] [--clients 8]: prints requests a second, median and 99th percentile. The server
is a process of its own; its database is an embedded one in a temporary folder with fsync on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue import Database, QueueService, TaskRequest, schema
from pgqueue.embedded import Server, find_binaries

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BODY = json.dumps({"task_type": "noop", "payload": {"n": 1}}).encode()
HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Connection:
    """A bare keep-alive connection, so that the client costs little."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Made by `open`."""
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, head: bytes, body: bytes = b"") -> None:
        """Ask, and read the answer. Raises RuntimeError where it is a refusal."""
        self.writer.write(head + HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        if answer[9:11] != b"20":
            raise RuntimeError(answer.decode())
        length = re.search(rb"content-length: (\d+)", answer)
        await self.reader.readexactly(int(length[1]) if length else 0)


async def measured(name: str, actions: list[Callable[[], Awaitable[object]]], seconds: float) -> None:
    """Run each action without pause and print how often and how long."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def repeat(action: Callable[[], Awaitable[object]]) -> None:
        while (start := time.perf_counter()) < end:
            await action()
            times.append(time.perf_counter() - start)

    await asyncio.gather(*(repeat(action) for action in actions))
    times.sort()
    median, last = statistics.median(times) * 1000, times[int(len(times) * 0.99)] * 1000
    print(f"{name:<16} {len(times) / seconds:8.0f}/s   p50 {median:6.2f} ms   p99 {last:6.2f} ms")


async def compare(dsn: str, port: int, clients: int, seconds: float) -> None:
    """Measure both ways."""
    connections = [await Connection.open(port) for _ in range(clients)]
    submit, get = b"POST /api/v1/tasks HTTP/1.1\r\n", b"GET /api/v1/tasks/1 HTTP/1.1\r\n"
    async with Database(dsn) as db:
        service = QueueService(db)
        request = TaskRequest(task_type="noop", payload={"n": 1})
        print(f"{clients} clients")
        await measured("HTTP submit", [lambda c=c: c.ask(submit, BODY) for c in connections], seconds)  # type: ignore[misc]
        await measured("Python submit", [lambda: service.submit_task(request)] * clients, seconds)
        await measured("HTTP get", [lambda c=c: c.ask(get) for c in connections], seconds)  # type: ignore[misc]
        await measured("Python get", [lambda: service.get_task(1)] * clients, seconds)


def serve(dsn: str, log: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Start the server; return it and its port."""
    program = Path(sys.executable).with_name("pgqueue-api")
    with log.open("wb") as output:
        process = subprocess.Popen([program, "--dsn", dsn, "--port", "0"], stdout=output, stderr=output)
    while (found := re.search(r"serving http://127.0.0.1:(\d+)", log.read_text())) is None:
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.05)
    return process, int(found[1])


def main() -> None:
    """Start what is needed, measure, and stop it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=5)
    options.add_argument("--clients", type=int, nargs="*", default=[1, 8])
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="pgq") as folder:
        home = Path(folder)
        home.chmod(0o755)
        server = Server(home / "pg", find_binaries(None), {"max_connections": 50})
        server.start()
        server.create_database("bench")
        schema.migrate(server.dsn("bench"))
        process, port = serve(server.dsn("bench"), home / "api.log")
        try:
            for clients in given.clients:
                asyncio.run(compare(server.dsn("bench"), port, clients, given.seconds))
        finally:
            process.terminate()
            process.wait()
            server.stop("immediate")


if __name__ == "__main__":
    main()
