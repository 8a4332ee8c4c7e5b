"""Reads, pages and retention beside a million live and ten million finished tasks."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks import pages, scale
from benchmarks.load_scale import load
from benchmarks.model import Figure, Row
from benchmarks.web import serving
from pgqueue import Database, retention

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

DAYS = 30
KEPT_DAYS = 1
OLD = """
    select to_date(right(c.relname, 8), 'YYYYMMDD') as day, pg_total_relation_size(c.oid)
    from pg_class c
    where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'r'
    and c.relname ~ '^(finished_tasks|attempts|task_logs)_[0-9]{8}$'
    and to_date(right(c.relname, 8), 'YYYYMMDD') < (now() at time zone 'UTC')::date - %s::int
"""


def history(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Fill a database, time every read and page, and drop what is older than a day."""
    live, finished = bench.size(1_000_000, 2_000), bench.size(10_000_000, 20_000)
    setup = f"{live:,} live, {finished:,} finished"
    with bench.database(peer) as database:
        dsn = bench.server.server.dsn(database)
        with psycopg.connect(dsn, autocommit=True) as conn:
            load(conn, live, finished, DAYS)
            bench.server.settle(database)
            for read in scale.measure(dsn, calls=bench.size(100, 2)):
                yield from _figures(read.name, read.prepared_median, read.prepared_p99, setup)
            with serving(dsn) as url:
                for path, median, longest in pages.measure(url, pages.paths(conn), bench.size(20, 2)):
                    yield from _figures(f"page {path}", median, longest, setup)
            yield from _drop(bench, database, conn)


def _figures(name: str, median: float, longest: float, setup: str) -> Iterator[Figure]:
    yield Figure(name, "median", "ms", [median], setup)
    yield Figure(name, "p99", "ms", [longest], setup)


def _drop(bench: Bench, database: str, conn: psycopg.Connection[Any]) -> Iterator[Figure]:
    """Drop whole days. That in which the age ends goes by batches, which is another matter: it is emptied first."""
    for parent in ("finished_tasks", "attempts"):
        conn.execute(f"truncate pgqueue.{parent}_{_yesterday(conn)}".encode())
    bench.server.settle(database)
    old = conn.execute(OLD, (KEPT_DAYS,)).fetchall()
    size = sum(size for _, size in old)
    removed, took = asyncio.run(_cleanup(bench.server.server.dsn(database)))
    setup = f"{len({day for day, _ in old})} days, {removed:,} tasks, {size / 1e9:.1f} GB"
    yield Figure("drop of old days", "median", "ms", [took * 1000], setup)
    query = "select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables where relname ~ '_[0-9]{8}$'"
    yield Figure("dead tuples after it", "median", "", [float(str(bench.server.value(query, database)))], setup)


def _yesterday(conn: psycopg.Connection[Any]) -> str:
    row = conn.execute(
        "select to_char((now() at time zone 'UTC')::date - %s::int, 'YYYYMMDD')", (KEPT_DAYS,)
    ).fetchone()
    return str(row[0]) if row else ""


async def _cleanup(dsn: str) -> tuple[int, float]:
    async with Database(dsn) as db:
        began = time.perf_counter()
        return await retention.cleanup(db, timedelta(days=KEPT_DAYS)), time.perf_counter() - began


ROWS = (
    Row(
        "history",
        "reads, pages and dropping old days beside a million live and ten million finished tasks",
        history,
        most_repeats=1,
        is_long=True,
    ),
)
