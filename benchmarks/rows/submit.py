"""How fast tasks come in."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import psycopg

from benchmarks.model import BEST_RIVAL, Figure, Row, Target
from benchmarks.peers.catalogue import FLOOR, OWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.actors import Submitter
    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

BARE_TABLE = """create table bare (
    id bigint generated always as identity primary key,
    task_type text not null, queue_name text not null, payload jsonb not null,
    run_at timestamptz default clock_timestamp()
)"""
INTO_BARE = "insert into bare (task_type, queue_name, payload) values ('noop', 'default', '{\"i\": 1}');"
NOTIFYING = "begin; " + INTO_BARE + " select pg_notify('bare', 'default'); commit;"
INTO_TASKS = INTO_BARE.replace("into bare", "into pgqueue.tasks")
RATE = re.compile(r"tps = ([\d.]+)")
CLIENTS = (1, 8, 32)


def pgbench(bench: Bench, database: str, script: str, clients: int) -> float:
    """Return the statements a second that pgbench gets done."""
    program = shutil.which("pgbench", path=bench.server.bindir) or shutil.which("pgbench")
    if program is None:
        raise SystemExit(
            f"pgbench is neither in {bench.server.bindir} nor in PATH. On Debian: apt-get install postgresql"
        )
    file = bench.place / "script.sql"
    file.write_text(script.replace("; ", ";\n") + "\n", encoding="utf-8")
    host = str(bench.server.server.status().socket_dir)
    how = [
        "-n",
        "-M",
        "prepared",
        "-T",
        str(round(bench.seconds(10, 1))),
        "-c",
        str(clients),
        "-j",
        str(min(clients, 2)),
    ]
    command = [program, *how, "-f", str(file), "-h", host, "-U", "postgres", database]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = RATE.search(done.stdout)
    if not found:
        raise RuntimeError(f"pgbench said no rate: {done.stdout[-300:]}")
    return float(found[1])


def single(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """One connection, one task a call."""
    count = bench.size(5_000, 100)
    with bench.database(peer) as database, bench.submitter(peer, database) as submitter:
        submitter.do("singles", n=max(20, count // 10))
        yield from _timed(bench, submitter, count, f"{count:,} calls", "singles", n=count)


def _timed(bench: Bench, submitter: Submitter, count: int, setup: str, do: str, **options: object) -> Iterator[Figure]:
    """Give an order; yield its rate, and what a task of it cost in processor time."""
    client_s, server_s = submitter.cpu_s(), bench.server.cpu_s()
    seconds = submitter.do(do, **options)
    client_s, server_s = submitter.cpu_s() - client_s, bench.server.cpu_s() - server_s
    name = submitter.peer.name
    yield Figure(name, "rate", "/s", [count / seconds], setup)
    yield Figure(name, "client CPU", "µs", [client_s / count * 1e6], setup)
    yield Figure(name, "server CPU", "µs", [server_s / count * 1e6], setup)


def bare_insert(bench: Bench) -> Iterator[Figure]:
    """One client, into a table without triggers: pgbench, and psycopg."""
    with _bare_table(bench) as database:
        yield Figure("bare INSERT", "rate", "/s", [pgbench(bench, database, INTO_BARE, 1)], "pgbench, 1 client")
    yield from single(bench, FLOOR)


def others(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """The other ways in: typed, and many clients of one process."""
    count = bench.size(5_000, 100)
    ways: tuple[tuple[str, dict[str, object]], ...] = (
        ("typed", {"kind": "typed"}),
        ("8 clients", {"clients": 8}),
        ("32 clients", {"clients": 32}),
    )
    for metric, options in ways:
        with bench.database(peer) as database, bench.submitter(peer, database, **options) as submitter:
            submitter.do("singles", n=max(64, count // 10), **options)
            rate = count / submitter.do("singles", n=count, **options)
        yield Figure(peer.name, metric, "/s", [rate], f"{count:,} calls")


def insert(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """INSERT by pgbench into pgqueue.tasks, with all that the trigger does.

    The idle worker attends the queue and takes nothing: its rows are there, it uses no processor. A real one,
    which runs what comes in at the same time on the same cores, is measured beside it.
    """
    for clients in CLIENTS[: bench.size(3, 1)]:
        with bench.database(peer) as database, _attending(bench, database):
            yield _inserted(bench, database, peer.name, INTO_TASKS, clients)
        with contextlib.ExitStack() as stack:
            database = stack.enter_context(bench.database(peer))
            bench.idle_worker(peer, database, stack)
            yield _inserted(bench, database, f"{peer.name}, worked meanwhile", INTO_TASKS, clients)


def bare_inserts(bench: Bench) -> Iterator[Figure]:
    """The same into a table without triggers, plain and with a NOTIFY in each transaction."""
    for name, script in (("bare INSERT", INTO_BARE), ("bare INSERT and NOTIFY", NOTIFYING)):
        for clients in CLIENTS[: bench.size(3, 1)]:
            with _bare_table(bench) as database:
                yield _inserted(bench, database, name, script, clients)


def _inserted(bench: Bench, database: str, name: str, script: str, clients: int) -> Figure:
    rate = pgbench(bench, database, script, clients)
    return Figure(name, f"{clients} client{'s' if clients > 1 else ''}", "/s", [rate], "pgbench -M prepared")


@contextlib.contextmanager
def _bare_table(bench: Bench) -> Iterator[str]:
    with bench.database(OWN) as database:
        bench.server.execute(BARE_TABLE, database=database)
        yield database


@contextlib.contextmanager
def _attending(bench: Bench, database: str) -> Iterator[None]:
    with psycopg.connect(bench.server.server.dsn(database), autocommit=True) as conn:
        row = conn.execute("select pgqueue.register_worker('idle', 1, array['default'], '{}', 3600)").fetchone()
        conn.execute("select pgqueue.set_wait(%s, 'default', true)", row)
        yield


def bulk(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """20,000 tasks by the call for many."""
    count = bench.tasks_for(peer, 20_000, 500)
    with bench.database(peer) as database, bench.submitter(peer, database) as submitter:
        submitter.do("bulk", n=100, size=100)
        yield from _timed(bench, submitter, count, f"{count:,} in one call", "bulk", n=count, size=count)


def copied(bench: Bench) -> Iterator[Figure]:
    """COPY into a table without triggers."""
    count = bench.size(20_000, 500)
    with _bare_table(bench) as database, psycopg.connect(bench.server.server.dsn(database)) as conn:
        began = time.perf_counter()
        with conn.cursor().copy("copy bare (task_type, queue_name, payload) from stdin") as copy:
            copy.write("".join(f'noop\tdefault\t{{"i": {i}}}\n' for i in range(count)))
        conn.commit()
        rate = count / (time.perf_counter() - began)
    yield Figure("COPY", "rate", "/s", [rate], "into a bare table")


ROWS = (
    Row(
        "submit",
        "one task a call, one connection",
        single,
        (Target("rate", BEST_RIVAL, at_least=1.2), Target("rate", "bare INSERT", at_least=0.6)),
        bare_insert,
        with_rivals=True,
    ),
    Row("submit-own", "typed submit, and 8 and 32 clients in one process", others),
    Row(
        "insert",
        "plain INSERT by pgbench, with all checks and a worker on the queue",
        insert,
        (
            Target("32 clients", "bare INSERT", at_least=0.5),
            Target("1 client", "bare INSERT", at_least=0.7),
        ),
        bare_inserts,
    ),
    Row(
        "bulk",
        "20,000 tasks by the call for many",
        bulk,
        (Target("rate", BEST_RIVAL, at_least=1.2),),
        copied,
        with_rivals=True,
    ),
)
