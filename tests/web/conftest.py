"""The server on a real socket over this test's database: in the test's own loop, or as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from pgqueue import Database, QueueService
from pgqueue.services import AccessService
from pgqueue.settings import Settings
from pgqueue_web import Server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

PROGRAM = Path(sys.executable).with_name("pgqueue-api")
DEADLINE_S = 30.0


@pytest.fixture
def web_settings(dsn: str) -> Settings:
    """Settings of the server in the test's loop; a test class may override them."""
    return Settings(dsn=dsn)


@pytest_asyncio.fixture
async def db(web_settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings=web_settings) as database:
        yield database


@contextlib.asynccontextmanager
async def serving(db: Database, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Run a server in this loop."""
    server = Server(db, host, 0)
    async with server.beside():
        yield server


@pytest_asyncio.fixture
async def api(db: Database) -> AsyncIterator[Server]:
    """A server in this loop."""
    async with serving(db) as running:
        yield running


@pytest_asyncio.fixture
async def web(api: Server) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that server, below /api/v1."""
    async with httpx.AsyncClient(base_url=f"{api.url}/api/v1", timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture
def access(db: Database) -> AccessService:
    return AccessService(db)


@pytest.fixture
def service(db: Database) -> QueueService:
    return QueueService(db)


@pytest.fixture
def raw(api: Server) -> Callable[[bytes], Any]:
    """Send bytes as they are and return all that comes back until the server closes, or pauses for long."""
    _, _, address = api.url.rpartition("/")
    host, _, port = address.rpartition(":")

    async def send(*chunks: bytes, pause: float = 0.0) -> bytes:
        reader, writer = await asyncio.open_connection(host, int(port))
        reading = asyncio.create_task(_all_of(reader))
        with contextlib.suppress(ConnectionError):
            for chunk in chunks:
                writer.write(chunk)
                await writer.drain()
                await asyncio.sleep(pause)
        answer = await reading
        writer.close()
        return answer

    return send


async def _all_of(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(DEADLINE_S):
            while chunk := await reader.read(65536):
                answer += chunk
    return answer


class Running:
    """The program pgqueue-api, in a process of its own."""

    def __init__(self, dsn: str, folder: Path, arguments: Sequence[str] = (), **variables: str) -> None:
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        self._log = folder / "api.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "--port", "0", *arguments],
                env=clean | {"PGQUEUE_DSN": dsn, "HOME": str(folder), "PYTHONUNBUFFERED": "1"} | variables,
                cwd=folder,
                stderr=log,
                stdout=log,
            )

    @property
    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    async def url(self) -> str:
        """Wait until it serves; return where."""
        async with asyncio.timeout(DEADLINE_S):
            while (found := re.search(r"serving (http://\S+)/api/v1,", self.log)) is None:
                assert self.process.poll() is None, self.log
                await asyncio.sleep(0.02)
        return found[1]

    async def wait(self) -> int:
        """Wait until it ends; return its exit status."""
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def memory_mb(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.fixture
def run_api(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start the program; what still runs is killed at the end of the test."""
    started: list[Running] = []

    def start(*arguments: str, on: str = dsn, **variables: str) -> Running:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Running(on, folder, arguments, **variables))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


class Stream:
    """Server-sent events of one response, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, Any, str | None]:
        """Return event, data and id of the next event; comments and bare ids are passed over."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(DEADLINE_S):
            async for line in self._lines:
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.removeprefix(" ")
                elif "event" in fields:
                    return fields["event"], json.loads(fields["data"]), fields.get("id")
                else:
                    fields = {}
        raise EOFError

    async def rest(self) -> list[tuple[str, Any, str | None]]:
        """Return all events until the stream ends."""
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(await self.next())
        return found


@contextlib.asynccontextmanager
async def stream(client: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[Stream]:
    """Open a stream."""
    async with client.stream("GET", path, headers={"accept": "text/event-stream", **headers}) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)


@contextlib.asynccontextmanager
async def working(service: QueueService) -> AsyncIterator[None]:
    """Run a worker of the service in this loop."""
    worker = service.worker()
    running = asyncio.create_task(worker.run(handle_signals=False))
    try:
        yield
    finally:
        worker.stop()
        await running
