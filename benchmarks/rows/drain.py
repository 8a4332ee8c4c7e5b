"""How fast a backlog is worked off, and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.model import RIVALS_WITH_HISTORY, Figure, Row, Target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench, Drained
    from benchmarks.peers.catalogue import Peer

FULL = 600_000
QUICK = 3_000


def costs(peer: Peer, drained: Drained, setup: str) -> Iterator[Figure]:
    """What a drain cost besides time."""
    for metric, unit, value in (
        ("worker CPU", "µs", drained.worker_us),
        ("server CPU", "µs", drained.server_us),
        ("memory", "MB", drained.memory_mb),
        ("WAL", "B", drained.wal_bytes),
        ("dead tuples", "rows", drained.dead_tuples),
    ):
        yield Figure(peer.name, metric, unit, [value], setup)


def drain(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """One worker process, everybody at their best."""
    count = bench.tasks_for(peer, FULL, QUICK)
    drained = bench.drain(peer, count)
    setup = f"{count:,} tasks, {peer.setup}"
    yield Figure(peer.name, "rate", "/s", [drained.rate], setup)
    yield from costs(peer, drained, setup)


def drain_by_two(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Two worker processes, everybody at their best."""
    count = bench.tasks_for(peer, FULL, QUICK)
    rate = bench.drain(peer, count, workers=2).rate
    yield Figure(peer.name, "rate", "/s", [rate], f"{count:,} tasks, {peer.setup}")


def drain_by_default(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """One worker process, everybody as they come."""
    if peer.default_speed:
        count = bench.tasks_for(peer, 60_000, 500, peer.default_speed)
        rate = bench.drain(peer, count, profile="default").rate
        yield Figure(peer.name, "rate", "/s", [rate], f"{count:,} tasks, as it comes")


def kinds(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Other handlers than no-op async ones."""
    for kind, metric, full, slots in (
        ("thread", "plain function in threads", 60_000, 200),
        ("io", "1 ms of waiting", 100_000, 200),
        ("process", "1 ms of computation in processes", 10_000, 32),
    ):
        count = bench.size(full, 200)
        rate = bench.drain(peer, count, profile=kind, kind=kind).rate
        yield Figure(peer.name, metric, "/s", [rate], f"{count:,} tasks, {slots} slots")


def many_workers(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Sixteen worker processes on one queue."""
    count, workers = bench.size(FULL, QUICK), bench.size(16, 3)
    drained = bench.drain(peer, count, workers=workers)
    setup = f"{workers} workers, {count:,} tasks, {peer.setup}"
    yield Figure(peer.name, "rate", "/s", [drained.rate], setup)
    yield Figure(peer.name, "smallest share of a worker", "%", [100 * min(drained.shares) / count], setup)


def retries(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Every task fails once and is retried at once."""
    count = bench.size(100_000, 500)
    rate = bench.drain(peer, count, kind="storm").rate
    yield Figure(peer.name, "rate", "tasks/s", [rate], f"{count:,} tasks, two attempts each, {peer.setup}")


def pinned(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """The same drain with and without an old snapshot held open."""
    count = bench.tasks_for(peer, 300_000, QUICK)
    free, held = bench.drain(peer, count), bench.drain(peer, count, pinned=True)
    for metric, rate in (
        ("pinned", held.rate),
        ("free", free.rate),
        ("first quarter", held.quarters[0]),
        ("last quarter", held.quarters[-1]),
    ):
        yield Figure(peer.name, metric, "/s", [rate], f"{count:,} tasks, {peer.setup}")


ROWS = (
    Row(
        "drain",
        "work off a backlog of no-op tasks with one worker process",
        drain,
        (
            Target("rate", "graphile-worker", at_least=1.1),
            Target("rate", "pgqueuer", at_least=2.5),
            Target("rate", "bare", at_least=0.9),
            Target("WAL", RIVALS_WITH_HISTORY, at_most=1.0),
            Target("dead tuples", RIVALS_WITH_HISTORY, at_most=1.0),
        ),
        with_rivals=True,
        with_bare=True,
    ),
    Row(
        "drain-2",
        "the same with two worker processes",
        drain_by_two,
        (Target("rate", "graphile-worker", at_least=1.1),),
        with_rivals=True,
    ),
    Row(
        "drain-default",
        "the same with one worker process and default settings",
        drain_by_default,
        (Target("rate", "pgqueuer", at_least=1.1),),
        with_rivals=True,
    ),
    Row("drain-kinds", "handlers in threads, that wait, and in processes", kinds),
    Row("many-workers", "sixteen worker processes on one queue", many_workers),
    Row("retries", "a storm: every task fails once and is retried at once", retries),
    Row(
        "pinned",
        "the same drain while an old snapshot is held open",
        pinned,
        (
            Target("pinned", "pgqueue", at_least=0.95, other_metric="free"),
            Target("last quarter", "pgqueue", at_least=0.95, other_metric="first quarter"),
        ),
        with_rivals=True,
    ),
)
