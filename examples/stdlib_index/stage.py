"""What the demo starts and stops: a PostgreSQL server of its own, a fresh database, worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO

from pgqueue import Database, QueueService, Settings, schema
from pgqueue.embedded import Server
from pgqueue.errors import ConfigurationError, DatabaseUnavailable, SchemaMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from pgqueue.models import WorkerInfo

__all__ = ["EXAMPLES", "PROGRAMS", "Busy", "Stage"]

EXAMPLES = Path(__file__).resolve().parents[1]
PROGRAMS = Path(sys.executable).parent
SYSTEM = Path("/var/lib/pgqueue/demo")
DATABASE = "demo"
TARGET = "stdlib_index.tasks:queue_service"
STOP_S = 10.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Busy(Exception):
    """Another demo runs in this folder."""


class Stage:
    """Everything of one demo below one folder. As a context manager it ends what it started, unless `kept`."""

    def __init__(self, folder: Path) -> None:
        """Start nothing yet."""
        self.folder = folder
        self.kept = False
        self.workers: list[subprocess.Popen[bytes]] = []
        self._server: Server | None = None
        self._lock: TextIO | None = None

    def __enter__(self) -> Self:
        """Take the folder. Raises Busy where another demo has it."""
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        self._server = _server(self.folder)
        self._lock = (self.server.layout.home / "demo.lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise Busy(f"another demo runs in {self.folder}; let it end, or choose another --folder") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop workers, then the server; a second Ctrl-C does not disturb it."""
        if self._lock is None:
            return
        with _undisturbed():
            if not self.kept or kind is not None:
                self._stop_workers()
                self.server.stop()
            self._lock.close()

    @property
    def server(self) -> Server:
        """The server of this demo."""
        if self._server is None:
            raise ConfigurationError("the stage was not entered", hint="with Stage(folder) as stage: …")
        return self._server

    @property
    def dsn(self) -> str:
        """The DSN of the demo's database."""
        return self.server.dsn(DATABASE)

    @property
    def settings(self) -> Settings:
        """Settings that no environment variable changes."""
        return Settings(dsn=self.dsn)

    def prepare(self) -> None:
        """Start the server and make the database anew; workers that an earlier demo kept are stopped first."""
        self.stop_kept()
        self.server.start()
        self.server.drop_database(DATABASE)
        self.server.create_database(DATABASE)
        schema.migrate(self.dsn)

    def start_workers(self, count: int) -> None:
        """Start worker processes; Ctrl-C does not reach them, since each is in a session of its own."""
        for number in range(1, count + 1):
            with (self.folder / "log" / f"worker-{number}.log").open("wb") as log:
                self.workers.append(
                    subprocess.Popen(
                        [PROGRAMS / "pgqueue-worker", TARGET],
                        cwd=EXAMPLES,
                        env=self._environment(),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )

    def check_workers(self) -> None:
        """Raise RuntimeError, with the end of its log, where a worker has ended."""
        for number, worker in enumerate(self.workers, 1):
            if worker.poll() is not None:
                log = (self.folder / "log" / f"worker-{number}.log").read_text(errors="replace")
                raise RuntimeError(f"worker {number} ended with code {worker.returncode}:\n{log[-2000:]}")

    def stop_kept(self) -> int:
        """Stop workers and server that an earlier demo kept; return how many workers there were."""
        if not self.server.status().running:
            return 0
        with contextlib.suppress(DatabaseUnavailable, SchemaMismatch):
            return asyncio.run(_stop_registered(self.settings))
        return 0

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
        return clean | {
            "PGQUEUE_DSN": self.dsn,
            "PGQUEUE_GRACE_S": "1",
            "PGQUEUE_CONFIG": os.devnull,
            "NO_COLOR": "1",
        }

    def _stop_workers(self) -> None:
        for worker in self.workers:
            worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(STOP_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _server(folder: Path) -> Server:
    """Return a server below `folder`; where root's server account cannot enter it, one below /var/lib."""
    server = Server(folder / "postgres", options={"synchronous_commit": "off"})
    try:
        server.layout.prepare()
    except ConfigurationError:
        if os.geteuid() != 0:
            raise
        server = Server(SYSTEM, options={"synchronous_commit": "off"})
        server.layout.prepare()
    return server


async def _stop_registered(settings: Settings) -> int:
    """Ask the workers in the database to stop, and wait until they have; return how many there were."""
    async with Database(settings.dsn, settings=settings) as db:
        service = QueueService(db)
        found = await _serving(service)
        for worker in found:
            await service.stop_worker(worker.id)
        deadline = time.monotonic() + STOP_S
        while await _serving(service) and time.monotonic() < deadline:  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.1)
    return len(found)


async def _serving(service: QueueService) -> list[WorkerInfo]:
    return [worker for worker in await service.list_workers() if worker.state in {"alive", "stopping"}]


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
