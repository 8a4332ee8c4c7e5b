"""What rows are made of: databases, workers and submitters of a contender, and the common measurements."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import meter
from benchmarks.actors import ENVIRONMENT, Submitter, Worker, wait_until_ready
from benchmarks.model import Figure
from benchmarks.peers.catalogue import BARE, OWN, RIVALS, Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from benchmarks.server import BenchServer

LOOK_S = 0.01
BULK = 1000
IN_FLIGHT = 20_000
CALL = 500


@dataclass
class Drained:
    """What a drain showed."""

    rate: float
    quarters: list[float]
    """The rate in each quarter of the tasks."""
    worker_us: float
    """Processor time of all workers, a task."""
    server_us: float
    memory_mb: float
    """Of one worker, at the end."""
    wal_bytes: float
    """A task, submitted and worked."""
    dead_tuples: float
    shares: list[int]
    """Tasks that each worker ran."""


@dataclass
class Bench:
    """One run of the harness: what rows ask for what they need."""

    server: BenchServer
    home: Path
    """Where the rivals are installed."""
    place: Path
    """For meters and logs."""
    quick: bool = False
    memory: dict[str, float] = field(default_factory=dict)
    """What one row leaves for another."""
    _templates: set[str] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def size(self, full: int, quick: int) -> int:
        """Return how many, in this run."""
        return quick if self.quick else full

    def seconds(self, full: float, quick: float = 0.5) -> float:
        """Return how long, in this run."""
        return quick if self.quick else full

    def tasks_for(self, peer: Peer, full: int, quick: int, speed: int | None = None) -> int:
        """Return how many tasks a contender is given: a slow one what it works off in about ten seconds, or in one."""
        wanted = self.size(full, quick)
        return wanted if peer.is_own else min(wanted, self.size(10, 1) * (speed or peer.speed))

    @contextlib.contextmanager
    def database(self, peer: Peer) -> Iterator[str]:
        """Give a fresh database with the schema of a contender."""
        template = f"template_{OWN.name if peer is BARE else peer.name}"
        if template not in self._templates:
            self._install(peer, template)
            self._templates.add(template)
        with self.server.copy_of(template) as name:
            yield name

    def _install(self, peer: Peer, template: str) -> None:
        self.server.execute(f'drop database if exists "{template}"', f'create database "{template}"')
        command = [*peer.command(self.home), "install", self.server.url(template)]
        done = subprocess.run(
            command, cwd=peer.folder(self.home), env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{peer.name} cannot be set up: {done.stderr.strip()[-400:]}")

    def worker(self, peer: Peer, database: str, profile: str = "best") -> Worker:
        """Start a worker."""
        return Worker(peer, self.home, self.server.url(database), profile, self._place(peer))

    def submitter(self, peer: Peer, database: str, **options: object) -> Submitter:
        """Start a submitter, connected and warm: its first task is there already."""
        submitter = Submitter(peer, self.home, self.server.url(database), self._place(peer))
        try:
            submitter.warm(**options)
        except BaseException:
            submitter.stop()
            raise
        return submitter

    def _place(self, peer: Peer) -> Path:
        return self.place / f"{peer.name}-{next(self._numbers)}"

    def idle_worker(self, peer: Peer, database: str, stack: contextlib.ExitStack, profile: str = "best") -> Worker:
        """Start a worker on an empty queue and wait until its program runs; it connects in the next moment."""
        worker = stack.enter_context(self.worker(peer, database, profile))
        wait_until_ready(worker)
        return worker

    def drain(  # noqa: PLR0913 - the knobs of a drain
        self,
        peer: Peer,
        count: int,
        *,
        workers: int = 1,
        profile: str = "best",
        kind: str = "noop",
        pinned: bool = False,
    ) -> Drained:
        """Submit tasks, then start workers and watch them until the last task is finished."""
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(self.database(peer))
            wal = self.wal_position()
            with self.submitter(OWN if peer is BARE else peer, database, kind=kind) as submitter:
                submitter.do("bulk", n=count - 1, size=BULK, kind=kind)
            self.server.settle(database)
            if pinned:
                stack.enter_context(self.pin(database))
            started = [stack.enter_context(self.worker(peer, database, profile)) for _ in range(workers)]
            watch = Watch(started, self.server, database, peer.pending)
            watch.until_done(count, by_database=kind == "process")
            worker_s, server_s = watch.cpu_s()
            drained = Drained(
                watch.rate(),
                watch.quarters(),
                worker_s / count * 1e6,
                server_s / count * 1e6,
                started[0].memory_mb(),
                0.0,
                0.0,
                [worker.reading().ran for worker in started],
            )
            for worker in started:
                worker.stop()
            drained.wal_bytes = (self.wal_position() - wal) / count
            drained.dead_tuples = self.dead_tuples(database) / count
            return drained

    def wal_position(self) -> int:
        """Return how many bytes of WAL the server has written."""
        return int(str(self.server.value("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")))

    def dead_tuples(self, database: str) -> int:
        """Return how many row versions died in a database since it was copied."""
        query = "select coalesce(sum(n_tup_upd + n_tup_del), 0)::bigint from pg_stat_all_tables"
        return int(str(self.server.value(query, database)))

    @contextlib.contextmanager
    def pin(self, database: str) -> Iterator[None]:
        """Hold an old snapshot, as a backup or a forgotten transaction does."""
        with psycopg.connect(self.server.server.dsn(database)) as conn:
            conn.execute("set transaction isolation level repeatable read")
            conn.execute("select pg_current_xact_id()")
            yield
            conn.rollback()

    def paced(self, peer: Peer, count: int, *, pinned: bool = False, every_ms: float = 20.0) -> list[float]:
        """Submit one task every so often to an idle worker; return each one's ms from submit to handler."""
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(self.database(peer))
            worker = stack.enter_context(self.worker(peer, database))
            submitter = stack.enter_context(self.submitter(peer, database))
            self.wait_for(lambda: worker.reading().ran >= 1, worker)
            if pinned:
                stack.enter_context(self.pin(database))
            warm = max(10, count // 10)
            submitter.do("singles", n=warm + count, every_ms=every_ms)
            self.wait_for(lambda: worker.reading().samples >= warm + count, worker)
            return [latency for _, latency in meter.samples(worker.path)][warm:]

    def wait_for(self, condition: Callable[[], bool], worker: Worker, timeout_s: float = 60.0) -> None:
        """Look until a condition holds; raise where it does not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            worker.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"{worker.peer.name} did not get there within {timeout_s:g} s: {worker.reading()}")
            time.sleep(LOOK_S)


class Watch:
    """Looks at workers from outside: at their meters all the time, at the database when it is nearly over."""

    def __init__(self, workers: Sequence[Worker], server: BenchServer, database: str, pending: str) -> None:
        self._workers = workers
        self._server = server
        self._database = database
        self._pending = pending
        self._seen: list[tuple[float, int]] = []
        self._all_begun = 0
        self._cpu_s = (0.0, 0.0)

    def until_done(self, count: int, *, by_database: bool = False, slowest: float = 20.0) -> None:
        """Wait until so many handlers ran and nothing is pending."""
        deadline = time.time() + 60 + count / slowest
        with psycopg.connect(self._server.server.dsn(self._database), autocommit=True) as conn:
            while by_database or self._look() < count:
                if by_database and self._by_database(conn, count):
                    return
                self._still(deadline)
            while self._is_pending(conn):
                self._still(deadline)
        self._seen.append((time.time(), count))

    def _by_database(self, conn: psycopg.Connection[Any], count: int) -> bool:
        """Look where handlers have no meter, since they run in other processes."""
        if not self._seen:
            row = conn.execute("select exists (select from pgqueue.claims)").fetchone()
            self._seen += [(time.time(), 0)] if row and row[0] else []
            return False
        if self._is_pending(conn):
            return False
        self._seen.append((time.time(), count))
        return True

    def _still(self, deadline: float) -> None:
        for worker in self._workers:
            worker.check()
        if time.time() > deadline:
            raise RuntimeError(f"{self._workers[0].peer.name} did not finish: {self._seen[-1:]}")
        time.sleep(LOOK_S)

    def _look(self) -> int:
        readings = [worker.reading() for worker in self._workers]
        begun = [reading.first_ns for reading in readings if reading.first_ns]
        total = sum(reading.ran for reading in readings)
        if begun and not self._seen:
            self._seen.append((min(begun) / 1e9, 0))
            self._cpu_s = self._cpu_now()
        if begun:
            self._seen.append((time.time(), total))
        if len(begun) == len(readings) > 1 and not self._all_begun:
            self._all_begun = len(self._seen) - 1
        return total

    def _is_pending(self, conn: psycopg.Connection[Any]) -> bool:
        row = conn.execute(self._pending).fetchone()
        return bool(row and row[0])

    def _counted(self) -> list[tuple[float, int]]:
        """Return the looks that count: since all workers had begun, unless half was done before."""
        late = self._seen[self._all_begun :]
        return late if late[0][1] < self._seen[-1][1] / 2 else self._seen

    def cpu_s(self) -> tuple[float, float]:
        """Return the processor seconds of the workers and of the server since the first handler began."""
        workers_s, server_s = self._cpu_now()
        return workers_s - self._cpu_s[0], server_s - self._cpu_s[1]

    def _cpu_now(self) -> tuple[float, float]:
        return sum(worker.cpu_s() for worker in self._workers), self._server.cpu_s()

    def rate(self) -> float:
        """Return tasks a second until the last task was finished."""
        seen = self._counted()
        return _slope(seen[0], seen[-1])

    def quarters(self) -> list[float]:
        """Return the rate in each quarter of the tasks."""
        seen = self._counted()
        first, last = seen[0], seen[-1]
        marks = [first[1] + (last[1] - first[1]) * part / 4 for part in range(4)]
        points = [*(next(look for look in seen if look[1] >= mark) for mark in marks), last]
        return [_slope(a, b) for a, b in itertools.pairwise(points)]


def _slope(first: tuple[float, int], last: tuple[float, int]) -> float:
    return (last[1] - first[1]) / max(last[0] - first[0], 1e-6)


def percentile(values: Iterable[float], percent: float) -> float:
    """Return the smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def latencies(peer: Peer, values: Sequence[float], setup: str, prefix: str = "") -> Iterator[Figure]:
    """Yield the usual percentiles; p99.9 only where there are enough values for it."""
    for percent in (50, 99, *((99.9,) if len(values) >= 1000 else ())):
        yield Figure(peer.name, f"{prefix}p{percent:g}", "ms", [percentile(values, percent)], setup)


def all_rivals(home: Path, names: Sequence[str] = ()) -> list[Peer]:
    """Return the rivals that are installed, or of these the named ones."""
    return [peer for peer in RIVALS if peer.is_there(home) and (not names or peer.name in names)]
