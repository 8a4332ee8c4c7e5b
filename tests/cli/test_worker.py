"""A worker from the command line: which service, which queues, how it ends; and tasks followed to their end."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from tests.cli.conftest import Cli

    Until = Callable[[Callable[[], bool]], None]

WRONG = {
    "shpo:queue_service": "there is no module 'shpo'",
    "shop.parts:queue_service": "there is no module 'shop.parts'",
    "shop:queue_servise": "Did you mean 'queue_service'?",
    "shop": "name shop:queue_service",
    "shop:not_a_service": "is of type int",
    "shop.py:queue_service": "here perhaps shop:queue_service",
    "broken:queue_service": "broken.py, line 2)",
    "needy:queue_service": "No module named 'nobody'",
    "garbled:queue_service": "SyntaxError",
}


def test_a_name_that_leads_to_no_service_is_said_where_it_is_wrong(bare_cli: Cli) -> None:
    (bare_cli.folder / "broken.py").write_text("\n1 / 0\n")
    (bare_cli.folder / "needy.py").write_text("import nobody\n")
    (bare_cli.folder / "garbled.py").write_text("def\n")
    answers = bare_cli.each((["worker", target], {"PGQUEUE_DSN": "host=/nowhere"}) for target in WRONG)
    for (target, says), refused in zip(WRONG.items(), answers, strict=True):
        assert (refused.code, refused.out) == (2, ""), target
        assert says in refused.err, target
        assert "hint:" in refused.err, target


def test_options_of_a_worker_are_checked(bare_cli: Cli) -> None:
    wrong = (["--queue", "=3"], ["--queue", "parcels=many"], ["--concurrency", "-1"])
    answers = bare_cli.each((["shop:queue_service", *options], {"program": "pgqueue-worker"}) for options in wrong)
    assert [refused.code for refused in answers] == [2, 2, 2]
    unreachable = bare_cli("shop:queue_service", program="pgqueue-worker", PGQUEUE_DSN="host=/nowhere")
    assert unreachable.code == 3
    assert "the database cannot be reached" in unreachable.err


def test_a_task_from_submit_to_its_result(cli: Cli, conn: psycopg.Connection[Any], until: Until) -> None:
    worker = cli.start("shop:queue_service", "--queue", "parcels=7", "--queue", "default", program="pgqueue-worker")
    until(lambda: conn.execute("select concurrency from pgqueue.workers").fetchone() == ({"parcels": 7, "default": 5},))

    added = cli("submit", "add", "--arg", "a=1", "--arg", "b=2", "--wait")
    assert (added.code, added.out) == (0, "3\n")
    assert "task 1  completed  100%" in added.err
    failed = cli("submit", "fail", "--wait", "-o", "json")
    assert (failed.code, failed.out) == (1, "")
    assert "task 2 failed after 1 attempt: PermanentError: the parcel is lost" in failed.err
    late = cli("submit", "endless", "--timeout-wait", "0.2")
    assert (late.code, late.out) == (124, "")
    assert "task 3 did not end within 200ms; it goes on" in late.err

    conn.execute("select pgqueue.pause_queue('parcels')")
    assert cli("submit", "ship", "--arg", "items=9", "--queue", "parcels").out == "4\n"
    logs, watch = cli.start("task", "logs", 4, "--follow"), cli.start("task", "watch", 4, "-o", "jsonl")
    until(lambda: conn.execute("select count(*) from pgqueue.listeners where task_id = 4").fetchone() == (1,))
    code, screen = cli.in_terminal("task", "watch", 4, width=100, when="pending", then=lambda _: resume(conn))
    assert code == 0
    assert all(part in screen for part in ("━", "pack (", "of 9): item", "\\x1b", "completed"))
    seen = [json.loads(line) for line in watch.communicate(timeout=30)[0].splitlines()]
    assert (watch.returncode, seen[-1]["status"], seen[-1]["progress"]) == (0, "completed", 100)
    assert len(seen) > 2
    assert [row["progress"] for row in seen] == sorted(row["progress"] for row in seen)
    lines = logs.communicate(timeout=30)[0].splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [f"info     packed item={number}" for number in range(9)]

    worker.send_signal(signal.SIGINT)
    until(lambda: conn.execute("select status ->> 'stopping' from pgqueue.workers").fetchone() == ("true",))
    assert worker.poll() is None, "the endless task is waited for"
    worker.send_signal(signal.SIGINT)
    assert worker.wait(30) == 0
    assert conn.execute("select status, attempt, failures from pgqueue.tasks").fetchall() == [("pending", 1, 0)]


def resume(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.resume_queue('parcels')")


def test_what_waits_ends_with_ctrl_c_and_the_task_goes_on(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    code, screen = cli.in_terminal("submit", "endless", "--wait", when="pending")
    assert code == 130
    assert "interrupted" in screen
    assert "Traceback" not in screen
    assert conn.execute("select status from pgqueue.tasks").fetchall() == [("pending",)]


def test_concurrency_is_for_every_queue_and_an_unknown_one_is_pointed_out(
    cli: Cli, conn: psycopg.Connection[Any], until: Until
) -> None:
    worker = cli.start("worker", "shop:queue_service", PGQUEUE_WORKER_CONCURRENCY="9")
    slots = {"parcels": 9, "default": 9}
    until(lambda: conn.execute("select concurrency from pgqueue.workers").fetchone() == (slots,))
    worker.terminate()
    assert worker.wait(30) == 0
    worker = cli.start("worker", "shop:queue_service", "--queue", "parcel")
    until(lambda: conn.execute("select queues from pgqueue.workers").fetchone() == (["parcel"],))
    worker.terminate()
    assert "Did you mean 'parcels'?" in worker.communicate(timeout=30)[1]
