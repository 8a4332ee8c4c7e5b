"""Queues and workers from the command line, and `top` on a pipe."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    from tests.cli.conftest import Cli


def test_queues_are_made_changed_paused_resumed_and_deleted(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    made = cli("queue", "create", "parcels", "--concurrency", 3, "--capacity", 100)
    assert (made.code, made.lines[1].split()) == (0, ["parcels", "0", "0", "0", "-", "3", "100", "0", "open"])
    changed = cli("queue", "create", "parcels", "--max-crashes", 9, "-o", "json").json[0]
    assert (changed["concurrency"], changed["capacity"]) == (3, 100)
    assert "paused: the printer burns" in cli("queue", "pause", "parcels", "--reason", "the printer burns").out
    conn.execute("select pgqueue.submit('ship', p_queue_name => 'parcels')")
    assert [row["name"] for row in cli("queue", "list", "-o", "json").json if row["paused_at"]] == ["parcels"]
    assert cli("queue", "resume", "parcels").lines[1].endswith("waits for a worker")
    counted = cli("queue", "stats", "parcels", "-o", "jsonl").json
    assert (counted["pending"], counted["queue_capacity"]) == (1, 100)
    kept = cli("queue", "delete", "parcels")
    assert (kept.code, kept.out) == (4, "")
    assert "has live tasks" in kept.err
    conn.execute("select pgqueue.cancel_task(1)")
    gone = cli("queue", "delete", "parcels")
    assert (gone.code, gone.out) == (0, "")
    missing = cli("queue", "pause", "parcels")
    assert (missing.code, "there is no queue 'parcels'" in missing.err) == (2, True)


def test_workers_are_listed_and_asked_to_stop(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    none = cli("workers")
    assert (none.code, none.out) == (0, "")
    assert "no worker runs; start one" in none.err
    conn.execute("select pgqueue.register_worker('here', 7, '{default}', '{\"default\": 5}')")
    assert cli("workers").lines[1].split()[-1] == "default=5"
    assert cli("workers", "stop", 1, "-o", "json").json[0]["state"] == "stopping"
    refused = cli("workers", "stop", 2)
    assert (refused.code, "there is no worker 2" in refused.err) == (2, True)


def test_workers_are_paused_and_resumed(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.register_worker('here', n, '{default}') from generate_series(7, 8) n")
    paused = cli("workers", "pause", 1, 2, "--reason", "disk full", "-o", "json")
    assert [(info["state"], info["pause_reason"]) for info in paused.json] == [("paused", "disk full")] * 2
    assert "paused 2 workers" in paused.err
    assert cli("workers", "resume", 2, "-o", "json").json[0]["state"] == "alive"
    assert [info["state"] for info in cli("workers", "-o", "json").json] == ["paused", "alive"]
    refused = cli("workers", "resume", 3)
    assert (refused.code, "there is no worker 3" in refused.err) == (2, True)


def test_top_shows_snapshots_on_a_pipe(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "select pgqueue.submit('ship'), pgqueue.submit('ship'), "
        "pgqueue.register_worker('here', 7, '{default}', '{\"default\": 5}')"
    )
    conn.execute("select count(*) from pgqueue.claim(1, 'default', 1, 1)")
    conn.execute("select pgqueue.update_progress(1, 40, 'packing')")
    once = cli("top", "--once")
    assert once.code == 0
    assert "1 waiting, 1 running, 1 worker alive" in once.out
    assert "━━━━╌╌╌╌╌╌  40%  packing" in once.out
    streaming = cli.start("top", "--interval", "0.1", "-o", "jsonl")
    assert streaming.stdout is not None
    seen = [json.loads(streaming.stdout.readline()) for _ in range(2)]
    streaming.send_signal(signal.SIGINT)
    assert [shot["running"][0]["progress"] for shot in seen] == [40, 40]
    assert streaming.wait(30) == 130
