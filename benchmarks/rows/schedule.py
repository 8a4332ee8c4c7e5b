"""Schedules: many of them, and many of these due at once."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psycopg

from benchmarks.bench import LOOK_S
from benchmarks.model import Figure, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

MAKE = """
    insert into pgqueue.schedules (name, task_type, cron_expr, payload)
    select 's' || i, 'noop', '* * * * *', '{"i": 1}' from generate_series(1, %s) i
"""
FAR = "update pgqueue.schedules set planned_at = now(), next_run_at = now() + interval '1 day'"
FORGET = "truncate pgqueue.schedule_ticks"
"""A tick of this very minute that was fired while the others were planned would not be fired again."""
DUE = """
    update pgqueue.schedules set next_run_at = date_trunc('minute', now())
    where id in (select id from pgqueue.schedules limit %s)
"""
UNPLANNED = "select count(*) from pgqueue.schedules where planned_at is null"
WAKE = """select pg_notify('pgqueue_control', '{"kind": "schedules"}')"""


def schedules(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Plan what nobody has planned; then let some fall due in one moment, and wait until the last one's handler ran."""
    count, due = bench.size(100_000, 400), bench.size(1_000, 50)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(bench.database(peer))
        conn = stack.enter_context(psycopg.connect(bench.server.server.dsn(database), autocommit=True))
        conn.execute(MAKE, (count,))
        bench.server.settle(database)
        began = time.perf_counter()
        worker = bench.idle_worker(peer, database, stack)
        while (conn.execute(UNPLANNED).fetchone() or (0,))[0]:
            worker.check()
            time.sleep(LOOK_S)
        yield Figure(peer.name, "planned", "/s", [count / (time.perf_counter() - began)], f"{count:,} schedules")
        conn.execute(FAR)
        conn.execute(FORGET)
        bench.server.settle(database)
        before = worker.reading().ran
        began = time.perf_counter()
        with conn.transaction():
            conn.execute(DUE, (due,))
            conn.execute(WAKE)
        bench.wait_for(lambda: worker.reading().ran >= before + due, worker)
        took = time.perf_counter() - began
        yield Figure(peer.name, "until the last one ran", "ms", [took * 1000], f"{due:,} due at once of {count:,}")


ROWS = (Row("schedules", "100,000 schedules, of which 1,000 fall due in the same moment", schedules),)
