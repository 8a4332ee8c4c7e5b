"""Submitting and working at the same time, for long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psycopg

from benchmarks.bench import percentile
from benchmarks.flow import Flow, flow
from benchmarks.model import Figure, Row, Target
from benchmarks.peers.catalogue import OWN
from benchmarks.rows.latency import own_rate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

FIRST = (0.0, 0.1)
LAST = (0.9, 1.0)
STEADY = 2_000


def sustained(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """One process submits in calls of 500 while fewer than 20,000 tasks are under way; two workers."""
    found = flow(bench, peer, bench.seconds(60))
    first, last = found.backlogs()
    if peer is OWN:
        bench.memory["sustained"] = found.rate()
    setup = f"calls of 500, 2 workers, {peer.setup}"
    yield Figure(peer.name, "rate", "/s", [found.rate()], setup)
    yield Figure(peer.name, "first tenth", "/s", [found.rate(FIRST)], setup)
    yield Figure(peer.name, "last tenth", "/s", [found.rate(LAST)], setup)
    yield Figure(peer.name, "backlog, first tenth", "tasks", [first], setup)
    yield Figure(peer.name, "backlog, last tenth", "tasks", [last], setup)


def pinned_long(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """2,000 tasks a second in calls of 10 for ten minutes, under an old snapshot; queue_stats once a second."""
    if peer.speed < 2 * STEADY:
        return
    looks: list[float] = []
    every_second = (lambda database: looks.append(_queue_stats(bench, database))) if peer is OWN else None
    seconds = bench.seconds(600, 5)
    found = flow(bench, peer, seconds, rate=STEADY, call=10, pinned=True, every_second=every_second)
    yield from _minutes(peer.name, found, looks)


def _queue_stats(bench: Bench, database: str) -> float:
    with psycopg.connect(bench.server.server.dsn(database), autocommit=True) as conn:
        began = time.perf_counter()
        conn.execute("select * from pgqueue.queue_stats('default')")
        return (time.perf_counter() - began) * 1000


def _minutes(name: str, found: Flow, looks: list[float]) -> Iterator[Figure]:
    setup = f"{STEADY:,}/s in calls of 10, 2 workers" + (", the submitter fell behind" if found.behind else "")
    for word, part in (("first", FIRST), ("last", LAST)):
        yield Figure(name, f"start p99, {word} tenth", "ms", [percentile(found.latencies(part), 99)], setup)
        yield Figure(name, f"submit p99, {word} tenth", "ms", [percentile(found.submits(part), 99)], setup)
    if looks:
        tenth = max(1, len(looks) // 10)
        yield Figure(name, "queue_stats, first tenth", "ms", [percentile(looks[:tenth], 50)], setup)
        yield Figure(name, "queue_stats, last tenth", "ms", [percentile(looks[-tenth:], 50)], setup)


def soak(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Ten minutes at seven tenths of what pgqueue sustains."""
    rate = 0.7 * own_rate(bench)
    sizes: list[float] = []
    query = "select pg_total_relation_size('pgqueue.tasks')"
    found = flow(
        bench,
        peer,
        bench.seconds(600, 5),
        rate=rate,
        call=100,
        every_second=lambda database: sizes.append(float(str(bench.server.value(query, database)))),
    )
    setup = f"{rate:,.0f} tasks/s in calls of 100, 2 workers"
    tenth = max(1, len(sizes) // 10)
    for word, part, some in (("first", FIRST, sizes[:tenth]), ("last", LAST, sizes[-tenth:])):
        yield Figure(peer.name, f"rate, {word} tenth", "/s", [found.rate(part)], setup)
        yield Figure(peer.name, f"p99, {word} tenth", "ms", [percentile(found.latencies(part), 99)], setup)
        yield Figure(peer.name, f"table, {word} tenth", "MB", [percentile(some, 50) / 1e6], setup)


def _no_worse(metric: str, bound: float) -> Target:
    last, first = f"{metric}, last tenth", f"{metric}, first tenth"
    least, most = (bound, None) if bound < 1 else (None, bound)
    return Target(last, OWN.name, at_least=least, at_most=most, other_metric=first)


ROWS = (
    Row(
        "sustained",
        "one process submits, two workers work, for a minute",
        sustained,
        (
            Target("rate", "graphile-worker", at_least=1.1),
            Target("last tenth", OWN.name, at_least=0.95, other_metric="first tenth"),
        ),
        with_rivals=True,
        most_repeats=1,
    ),
    Row(
        "pinned-long",
        "ten minutes at 2,000 tasks a second while an old snapshot is held open",
        pinned_long,
        (_no_worse("start p99", 1.5), _no_worse("submit p99", 1.5), _no_worse("queue_stats", 1.5)),
        is_long=True,
        with_rivals=True,
        plotted="start p99, last tenth",
        most_repeats=1,
    ),
    Row(
        "soak",
        "ten minutes at seven tenths of the sustained rate",
        soak,
        (_no_worse("rate", 0.9), _no_worse("p99", 1.1), _no_worse("table", 1.1)),
        most_repeats=1,
        is_long=True,
    ),
)
