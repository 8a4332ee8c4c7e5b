"""Time the reads of a big database, filled by benchmarks.load_scale.

    python -m benchmarks.scale DSN

Each read runs many times on one connection, first unprepared, then prepared, with arguments that vary.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Connection = psycopg.Connection[Any]

__all__ = ["READS", "Timing", "measure"]

READS: dict[str, str] = {
    "get_task": "select * from pgqueue.get_task(%(id)s)",
    "get_progress": "select * from pgqueue.get_progress(%(id)s)",
    "get_executions": "select * from pgqueue.get_executions(%(id)s)",
    "get_logs": "select * from pgqueue.get_logs(%(id)s)",
    "list_tasks": "select * from pgqueue.list_tasks()",
    "list_tasks, page 50": "select * from pgqueue.list_tasks(p_offset => 1000)",
    "list_tasks, before an id": "select * from pgqueue.list_tasks(p_before_id => %(id)s)",
    "list_tasks, running": "select * from pgqueue.list_tasks(p_status => 'running')",
    "list_tasks, pending": "select * from pgqueue.list_tasks(p_status => 'pending')",
    "list_tasks, completed": "select * from pgqueue.list_tasks(p_status => 'completed')",
    "list_tasks, failed": "select * from pgqueue.list_tasks(p_status => 'failed')",
    "list_tasks, a user's": "select * from pgqueue.list_tasks(p_user_id => 'user_50')",
    "list_tasks, a project's": "select * from pgqueue.list_tasks(p_project_id => 'project_0')",
    "list_tasks, a type": "select * from pgqueue.list_tasks(p_task_type => 'type_3')",
    "list_tasks, a type that is not there": "select * from pgqueue.list_tasks(p_task_type => 'none')",
    "list_cursor, a type that is not there": "select pgqueue.list_cursor(p_task_type => 'none')",
    "list_tasks, a queue": "select * from pgqueue.list_tasks(p_queue_name => 'mail')",
    "list_tasks, a rare queue": "select * from pgqueue.list_tasks(p_queue_name => 'rare')",
    "list_tasks, created a week ago": (
        "select * from pgqueue.list_tasks(p_created_from => now() - interval '8 days',"
        " p_created_to => now() - interval '7 days')"
    ),
    "count_tasks": "select * from pgqueue.count_tasks()",
    "count_tasks, completed": "select * from pgqueue.count_tasks(p_status => 'completed')",
    "count_tasks, a queue": "select * from pgqueue.count_tasks(p_queue_name => 'mail')",
    "count_tasks, a type": "select * from pgqueue.count_tasks(p_task_type => 'type_3')",
    "count_tasks, a user's": "select * from pgqueue.count_tasks(p_user_id => 'user_50')",
    "get_retryable_tasks": "select * from pgqueue.get_retryable_tasks()",
    "get_retryable_tasks, a rare queue": "select * from pgqueue.get_retryable_tasks(p_queue_name => 'rare')",
    "queue_stats": "select * from pgqueue.queue_stats('default')",
    "queue_stats, a short queue": "select * from pgqueue.queue_stats('rare')",
    "queue_overview": "select * from pgqueue.queue_overview",
    "task_statistics, 7 days": "select * from pgqueue.task_statistics(now() - interval '7 days', now())",
    "task_statistics, 30 days": "select * from pgqueue.task_statistics(now() - interval '30 days', now())",
    "task_statistics, an hour": "select * from pgqueue.task_statistics(now() - interval '1 hour', now())",
    "task_series, a day by minutes": "select * from pgqueue.task_series(now() - interval '1 day', now(), 'minute')",
    "task_series, a week by hours": "select * from pgqueue.task_series(now() - interval '7 days', now(), 'hour')",
    "task_series, a week by hours and queue": (
        "select * from pgqueue.task_series(now() - interval '7 days', now(), 'hour', p_by => '{queue_name}')"
    ),
    "task_series, a month by days": "select * from pgqueue.task_series(now() - interval '30 days', now(), 'day')",
    "health": "select * from pgqueue.health",
}


class Timing(NamedTuple):
    """Milliseconds of one read."""

    name: str
    median: float
    p99: float
    prepared_median: float
    prepared_p99: float


def measure(dsn: str, calls: int = 100, reads: dict[str, str] | None = None, budget_s: float = 2.0) -> Iterator[Timing]:
    """Yield the times of every read: so many calls each way, fewer where they would take longer than the budget."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        [newest] = conn.execute("select coalesce(max(id), 1) from pgqueue.all_tasks").fetchone() or (1,)

        def arguments(nr: int) -> dict[str, int]:
            return {"id": 1 + (newest * 7919 * (nr + 1)) % newest}

        for name, sql in (reads or READS).items():
            each: dict[bool, tuple[float, float]] = {}
            for prepare in (False, True):

                def run(nr: int, sql: str = sql, *, prepare: bool = prepare) -> None:
                    conn.execute(sql.encode(), arguments(nr), prepare=prepare).fetchall()

                each[prepare] = _summary(_times(run, calls, budget_s))
            yield Timing(name, *each[False], *each[True])


def _times(run: Callable[[int], None], calls: int, budget_s: float) -> list[float]:
    run(0)
    times: list[float] = []
    deadline = time.perf_counter() + budget_s
    while len(times) < calls and time.perf_counter() < deadline:
        started = time.perf_counter()
        run(len(times) + 1)
        times.append((time.perf_counter() - started) * 1000)
    return times


def _summary(times: list[float]) -> tuple[float, float]:
    return statistics.median(times), sorted(times)[min(len(times) - 1, int(len(times) * 0.99))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dsn")
    parser.add_argument("--calls", type=int, default=100)
    given = parser.parse_args()
    print(f"{'ms':<42}{'median':>9}{'p99':>9}{'prepared':>10}{'p99':>9}")
    for row in measure(given.dsn, given.calls):
        print(
            f"{row.name:<42}{row.median:9.2f}{row.p99:9.2f}{row.prepared_median:10.2f}{row.prepared_p99:9.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
