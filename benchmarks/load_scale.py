"""Fill a database with a history of years' worth: live tasks, and finished ones spread over days.

    python -m benchmarks.load_scale DSN --live 1000000 --finished 10000000 --days 30

The server makes the rows itself, day by day; the rollups are made by the fold that maintenance runs.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue import schema

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

__all__ = ["fold", "load"]

QUEUES = """
select pgqueue.create_queue(name) from unnest(array['mail', 'reports', 'rare']) name
"""
FINISHED = """
insert into pgqueue.finished_tasks (
    id, task_type, queue_name, priority, payload, status, max_retries, run_at, user_id, project_id, attempt, failures,
    crashes, worker_id, created_at, started_at, finished_at, error
)
select
    d.id, 'type_' || d.id %% 10, d.queue_name, 5, jsonb_build_object('n', d.id), d.status, 3, d.created_at,
    case when d.id %% 50 = 0 then 'user_' || d.id %% 1000 end,
    case when d.id %% 100 = 0 then 'project_' || d.id %% 20 end,
    1, (d.status = 'failed')::int, 0, 1, d.created_at, d.finished_at - d.run, d.finished_at,
    case when d.status = 'failed' then 'ValueError: no' end
from (
    select
        n as id,
        case
            when n %% 1000 = 0 then 'rare'
            when n %% 10 = 0 then 'reports'
            when n %% 3 = 0 then 'mail'
            else 'default'
        end as queue_name,
        case when n %% 97 = 0 then 'failed' when n %% 389 = 0 then 'cancelled' else 'completed' end as status,
        s.finished_at, r.run, s.finished_at - r.run - r.wait as created_at
    from generate_series(%(first)s::bigint, %(last)s::bigint) n
    cross join lateral (
        select
            %(day)s::timestamptz
            + %(length)s::interval * ((n - %(first)s) / (%(last)s - %(first)s + 1.0)::float8) as finished_at
    ) s
    cross join lateral (
        select
            interval '1 second' * exp((random() + 0 * n) * 6 - 4) as run,
            interval '1 second' * exp((random() + 0 * n) * 6 - 5) as wait
    ) r
) d
"""
ATTEMPTS = """
insert into pgqueue.attempts (
    task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message
)
select
    f.id, 1, f.worker_id, f.started_at, f.finished_at, f.status,
    case when f.error is not null then 'ValueError' end, f.error
from pgqueue.finished_tasks f
where f.finished_at >= %(day)s and f.finished_at < %(day)s::timestamptz + interval '24 hours'
and f.status <> 'completed'
"""
LIVE = """
insert into pgqueue.tasks (task_type, queue_name, priority, payload, run_at, user_id)
select
    'type_' || n %% 10, case when n %% 10 = 0 then 'mail' when n %% 1000 = 1 then 'reports' else 'default' end,
    case when n %% 4 = 0 then 10 else 5 end, jsonb_build_object('n', n),
    clock_timestamp() + case when n %% 10 = 0 then interval '1 day' else '0' end,
    case when n %% 50 = 0 then 'user_' || n %% 1000 end
from generate_series(1, %(live)s) n
"""


def load(conn: Connection, live: int, finished: int, days: int) -> None:
    """Fill a migrated, empty database over an autocommit connection; the last of the days is today."""
    conn.execute("select set_config('pgqueue.notify', 'off', false)")
    conn.execute("select set_config('synchronous_commit', 'off', false)")
    conn.execute(QUEUES)
    today, now = conn.execute("select date_trunc('day', now(), 'UTC'), now()").fetchall()[0]
    a_day = -(-finished // days)
    for nr in range(days):
        first, last = nr * a_day + 1, min((nr + 1) * a_day, finished)
        back = days - 1 - nr
        for table in ("finished_tasks", "attempts", "task_logs"):
            column = "logged_at" if table == "task_logs" else "finished_at"
            conn.execute(
                "select pgqueue._make_partition(%s, %s, (%s::timestamptz at time zone 'UTC')::date - %s)",
                (table, column, today, back),
            )
        day = conn.execute("select %s::timestamptz - interval '24 hours' * %s", (today, back)).fetchall()[0][0]
        length = (now - today) if back == 0 else "24 hours"
        conn.execute(FINISHED, {"first": first, "last": last, "day": day, "length": length})
        conn.execute(ATTEMPTS, {"day": day})
    conn.execute("select setval(pg_get_serial_sequence('pgqueue.tasks', 'id'), %s)", (finished + 1,))
    conn.execute(LIVE, {"live": live})
    conn.execute("vacuum analyze")
    fold(conn)
    conn.execute("select pgqueue.maintain()")


def fold(conn: Connection) -> int:
    """Fold all history into rollups, as maintenance does a day at a time; returns how many calls it took."""
    start = conn.execute("select pgqueue._now()").fetchall()[0][0]
    calls = 0
    while True:
        calls += 1
        if conn.execute("select pgqueue._fold_statistics() >= %s", (start,)).fetchall()[0][0]:
            return calls


def main() -> None:
    """Migrate and fill the database that is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dsn")
    parser.add_argument("--live", type=int, default=1_000_000)
    parser.add_argument("--finished", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    schema.migrate(given.dsn)
    started = time.monotonic()
    with psycopg.connect(given.dsn, autocommit=True) as conn:
        load(conn, given.live, given.finished, given.days)
    print(f"{given.live:,} live and {given.finished:,} finished tasks in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
