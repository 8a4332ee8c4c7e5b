"""What the command line shows of tasks, and what it changes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import psycopg

    from tests.cli.conftest import Cli

ESCAPE = "\x1b"


class TestReading:
    def test_a_list_is_a_table_for_people(self, reading_cli: Cli) -> None:
        listed = reading_cli("task", "list")
        head, *rows = listed.lines
        assert head.split() == ["ID", "TYPE", "QUEUE", "STATUS", "TRIES", "CREATED", "RAN", "NOTE"]
        assert [row.split()[0] for row in rows] == ["5", "4", "3", "2", "1"]
        assert "PermanentError: the parcel is lost" in rows[3]
        assert all(row == row.rstrip() for row in rows)
        assert listed.err == ""

    def test_lists_filter_and_page_and_are_json_for_programs(self, reading_cli: Cli) -> None:
        assert [row["task_id"] for row in reading_cli("task", "list", "--status", "failed", "-o", "json").json] == [2]
        assert reading_cli("-o", "json", "task", "list", "--user-id", "ada").json[0]["result"] == 3
        page = reading_cli("task", "list", "--since", "1h", "--page", "2", "--page-size", "2", PGQUEUE_OUTPUT="jsonl")
        assert [json.loads(line)["task_id"] for line in page.lines] == [3, 2]
        assert "3 to 4 of 5; the next ones: --page 3" in page.err
        assert reading_cli("task", "list", "--until", "1h", "-o", "json").json == []

    def test_children_are_submitted_and_listed(self, cli: Cli) -> None:
        cli("submit", "ship")
        assert cli("submit", "ship", "--parent", 1, "-o", "json").json["parent_id"] == 1
        assert [row["task_id"] for row in cli("task", "list", "--parent", 1, "-o", "json").json] == [2]
        assert re.search(r"^parent +1$", cli("task", "show", 2).out, re.MULTILINE)
        assert cli("submit", "ship", "--parent", 0).code == 2

    def test_nothing_is_said_kindly(self, reading_cli: Cli) -> None:
        none = reading_cli("task", "list", "--type", "nobody")
        assert (none.code, none.out) == (0, "")
        assert "no tasks match; submit one" in none.err

    def test_a_task_is_shown_with_all_that_is_known(self, reading_cli: Cli) -> None:
        failed = reading_cli("task", "show", 2)
        assert "PermanentError: the parcel is lost" in failed.out
        assert "traceback" in failed.out
        waiting = reading_cli("task", "show", 4, "-o", "json").json
        assert waiting["why_waiting"] == "no worker serves queue 'default'"
        done = reading_cli("task", "show", 1, "-o", "jsonl").json
        assert (done["status"], done["result"], done["executions"][0]["outcome"]) == ("completed", 3, "completed")

    def test_results_are_json_and_the_exit_code_says_what_became_of_the_task(self, reading_cli: Cli) -> None:
        ids = (1, 2, 3, 4, 99)
        answers = reading_cli.each((["task", "result", task_id], {}) for task_id in ids)
        results = dict(zip(ids, answers, strict=True))
        assert [result.code for result in results.values()] == [0, 1, 1, 4, 2]
        assert [result.out for result in results.values()] == ["3\n", "", "", "", ""]
        assert "the parcel is lost" in results[2].err
        assert "no longer wanted" in results[3].err
        assert "task 4 is pending" in results[4].err
        assert "there is no task 99" in results[99].err

    def test_a_reader_that_goes_away_is_no_error(self, reading_cli: Cli) -> None:
        listing = reading_cli.start("task", "list", "-o", "jsonl")
        assert listing.stdout is not None
        assert listing.stderr is not None
        listing.stdout.close()
        assert listing.wait(30) == 141
        assert listing.stderr.read() == ""


@pytest.mark.usefixtures("history")
def test_many_are_retried_and_cancelled_only_by_a_filter_or_all(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    def live() -> list[int]:
        return [row[0] for row in conn.execute("select id from pgqueue.tasks order by id")]

    wrong = [[verb, *rest] for verb in ("retry", "cancel") for rest in ([], ["4", "--all"], ["4", "--type", "add"])]
    for refused in cli.each((["task", *arguments], {}) for arguments in wrong):
        assert (refused.code, refused.out) == (2, "")
        assert "--all" in refused.err
    tried = cli("task", "cancel", "--type", "ship", "--dry-run", "-o", "json")
    assert [row["task_id"] for row in tried.json] == [4, 5]
    assert "2 tasks would be cancelled; nothing was changed" in tried.err
    assert live() == [4, 5]

    retried = cli("task", "retry", "--all", "-o", "json")
    assert [(row["kind"], row["state"], row["done"]) for row in retried.json] == [("retry", "completed", 1)]
    assert "retried 1 task" in retried.err
    assert live() == [2, 4, 5]
    assert cli("task", "retry", "--status", "cancelled", "-o", "json").json[0]["done"] == 1
    ended = cli("task", "cancel", 4, 1, 99, "--reason", "changed my mind")
    assert (ended.code, ended.out) == (4, "4\n")
    assert "task 1 is completed and cannot be cancelled" in ended.err
    assert "there is no task 99" in ended.err
    assert cli("task", "cancel", "--all", "-o", "json").json[0]["done"] == 3
    assert live() == []
    listed = cli("operation", "list")
    assert [line.split()[:4] for line in listed.lines[1:]] == [
        ["3", "cancel", "completed", "3"],
        ["2", "retry", "completed", "1"],
        ["1", "retry", "completed", "1"],
    ]
    assert cli("operation", "show", 9).code == 2
    errors = conn.execute("select error from pgqueue.finished_tasks where id = 4").fetchall()
    assert errors == [("changed my mind",)]


@pytest.mark.usefixtures("history")
def test_many_are_deleted_and_what_was_skipped_is_said(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.submit('fail', p_unique_key => 'k')")
    conn.execute("update pgqueue.finished_tasks set unique_key = 'k' where id = 2")
    skipped = cli("task", "retry", "--error", "PARCEL")
    assert skipped.code == 4
    assert "left 1 task alone" in skipped.err
    assert cli("operation", "list", "-o", "json").json[0]["skipped_ids"] == [2]
    assert cli("operation", "cancel", 1, "-o", "json").json[0]["state"] == "completed"
    assert "1 task would be deleted" in cli("task", "delete", "--type", "add", "--dry-run").err
    assert "0 tasks would be deleted" in cli("task", "delete", "--ended-until", "1h", "--dry-run").err
    assert "deleted 1 task" in cli("task", "delete", "--status", "completed").err
    tried = cli("cleanup", "--older-than", "0s", "--dry-run")
    assert "2 tasks would be removed; nothing was changed" in tried.err
    assert cli("cleanup", "--dry-run").code == 2
    assert "removed 0 tasks" in cli("cleanup").err
    assert cli("cleanup", "--older-than", "0s", "-o", "json").json == [{"tasks": 2, "removed": True}]


def test_tasks_are_deleted_by_id(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.submit('ship'), pgqueue.submit('ship')")
    conn.execute("select pgqueue.cancel_task(1)")
    deleted = cli("task", "delete", 1, 2)
    assert (deleted.code, deleted.lines) == (4, ["1"])
    assert "deleted 1 task" in deleted.err
    assert "task 2 is pending and cannot be deleted" in deleted.err
    assert conn.execute("select id from pgqueue.all_tasks").fetchall() == [(2,)]


def test_what_tasks_say_cannot_move_the_cursor(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "select pgqueue.submit('[bold]x[/]', p_user_id => E'a\\x1b[2Jb', p_payload => '{\"a\": \"\\u001b[2J\"}')"
    )
    for arguments in (["task", "list"], ["task", "show", "1"]):
        shown = cli(*arguments)
        assert shown.code == 0
        assert "[bold]x[/]" in shown.out
        assert ESCAPE not in shown.out


def test_colours_are_for_terminals_that_want_them(cli: Cli, conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.submit('a task type with a name that is quite long', p_queue_name => 'default')")
    conn.execute("select pgqueue.cancel_task(1)")
    coloured, plain = cli.in_terminal("task", "list"), cli.in_terminal("task", "list", NO_COLOR="1")
    assert "\x1b[1m" in coloured[1]
    assert ESCAPE + "[3" not in plain[1]
    for code, written in (coloured, plain):
        assert code == 0
        assert max(len(line) for line in plain_text(written).splitlines()) <= 80
    wide = cli.in_terminal("task", "list", width=120)[1]
    assert "a task type with a name that is quite long" in plain_text(wide)


def plain_text(written: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written)
