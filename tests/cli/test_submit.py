"""Submitting from the command line: what goes in, what comes out, what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psycopg

    from tests.cli.conftest import Cli

NUL = '{"name": "\\u0000"}'


def test_a_submit_prints_the_id_alone_and_talks_on_stderr(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    submitted = cli(
        "submit", "add", "--arg", "a=1", "--arg", "name=Ada = Eva", "--arg", "ids=[1, 2]", "--arg", "code=007"
    )
    assert (submitted.code, submitted.out) == (0, "1\n")
    assert "pgqueue task watch 1" in submitted.err
    row = conn.execute("select payload, queue_name, priority, max_retries, timeout from pgqueue.tasks").fetchone()
    assert row == ({"a": 1, "name": "Ada = Eva", "ids": [1, 2], "code": "007"}, "default", 5, 3, None)


def test_every_option_reaches_the_task(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.create_queue('slow')")
    options = ["--queue", "slow", "--priority", "high", "--delay", "1h30m", "--timeout", "2m", "--max-retries", "7"]
    owner = ["--unique-key", "k", "--user-id", "ada", "--project-id", "engine"]
    made = cli("submit", "report", "--json", '{"pages": 3}', "--arg", "title=x", *options, *owner, "-o", "json").json
    assert made["created"] is True
    row = conn.execute(
        "select task_type, payload, queue_name, priority, timeout, max_retries, unique_key, user_id, project_id, "
        "round(extract(epoch from run_at - created_at) / 60) from pgqueue.tasks"
    ).fetchone()
    assert row == ("report", {"pages": 3, "title": "x"}, "slow", 10, 120, 7, "k", "ada", "engine", 90)
    assert {name: made[name] for name in ("task_id", "status", "timeout", "user_id")} == {
        "task_id": 1,
        "status": "pending",
        "timeout": 120,
        "user_id": "ada",
    }


def test_a_taken_key_returns_the_live_task_or_conflicts(cli: Cli) -> None:
    assert cli("submit", "report", "--unique-key", "k").out == "1\n"
    again = cli("submit", "report", "--unique-key", "k", "-o", "jsonl")
    assert (json.loads(again.out)["task_id"], json.loads(again.out)["created"]) == (1, False)
    assert "has this key already" in again.err
    refused = cli("submit", "report", "--unique-key", "k", PGQUEUE_SUBMIT_ON_CONFLICT="raise")
    assert (refused.code, refused.out) == (4, "")
    assert "task 1 of type 'report' is live" in refused.err


def test_the_payload_comes_from_stdin(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    assert cli("submit", "report", "-", stdin='{"title": "Größe", "n": 12345678901234567890}').code == 0
    assert conn.execute("select payload::text from pgqueue.tasks").fetchone() == (
        '{"n": 12345678901234567890, "title": "Größe"}',
    )


REFUSED: dict[str, tuple[list[str], str | bytes, int, str]] = {
    "NUL": (["-"], NUL, 2, "NUL"),
    "NaN": (["-"], '{"x": NaN}', 2, "is no JSON"),
    "no UTF-8": (["-"], b'{"x": "\xff"}', 2, "is no JSON"),
    "a lone surrogate": (["-"], '{"x": "\\ud800"}', 2, "is no JSON"),
    "10 MB": (["-"], json.dumps({"x": "y" * 10_000_000}), 2, "1 MiB"),
    "an unknown queue": (["--queue", "nowhere"], "", 2, "there is no queue 'nowhere'"),
    "a full queue": (["--queue", "full"], "", 4, "holds at most 1 waiting"),
    "a priority that is too high": (["--priority", "40000"], "", 2, "32767"),
    "a long key": (["--unique-key", "k" * 501], "", 2, "unique_key"),
}


def test_what_cannot_be_a_task_is_refused_with_a_reason(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.create_queue('full', p_capacity => 1), pgqueue.submit('x', p_queue_name => 'full')")
    answers = cli.each((["submit", "report", *case[0]], {"stdin": case[1]}) for case in REFUSED.values())
    for (name, (*_, code, says)), refused in zip(REFUSED.items(), answers, strict=True):
        assert (refused.code, refused.out) == (code, ""), name
        assert says in refused.err, name
        assert len(refused.err) < 1000, name
    assert conn.execute("select count(*) from pgqueue.tasks").fetchone() == (1,)


MISUSED = {
    "no type": ([], "Missing argument 'TYPE'"),
    "a negative timeout": (["r", "--timeout", "-5"], "between 0 and"),
    "a timeout of 0": (["r", "--timeout", "0"], "at least 1"),
    "half a second": (["r", "--timeout", "1.5"], "whole seconds"),
    "no duration": (["r", "--delay", "soon"], "is no duration"),
    "no moment": (["r", "--run-at", "2031-02-30"], "is no moment"),
    "two moments": (["r", "--delay", "5", "--run-at", "2031-01-01"], "not both"),
    "no pair": (["r", "--arg", "pages"], "is not KEY=VALUE"),
    "fields for a list": (["r", "--json", "[1]", "--arg", "a=1"], "adds fields to an object"),
    "two payloads": (["r", "-", "--json", "{}"], "not both"),
    "a stray word": (["r", "pages=3"], "'pages=3' is not known here"),
    "too many retries": (["r", "--max-retries", "10001"], "is not in the range"),
    "no such rule": (["r", "--on-conflict", "ignore"], "'ignore' is not one of"),
    "no priority": (["r", "--priority", "higher"], "low, normal, high, urgent"),
}


def test_what_is_written_wrong_is_said_before_any_database_is_asked(bare_cli: Cli) -> None:
    options = {"stdin": "{}", "PGQUEUE_DSN": "host=/nowhere"}
    answers = bare_cli.each((["submit", *arguments], options) for arguments, _ in MISUSED.values())
    for (name, (_, says)), refused in zip(MISUSED.items(), answers, strict=True):
        assert (refused.code, refused.out) == (2, ""), name
        assert says in refused.err, name
