"""The PostgreSQL that everything is measured on: one server of the harness's own, durable, on a real disk."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
import psycopg

from pgqueue.embedded import Server, find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS: dict[str, object] = {
    "shared_buffers": "1GB",
    "effective_cache_size": "4GB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "5min",
    "max_connections": 300,
    "fsync": True,
    "full_page_writes": True,
    "synchronous_commit": True,
    "logging_collector": False,
}
"""What a careful operator sets; all else is as PostgreSQL ships it, autovacuum included."""
DEBIAN = Path("/usr/lib/postgresql")
IN_MEMORY = {"tmpfs", "ramfs"}


class BenchServer:
    """A running server; `database` gives a fresh one of a kind, made once and then copied."""

    def __init__(self, server: Server, bindir: Path) -> None:
        self.server = server
        self.bindir = bindir
        self.version = str(self.value("show server_version")).split(" ")[0]
        self._numbers = itertools.count(1)

    def value(self, query: str, database: str = "postgres") -> object:
        """Return the first value of a query's first row."""
        with psycopg.connect(self.server.dsn(database), autocommit=True) as conn:
            row = conn.execute(query).fetchone()
        return row[0] if row else None

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements, each on its own."""
        with psycopg.connect(self.server.dsn(database), autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)

    def url(self, database: str) -> str:
        """Return the URL of a database, in the form that all drivers read."""
        folder = self.server.status().socket_dir
        return f"postgresql://postgres@localhost:5432/{database}?host={quote(str(folder), safe='')}"

    @contextlib.contextmanager
    def copy_of(self, template: str) -> Iterator[str]:
        """Copy a database and return the copy's name; it is dropped at the end."""
        name = f"bench_{next(self._numbers)}"
        self.execute(f'create database {name} template "{template}"')
        try:
            yield name
        finally:
            self.execute(f"drop database if exists {name} with (force)")

    def settle(self, database: str) -> None:
        """Leave no work of the preparation to the measurement."""
        self.execute("vacuum analyze", "checkpoint", database=database)

    def commit_ms(self) -> float:
        """Return the median time of a commit: what the disk, and whoever else uses it, allow at this moment."""
        took = []
        with psycopg.connect(self.server.dsn(), autocommit=True) as conn:
            for _ in range(50):
                began = time.perf_counter()
                conn.execute("select pg_logical_emit_message(true, 'bench', 'a commit')")
                took.append((time.perf_counter() - began) * 1000)
        return statistics.median(took)

    def cpu_s(self) -> float:
        """Return the processor seconds that the server's processes have used, the ended ones included."""
        pid = self.server.status().pid
        if pid is None:
            return 0.0
        head = psutil.Process(pid)
        times = [head.cpu_times()]
        for child in head.children():
            with contextlib.suppress(psutil.NoSuchProcess):
                times.append(child.cpu_times())
        return float(sum(t.user + t.system for t in times) + times[0].children_user + times[0].children_system)


@contextlib.contextmanager
def running(bindir: Path | None, *, is_async: bool, folder: Path | None) -> Iterator[BenchServer]:
    """Start a server and remove it, with its data, at the end."""
    binaries = find_binaries(bindir or _debian())
    home = Path(tempfile.mkdtemp(prefix="pgqueue-bench-", dir=folder or "/var/tmp"))  # noqa: S108 - of a random name
    home.chmod(0o755)
    server = Server(home, binaries, OPTIONS | ({"synchronous_commit": False} if is_async else {}))
    try:
        _refuse_memory(home)
        server.start()
        yield BenchServer(server, binaries.bindir)
    finally:
        server.stop("immediate")
        shutil.rmtree(home)


def _debian() -> Path | None:
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _refuse_memory(home: Path) -> None:
    """Raise where commits would cost nothing."""
    mounts = [m for m in psutil.disk_partitions(all=True) if home.is_relative_to(m.mountpoint)]
    if mounts and max(mounts, key=lambda m: len(m.mountpoint)).fstype in IN_MEMORY:
        msg = f"{home} lies in memory, where a commit costs nothing: name a folder on a disk with --folder"
        raise SystemExit(msg)
