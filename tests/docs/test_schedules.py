"""What the page of schedules states is what they do."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_args
from zoneinfo import ZoneInfo

import pytest

from pgqueue.cron import MACROS, Cron
from pgqueue.models import DueSchedule, Missed, Overlap
from pgqueue.scheduler import MOST_TICKS, plan
from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    import psycopg

PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
CHANGES = re.findall(
    r"^\| (\w+/\w+) \| ([\d-]+) \| [\d:]+ → [\d:]+ \| `(.+?)` \| ([\d:]+ [+-]\d+) \| (\d+) times \|$",
    PAGE,
    re.MULTILINE,
)
MISSED = re.findall(r"^\| (\d\d:\d\d:\d\d) \| (\d+) \| (.+) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
BLOCK = re.compile(r"^(?:```sql\n(.*?)^```|<!-- sql\n(.*?)^-->)$", re.MULTILINE | re.DOTALL)
DAY = timedelta(days=1)


def on(day: str, expression: str, zone: str) -> list[str]:
    """The ticks of a day, as the clocks of a zone show them."""
    begin = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo(zone)).astimezone(UTC)
    ticks = Cron(expression, zone).between(begin - timedelta(seconds=1), begin + 2 * DAY)
    shown = [tick.astimezone(ZoneInfo(zone)) for tick in ticks]
    return [f"{each:%H:%M %z}" for each in shown if each.date().isoformat() == day]


@pytest.mark.parametrize(("zone", "day", "fixed", "runs_at", "count"), CHANGES, ids=str)
def test_a_day_on_which_clocks_change_is_as_told(zone: str, day: str, fixed: str, runs_at: str, count: str) -> None:
    assert on(day, fixed, zone) == [runs_at]
    assert len(on(day, "*/30 * * * *", zone)) == int(count)


def test_three_zones_are_told_of_in_spring_and_autumn() -> None:
    zones = [zone for zone, *_ in CHANGES]
    assert zones == [name for name in ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe") for _ in range(2)]


@pytest.mark.parametrize(("back_at", "window", "skip", "once", "every"), MISSED)
def test_what_becomes_of_missed_ticks_is_as_told(back_at: str, window: str, skip: str, once: str, every: str) -> None:
    nine = datetime(2026, 5, 4, 9, tzinfo=UTC)
    now = datetime.fromisoformat(f"2026-05-04T{back_at}+00:00")
    for missed, told in {"skip": skip, "once": once, "all": every}.items():
        due = DueSchedule(
            id=1,
            revision=1,
            cron_expr="0 * * * *",
            time_zone="UTC",
            missed=missed,  # type: ignore[arg-type]
            catch_up_window=int(window),
            starts_at=None,
            ends_at=None,
            next_run_at=nine + timedelta(hours=1),
            since=nine,
            now=now,
        )
        ticks: Any = plan(due)["ticks"]
        assert [f"{tick:%H:%M}" for tick in ticks] == ([] if told == "-" else told.split())


def test_every_choice_and_macro_is_told_of() -> None:
    assert len(MISSED) == 4
    assert {name for name in (*get_args(Missed), *get_args(Overlap), *MACROS) if f"`{name}`" not in PAGE} == set()
    assert all(f"(`{expression}`)" in PAGE for expression in MACROS.values())
    assert f"up to {MOST_TICKS} in one go" in PAGE


def test_every_statement_runs(conn: psycopg.Connection[Any]) -> None:
    blocks = [shown or hidden for shown, hidden in BLOCK.findall(PAGE)]
    for statement in (one for block in blocks for one in re.split(r";$", block, flags=re.MULTILINE)):
        if statement.strip():
            conn.execute(statement.encode())
