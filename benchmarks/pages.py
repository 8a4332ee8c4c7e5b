"""Time the dashboard's pages over a big database, filled by benchmarks.load_scale.

    python -m benchmarks.pages DSN

The server is a process of its own; a page counts from its request to its last byte.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from benchmarks.web import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES = (
    *("/", "/?range=6h", "/?range=24h", "/?range=7d", "/?range=30d"),
    *("/tasks", "/tasks?state=failed", "/tasks?state=running", "/tasks?queue=rare", "/tasks?type=none"),
    *("/tasks?type=type_3", "/tasks?since=24h", "/tasks?since=7d&state=failed"),
    *("/tasks?q=payload.n:17&since=7d", "/tasks?q=error:no&since=7d"),
    *("/tasks/{live}", "/tasks/{finished}", "/queues", "/workers", "/schedules", "/system"),
)


def paths(conn: psycopg.Connection[Any]) -> list[str]:
    """Return the paths of all pages, of tasks that there are."""
    row = conn.execute(
        "select (select max(id) from pgqueue.tasks), (select max(id) from pgqueue.finished_tasks)"
    ).fetchone()
    live, finished = row or (1, 1)
    return [path.format(live=live, finished=finished) for path in PAGES]


def measure(url: str, paths: list[str], times: int) -> Iterator[tuple[str, float, float]]:
    """Yield of each page its path, and the median and the longest time in ms."""
    with httpx.Client(base_url=url, timeout=60) as client:
        for path in paths:
            client.get(path).raise_for_status()
            took = []
            for _ in range(times):
                began = time.perf_counter()
                client.get(path)
                took.append((time.perf_counter() - began) * 1000)
            yield path, statistics.median(took), max(took)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dsn")
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    with psycopg.connect(given.dsn) as conn, serving(given.dsn) as url:
        print(f"{'page, ms':<40}{'median':>9}{'longest':>9}")
        for path, median, longest in measure(url, paths(conn), given.times):
            print(f"{path:<40}{median:9.1f}{longest:9.1f}", flush=True)


if __name__ == "__main__":
    main()
