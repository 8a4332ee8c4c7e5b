"""What a claim costs, whatever waits beside it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.bench import percentile
from benchmarks.model import Figure, Row, Target
from benchmarks.peers.catalogue import OWN
from pgqueue import calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

CLAIM = 100
TIMES = 100
SMALL = "20,000 live"
LARGE = "10,000,000 live"
FILL = """
    insert into pgqueue.tasks (task_type, queue_name, priority, payload)
    select 'noop', 'q' || i % %s, i / %s % %s, jsonb_build_object('i', i) from generate_series(1, %s) i
""".replace("% %s", "%% %s")


def fill(bench: Bench, database: str, count: int, queues: int = 1, priorities: int = 1) -> None:
    """Put tasks into so many queues, and so many priorities of each, in one go."""
    with psycopg.connect(bench.server.server.dsn(database), autocommit=True) as conn:
        conn.execute("select pgqueue.create_queue('q' || i) from generate_series(0, %s) i", (queues - 1,))
        with conn.transaction():
            conn.execute("set local pgqueue.in_bulk = 'on'")
            conn.execute(FILL, (queues, queues, priorities, count))
            conn.execute("insert into pgqueue.lanes select distinct t.queue_name, t.rank from pgqueue.tasks t")
    bench.server.settle(database)


def measure(bench: Bench, count: int, queues: int = 1, priorities: int = 1) -> tuple[float, float]:
    """Return the median ms of a claim of 100 from its cursor, and of one that sweeps from the start."""
    with bench.database(OWN) as database:
        fill(bench, database, count, queues, priorities)
        with psycopg.connect(
            bench.server.server.dsn(database), autocommit=True, prepare_threshold=0, options="-c timezone=UTC"
        ) as conn:
            return _claims(conn, "0", queues), _claims(conn, None, queues)


def _claims(conn: psycopg.Connection[Any], behind: str | None, queues: int) -> float:
    row = conn.execute("select pgqueue.register_worker('claim', 1, array['q0'])").fetchone()
    took = []
    cursors: dict[str, tuple[list[int], list[str], list[int]]] = {}
    for number in range(TIMES):
        queue = f"q{number * 7 % queues}"
        cursor = cursors.get(queue, ([], [], []))
        began = time.perf_counter()
        rows = conn.execute(calls.CLAIM, (*(row or ()), queue, CLAIM, number, *cursor, behind, [])).fetchall()
        took.append((time.perf_counter() - began) * 1000)
        if len(rows) != CLAIM:
            raise RuntimeError(f"a claim of {CLAIM} beside more tasks than that brought {len(rows)}")
        cursors[queue] = ([rows[-1][2]], [rows[-1][3]], [rows[-1][0]])
    return percentile(took, 50)


def claim(bench: Bench, _: Peer) -> Iterator[Figure]:
    """20,000 and a million live tasks; a million in 1,000 queues of 20 priorities."""
    large = bench.size(1_000_000, 25_000)
    yield from _figures(bench, SMALL, 20_000)
    yield from _figures(bench, "1,000,000 live", large)
    yield from _figures(bench, "1,000 queues, 20 priorities", large, bench.size(1_000, 20), 20)


def claim_large(bench: Bench, _: Peer) -> Iterator[Figure]:
    """Ten million live tasks."""
    yield from _figures(bench, SMALL, 20_000)
    yield from _figures(bench, LARGE, bench.size(10_000_000, 25_000))


def _figures(bench: Bench, word: str, count: int, queues: int = 1, priorities: int = 1) -> Iterator[Figure]:
    behind_cursor, sweep = measure(bench, count, queues, priorities)
    setup = f"{count:,} tasks, claims of {CLAIM}"
    yield Figure(OWN.name, f"claim, {word}", "ms", [behind_cursor], setup)
    yield Figure(OWN.name, f"sweep, {word}", "ms", [sweep], setup)


ROWS = (
    Row("claim", "a claim of 100 beside few tasks, a million, and 1,000 queues of 20 priorities", claim),
    Row(
        "claim-10m",
        "a claim of 100 beside ten million tasks",
        claim_large,
        (Target(f"claim, {LARGE}", OWN.name, at_most=2.0, other_metric=f"claim, {SMALL}"),),
        most_repeats=1,
        is_long=True,
    ),
)
