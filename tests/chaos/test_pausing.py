"""Workers that are paused and resumed while tasks come: none is lost, and none is claimed by a paused worker."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

from tests.chaos.history import violations
from tests.chaos.test_chaos import Fleet, is_settled, produce, read_history
from tests.polling import poll

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg

    Connection = psycopg.Connection[Any]

TASKS = 6_000
PAUSES = 8
DEADLINE_S = 60.0
WORKERS = "select id from pgqueue.worker_overview where state = 'alive'"
NOTE_CLAIMS = """
create table public.claimed (worker_id bigint, claimed_at timestamptz default clock_timestamp());
create function public.note_claim() returns trigger language plpgsql as $$
begin
    insert into public.claimed (worker_id) values (new.worker_id);
    return null;
end $$;
create trigger note_claim after insert on pgqueue.claims for each row execute function public.note_claim()
"""
"""Handlers may start some time after their claim: the claims themselves are what must not be."""
CLAIMED = "select count(*) from public.claimed where worker_id = %s and claimed_at > %s and claimed_at <= %s"
RUNNING = "select running from pgqueue.worker_overview where id = %s"
NOW = "select pgqueue._now()"


def value(conn: Connection, query: str, *parameters: object) -> Any:  # noqa: ANN401 - whatever SQL returns
    row = conn.execute(query.encode(), parameters).fetchone()
    assert row is not None
    return row[0]


def pause_one(conn: Connection, worker: int) -> None:
    """Pause a worker until all that it ran has ended; it claims nothing in between. Then it goes on."""
    value(conn, "select pgqueue.pause_worker(%s)", worker)
    paused_at = value(conn, NOW)
    poll(lambda: value(conn, RUNNING, worker) == 0, deadline_s=DEADLINE_S)
    until = value(conn, NOW)
    assert value(conn, CLAIMED, worker, paused_at, until) == 0
    value(conn, "select pgqueue.resume_worker(%s)", worker)


def test_paused_workers_claim_nothing_and_nothing_is_lost(dsn: str, conn: Connection, tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311 - a run that can be repeated
    conn.execute("select pgqueue.create_queue('slow')")
    conn.execute(NOTE_CLAIMS)
    fleet = Fleet(dsn, tmp_path)
    submitted: set[int] = set()
    producer = threading.Thread(target=lambda: submitted.update(produce(dsn, TASKS)))
    try:
        poll(lambda: len(conn.execute(WORKERS).fetchall()) == len(fleet.processes), deadline_s=DEADLINE_S)
        workers = [row[0] for row in conn.execute(WORKERS)]
        producer.start()
        for _ in range(PAUSES):
            pause_one(conn, chance.choice(workers))
        producer.join()
        poll(lambda: is_settled(dsn, fleet), deadline_s=DEADLINE_S)
        for worker in workers:
            value(conn, "select pgqueue.pause_worker(%s)", worker)
        last = value(conn, "select pgqueue.submit('quick', '{\"n\": 1}')")
        poll(
            lambda: value(conn, "select count(*) from pgqueue.worker_overview where state = 'paused'") == len(workers),
            deadline_s=DEADLINE_S,
        )
        assert value(conn, "select status from pgqueue.get_task(%s)", last) == "pending"
        value(conn, "select pgqueue.resume_worker(%s)", workers[0])
        poll(lambda: value(conn, "select status from pgqueue.get_task(%s)", last) == "completed", deadline_s=DEADLINE_S)
        assert value(conn, "select worker_id from pgqueue.executions where task_id = %s", last) == workers[0]
        idle = conn.execute(
            "select 1 from unnest(%s) w where w not in (select worker_id from public.claimed)", (workers,)
        )
        assert idle.fetchall() == []
    finally:
        statuses = fleet.end()
    log = (tmp_path / "workers.log").read_text()[-5000:]
    assert violations(read_history(dsn, submitted | {last}, tmp_path / "witness")) == [], log
    assert statuses == [0] * len(fleet.processes), log
