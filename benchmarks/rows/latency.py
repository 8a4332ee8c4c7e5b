"""How long a task waits for its handler, from before the call of submit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.bench import latencies
from benchmarks.flow import flow
from benchmarks.model import BEST_RIVAL, Figure, Row, Target
from benchmarks.peers.catalogue import FLOOR, OWN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

CALLS = 250
"""Calls of submit in a second, where a rate is given."""
FEW_CALLS = 100
"""The same with large calls: a task's time begins with its call, and most of a large one is waiting for itself."""
KEPT_UP = ("graphile-worker", "pgqueuer")
"""Those that come near the rates at which the loaded rows compare."""


def idle(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """An idle worker, one task every 20 ms."""
    count = bench.size(1_500, 25)
    yield from latencies(peer, bench.paced(peer, count), f"{count:,} tasks, one every 20 ms")


def floor(bench: Bench) -> Iterator[Figure]:
    """The same through a bare table."""
    yield from idle(bench, FLOOR)


def pinned(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """The same while an old snapshot is held open."""
    count = bench.size(1_500, 25)
    for metric, is_pinned in (("pinned ", True), ("free ", False)):
        yield from latencies(peer, bench.paced(peer, count, pinned=is_pinned), "one every 20 ms", metric)


def own_rate(bench: Bench) -> float:
    """Return what pgqueue sustains, from this run's row or from a look that is long enough not to flatter it."""
    if "sustained" not in bench.memory:
        bench.memory["sustained"] = flow(bench, OWN, bench.seconds(20)).rate()
    return bench.memory["sustained"]


def half(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """All that keep up at half of what pgqueue sustains."""
    if peer.is_own or peer.name in KEPT_UP:
        yield from _loaded(bench, peer, 0.5)
        yield from _loaded(bench, peer, 0.5, FEW_CALLS, "large calls ")


def nearly_full(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Show pgqueue at nine tenths of what it sustains."""
    yield from _loaded(bench, peer, 0.9, FEW_CALLS)


def _loaded(bench: Bench, peer: Peer, share: float, calls: int = CALLS, metric: str = "") -> Iterator[Figure]:
    rate = own_rate(bench) * share
    call = max(1, round(rate / calls))
    found = flow(bench, peer, bench.seconds(20), rate=rate, call=call)
    behind = ", the submitter fell behind" if found.behind else ""
    setup = f"{rate:,.0f} tasks/s in calls of {call}, 2 workers{behind}"
    yield from latencies(peer, found.latencies(), setup, metric)
    yield Figure(peer.name, f"{metric}rate", "/s", [found.rate()], setup)


ROWS = (
    Row(
        "latency",
        "from submit to the start of the handler, one task every 20 ms",
        idle,
        (Target("p50", BEST_RIVAL, at_most=0.6), Target("p99", BEST_RIVAL, at_most=0.6)),
        floor,
        with_rivals=True,
    ),
    Row(
        "latency-half",
        "the same at half of the rate that pgqueue sustains",
        half,
        (Target("p99", "graphile-worker", at_most=0.5), Target("p99", "pgqueuer", at_most=0.5)),
        with_rivals=True,
    ),
    Row("latency-90", "the same at nine tenths of it", nearly_full),
    Row("latency-pinned", "one task every 20 ms while an old snapshot is held open", pinned),
)
