"""Schedules from the command line: made, previewed, changed, fired, looked at."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from tests.cli.conftest import Cli

HOURLY = ("schedule", "add", "hourly_report", "report", "--cron", "0 * * * *")


def history(cli: Cli, name: str) -> list[dict[str, Any]]:
    ticks: list[dict[str, Any]] = cli("schedule", "history", name, "-o", "json").json
    return ticks


class TestMaking:
    def test_a_schedule_is_shown_in_plain_words_with_its_next_runs(self, cli: Cli) -> None:
        made = cli(*HOURLY, "--zone", "Asia/Kolkata", "--arg", "kind=hourly")
        assert (made.code, made.err) == (0, "")
        assert "in words    Every hour (Asia/Kolkata)" in made.out
        assert '"kind": "hourly"' in made.out
        runs = made.lines[made.lines.index(next(line for line in made.lines if line.startswith("NEXT RUN"))) + 1 :]
        assert len(runs) == 5
        assert all(":00:00 +0530" in line and ":30:00" in line for line in runs)

    def test_each_option_is_what_the_schedule_says(self, cli: Cli) -> None:
        cli("queue", "create", "slow")
        options = (
            *("--queue", "slow", "--priority", "high", "--timeout", "10m", "--max-retries", 7, "--user-id", "u"),
            *(
                "--project-id",
                "p",
                "--missed",
                "all",
                "--catch-up-window",
                "2h",
                "--overlap",
                "queue",
                "--jitter",
                "90s",
            ),
            *("--starts-at", "2031-01-01T00:00Z", "--ends-at", "2032-01-01T00:00Z", "--max-runs", 3, "--paused"),
        )
        made = cli(*HOURLY, "--json", '{"a": 1}', "--arg", "b=[2]", *options, "-o", "json").json
        expected = {
            "name": "hourly_report",
            "task_type": "report",
            "cron_expr": "0 * * * *",
            "time_zone": "UTC",
            "queue_name": "slow",
            "payload": {"a": 1, "b": [2]},
            "priority": 10,
            "timeout": 600,
            "max_retries": 7,
            "user_id": "u",
            "project_id": "p",
            "missed": "all",
            "catch_up_window": 7200,
            "overlap": "queue",
            "jitter": 90,
            "starts_at": "2031-01-01T00:00:00Z",
            "ends_at": "2032-01-01T00:00:00Z",
            "max_runs": 3,
            "is_active": False,
            "next_run_at": None,
            "next_runs": [],
            "words": "Every hour (UTC)",
        }
        assert {name: made[name] for name in expected} == expected
        resumed = cli("schedule", "resume", "hourly_report", "-o", "json").json
        assert resumed["next_runs"] == [f"2031-01-01T0{hour}:00:00Z" for hour in range(3)]

    def test_a_dry_run_checks_all_and_makes_nothing(self, cli: Cli) -> None:
        dry, unknown, listed = cli.each(
            [
                ([*HOURLY, "--dry-run"], {}),
                ([*HOURLY, "--dry-run", "--queue", "nowhere"], {}),
                (["schedule", "list"], {}),
            ]
        )
        assert (dry.code, "Every hour (UTC)" in dry.out, "nothing was changed" in dry.err) == (0, True, True)
        assert (unknown.code, "there is no queue 'nowhere'" in unknown.err) == (2, True)
        assert (listed.code, listed.out) == (0, "")
        assert "there are no schedules; add one" in listed.err

    def test_a_taken_name_is_the_callers_to_settle(self, cli: Cli) -> None:
        cli(*HOURLY)
        taken = cli(*HOURLY)
        assert (taken.code, "there is a schedule 'hourly_report' already" in taken.err) == (4, True)
        again = ("schedule", "add", "hourly_report", "other", "--cron", "@daily", "-o", "json", "--on-conflict")
        assert cli(*again, "return").json["task_type"] == "report"
        assert cli(*again, "replace").json["cron_expr"] == "@daily"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--cron", "nonsense"), "cannot be read: it has 1 field"),
            (("--cron", "0 0 31 2 *"), "names no moment that ever comes"),
            (("--cron", "@daily", "--zone", "Mars/Phobos"), "there is no time zone 'Mars/Phobos'"),
            (("--cron", "@daily", "--json", "{"), "the payload is no JSON"),
            (("--cron", "@daily", "--json", "[]", "--arg", "a=1"), "--arg adds fields to an object"),
            (("--cron", "@daily", "--jitter", "1.5"), "give whole seconds, at least 0"),
            (("--cron", "@daily", "--starts-at", "2032-01-01", "--ends-at", "2031-01-01"), "ends after it starts"),
            ((), "Missing option '--cron'"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, cli: Cli, arguments: tuple[str, ...], said: str) -> None:
        refused = cli("schedule", "add", "s", "t", *arguments)
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err


class TestChanging:
    def test_only_what_is_given_changes(self, cli: Cli) -> None:
        cli(*HOURLY, "--arg", "a=1", "--max-runs", 5)
        changed = cli("schedule", "update", "hourly_report", "--cron", "*/30 * * * *", "-o", "json").json
        assert (changed["cron_expr"], changed["payload"], changed["max_runs"]) == ("*/30 * * * *", {"a": 1}, 5)
        more = ("--name", "report", "--arg", "b=2", "--clear", "max-runs", "--type", "t", "-o", "json")
        changed = cli("schedule", "update", "hourly_report", *more).json
        assert (changed["name"], changed["payload"], changed["max_runs"]) == ("report", {"b": 2}, None)
        dry = cli("schedule", "update", "report", "--cron", "@daily", "--dry-run", "-o", "json")
        assert dry.json["cron_expr"] == "@daily"
        assert cli("schedule", "show", "report", "-o", "json").json["cron_expr"] == "*/30 * * * *"

    def test_an_update_says_what_is_wrong_with_it(self, cli: Cli) -> None:
        cli(*HOURLY)
        nothing, both, bad = cli.each(
            [
                (["schedule", "update", "hourly_report"], {}),
                (["schedule", "update", "hourly_report", "--max-runs", 1, "--clear", "max-runs"], {}),
                (["schedule", "update", "hourly_report", "--cron", "x"], {}),
            ]
        )
        assert (nothing.code, "Nothing says what to change" in nothing.err) == (2, True)
        assert (both.code, "--max-runs is given and cleared at once" in both.err) == (2, True)
        assert (bad.code, "minute hour day-of-month" in bad.err) == (2, True)

    def test_it_is_paused_with_a_reason_and_resumed(self, cli: Cli) -> None:
        cli(*HOURLY)
        assert "paused 0s ago: holiday" in cli("schedule", "pause", "hourly_report", "--reason", "holiday").out
        assert cli("schedule", "list").lines[1].endswith("paused: holiday")
        asked = cli("schedule", "next", "hourly_report", "-n", 1)
        assert (len(asked.lines), "resumed now, it would run so" in asked.err) == (2, True)
        assert "state       active" in cli("schedule", "resume", "hourly_report").out

    def test_it_is_removed_and_its_tasks_stay(self, cli: Cli, conn: psycopg.Connection[Any]) -> None:
        cli(*HOURLY)
        task_id = cli("schedule", "run", "hourly_report").out.strip()
        removed = cli("schedule", "remove", "hourly_report")
        assert (removed.code, removed.out, removed.err) == (0, "", "removed schedule hourly_report\n")
        assert conn.execute("select id from pgqueue.tasks").fetchall() == [(int(task_id),)]
        assert cli("schedule", "list", "-o", "json").json == []

    def test_a_schedule_that_is_not_there_is_told(self, cli: Cli) -> None:
        commands = (
            *(
                ["show"],
                ["next"],
                ["run"],
                ["pause"],
                ["resume"],
                ["remove"],
                ["history"],
                ["update", "--cron", "@daily"],
            ),
            ["backfill", "--since", "1h"],
        )
        for told in cli.each([(["schedule", *command, "nope"], {}) for command in commands]):
            assert (told.code, told.out, "there is no schedule 'nope'" in told.err) == (2, "", True)


class TestLooking:
    def test_an_expression_is_previewed_without_a_database(self, bare_cli: Cli) -> None:
        shown = bare_cli("schedule", "next", "--cron", "*/5 * * * *", "--zone", "Europe/Berlin", "-n", 3)
        assert (shown.code, shown.err) == (0, "Every 5 minutes (Europe/Berlin)\n")
        assert shown.lines[0].split() == ["NEXT", "RUN", "UTC", "IN"]
        assert len(shown.lines) == 4
        found = bare_cli("schedule", "next", "--cron", "@daily", "-o", "jsonl").json
        assert (found["words"], len(found["next_runs"])) == ("At 00:00 (UTC)", 5)
        assert not (bare_cli.folder / ".local").exists()
        for arguments in ((), ("s", "--cron", "@daily"), ("s", "--zone", "UTC")):
            refused = bare_cli("schedule", "next", *arguments)
            assert (refused.code, "Give either the name of a schedule, or --cron" in refused.err) == (2, True)

    def test_the_next_runs_keep_to_its_end(self, cli: Cli) -> None:
        cli(*HOURLY)
        after_two = f"{datetime.now(UTC).year + 2}-06-01"
        cli("schedule", "update", "hourly_report", "--cron", "@yearly", "--ends-at", after_two)
        assert len(cli("schedule", "next", "hourly_report", "-o", "json").json["next_runs"]) == 2
        cli("schedule", "update", "hourly_report", "--ends-at", "2020-01-01")
        ended = cli("schedule", "next", "hourly_report")
        assert (ended.code, ended.out, "it has ended" in ended.err) == (0, "", True)
        assert "state       ended" in cli("schedule", "show", "hourly_report").out

    def test_a_bad_row_of_psql_says_what_is_wrong(self, cli: Cli, conn: psycopg.Connection[Any]) -> None:
        conn.execute("insert into pgqueue.schedules (name, task_type, cron_expr) values ('bad', 't', 'x y')")
        assert "failed: the cron expression 'x y' cannot be read: it has 2 fields" in cli("schedule", "show", "bad").out
        asked = cli("schedule", "next", "bad")
        assert (asked.code, "pgqueue schedule update bad --cron EXPR" in asked.err) == (2, True)

    def test_all_about_one_with_its_last_ticks(self, cli: Cli) -> None:
        cli(*HOURLY)
        task_id = int(cli("schedule", "run", "hourly_report").out)
        shown, found, stats = cli.each(
            [
                (["schedule", "show", "hourly_report"], {}),
                (["schedule", "show", "hourly_report", "-o", "json"], {}),
                (["schedule", "stats", "-o", "jsonl"], {}),
            ]
        )
        assert shown.lines[-1].split()[-3:] == ["manual", "fired", str(task_id)]
        assert [(tick["kind"], tick["task_id"]) for tick in found.json["history"]] == [("manual", task_id)]
        assert (stats.json["active_jobs"], stats.json["fired"]) == (1, 0)
        assert cli("schedule", "list").lines[1].split()[-3:] == ["pending", "0", "active"]

    def test_control_characters_do_not_reach_the_terminal(self, cli: Cli) -> None:
        cli(*HOURLY, "--paused", "--arg", "kind=\x1b[31m")
        cli("schedule", "pause", "hourly_report", "--reason", "\x1b[2J")
        for command in (["list"], ["show", "hourly_report"]):
            assert "\x1b" not in cli("schedule", *command).out


class TestPast:
    def test_what_was_never_fired_is_filled_in(self, cli: Cli) -> None:
        cli(*HOURLY)
        end = datetime.now(UTC)
        begin = (end - timedelta(hours=3)).isoformat()
        backfill = ("schedule", "backfill", "hourly_report", "--since", begin, "--until", end.isoformat())
        dry = cli(*backfill, "--dry-run")
        assert (len(dry.lines), "3 due; only a dry run" in dry.err, history(cli, "hourly_report")) == (4, True, [])
        assert cli(*backfill, "--dry-run", "-o", "json").json[0]["state"] == "due"
        made = cli(*backfill)
        assert (made.code, made.err) == (0, "3 fired\n")
        again = cli(*backfill, "-o", "json").json
        assert [tick["state"] for tick in again] == ["known"] * 3
        assert "3 known; only a dry run" in cli(*backfill, "--dry-run").err
        ticks = history(cli, "hourly_report")
        assert [tick["kind"] for tick in ticks] == ["backfill"] * 3
        assert [tick["tick"] for tick in ticks] == sorted((tick["tick"] for tick in ticks), reverse=True)
        older = cli("schedule", "history", "hourly_report", "--before", ticks[1]["tick"], "-o", "json").json
        assert older == ticks[2:]
        nothing = cli("schedule", "backfill", "hourly_report", "--since", "2020-01-01", "--until", "2020-01-01")
        assert nothing.code == 0

    def test_what_is_to_come_cannot_be_filled_in(self, cli: Cli) -> None:
        cli(*HOURLY)
        later = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
        refused = cli("schedule", "backfill", "hourly_report", "--since", "1h", "--until", later)
        assert (refused.code, "Choose a range that ends in the past" in refused.err) == (2, True)

    def test_history_says_why_ticks_were_skipped(self, cli: Cli, conn: psycopg.Connection[Any]) -> None:
        cli(*HOURLY)
        conn.execute("update pgqueue.schedules set next_run_at = now() - interval '3 hours', is_active = false")
        cli("schedule", "resume", "hourly_report")
        assert "paused; and all up to" in cli("schedule", "history", "hourly_report").lines[1]


class TestScheduler:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_fires_until_it_is_told_to_stop(
        self, cli: Cli, until: Callable[[Callable[[], bool]], None], number: signal.Signals
    ) -> None:
        cli("schedule", "add", "s", "t", "--cron", "* * * * * *")
        running = cli.start("scheduler", PGQUEUE_LOG_FORMAT="json")
        until(lambda: len(history(cli, "s")) >= 2)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
        assert running.returncode == 0, said
        assert [json.loads(line)["event"] for line in said.splitlines()] == ["scheduler started", "scheduler stopped"]
        assert {tick["state"] for tick in history(cli, "s")} == {"fired"}

    def test_it_says_what_is_missing(self, bare_cli: Cli, empty_dsn: str) -> None:
        absent, bare = bare_cli.each(
            [
                (["scheduler", "--dsn", "postgresql://127.0.0.1:1/none"], {}),
                (["scheduler", "--dsn", empty_dsn], {}),
            ]
        )
        assert absent.code == 3
        assert (bare.code, "pgqueue migrate" in bare.err) == (3, True)
