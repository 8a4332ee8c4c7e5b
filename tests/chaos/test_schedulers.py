"""Three schedulers, one of them killed now and then, while the clock crosses the changes of three zones.

The list of fired ticks must equal the list that a minute-by-minute reading of the wall clocks gives, for
each policy.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import psycopg
import pytest

from tests.polling import poll

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEDULER = (
    "import asyncio, signal, sys, pgqueue\n"
    "scheduler = pgqueue.SchedulerService(pgqueue.Database(sys.argv[1]))\n"
    "signal.signal(signal.SIGTERM, lambda *_: scheduler.stop())\n"
    "asyncio.run(scheduler.start())\n"
)
CLOCK = """
create table public.clock (moment timestamptz not null);
insert into public.clock values ('2026-01-01T00:00:30Z');
create or replace function pgqueue._now() returns timestamptz
language plpgsql stable parallel safe
as $$
begin
    return (select c.moment from public.clock c);
end $$;
"""
ZONES = ("America/New_York", "Europe/Berlin", "Australia/Lord_Howe")
FIXED = {"30 1 * * *": (1, 30), "30 2 * * *": (2, 30), "45 1 * * *": (1, 45)}
WILD = {"0 * * * *": 60, "*/15 * * * *": 15}
CHANGES = ("2026-03-08T07:00Z", "2026-03-29T01:00Z", "2026-04-04T15:00Z",
           "2026-10-03T15:30Z", "2026-10-25T01:00Z", "2026-11-01T06:00Z")  # fmt: skip
POLICIES = ("skip", "once", "all")
WINDOW = timedelta(days=1)
"""The default of catch_up_window."""
MINUTE = timedelta(minutes=1)
DEADLINE_S = 60.0

Name = tuple[str, str, str]
"""Zone, expression, policy."""


class Schedulers:
    """Processes that fire; `strike` kills or stops one and starts another in its place."""

    def __init__(self, dsn: str, chance: random.Random) -> None:
        self.dsn = dsn
        self.chance = chance
        self.running: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def start(self, count: int) -> None:
        for _ in range(count):
            self.running.append(subprocess.Popen([sys.executable, "-c", SCHEDULER, self.dsn]))

    def strike(self) -> None:
        victim = self.running.pop(self.chance.randrange(len(self.running)))
        victim.kill()
        victim.wait()
        self.killed += 1
        self.start(1)

    def stop(self) -> None:
        for process in self.running:
            process.terminate()
        for process in self.running:
            assert process.wait(DEADLINE_S) in (0, -signal.SIGTERM), "SIGTERM may come before its handler is set"
        self.running.clear()

    def give_up(self) -> None:
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def schedulers(dsn: str) -> Iterator[Schedulers]:
    seed = int(os.environ.get("PGQUEUE_TEST_SEED") or time.time_ns() % 10**6)
    print(f"PGQUEUE_TEST_SEED={seed}")  # noqa: T201 - how to run it again
    some = Schedulers(dsn, random.Random(seed))  # noqa: S311 - choices that can be repeated
    yield some
    some.give_up()


def positions(chance: random.Random) -> list[tuple[datetime, bool]]:
    """Where the clock is put, and whether schedulers run: each minute around a change, then a day's downtime."""
    found = []
    for text in CHANGES:
        change = datetime.fromisoformat(text)
        start = change - timedelta(minutes=40) + timedelta(seconds=30)
        found += [(start + n * MINUTE, True) for n in range(120)]
        found.append((change + timedelta(days=1, minutes=chance.randrange(600), seconds=30), False))
    return found


def wall_clock(zone: str, first: datetime, last: datetime) -> list[tuple[datetime, datetime]]:
    """Each minute with what clocks in a zone show then."""
    place = ZoneInfo(zone)
    begin = first.replace(second=0) - timedelta(days=2)
    moments = (begin + n * MINUTE for n in range(int((last - begin) / MINUTE) + 1))
    return [(moment, moment.astimezone(place).replace(tzinfo=None)) for moment in moments]


def named(expression: str, clock: list[tuple[datetime, datetime]]) -> list[datetime]:
    """The moments that an expression names, read off the clock: wildcards at each match, fixed times once a day."""
    if expression in WILD:
        return [moment for moment, local in clock if local.minute % WILD[expression] == 0]
    hour, minute = FIXED[expression]
    found: dict[object, datetime] = {}
    for moment, local in clock:
        if (local.hour, local.minute) >= (hour, minute) and local.date() not in found:
            found[local.date()] = moment
    return sorted(moment for day, moment in found.items() if day != clock[0][1].date())


def expected(ticks: list[datetime], places: list[datetime], policy: str) -> list[datetime]:
    """What the policy fires where the clock is seen at these places only."""
    fired: list[datetime] = []
    for before, now in itertools.pairwise(places):
        due = [tick for tick in ticks if before < tick <= now]
        on_time = [tick for tick in due if tick >= now - MINUTE]
        in_window = [tick for tick in due if tick >= now - WINDOW]
        if policy == "all":
            fired += in_window
        elif policy == "once":
            fired += on_time or in_window[-1:]
        else:
            fired += on_time
    return fired


def caught_up(conn: psycopg.Connection[tuple[object, ...]]) -> bool:
    row = conn.execute("select coalesce(due_in, 1) > 0 from pgqueue.schedules_due_in()").fetchone()
    return row == (True,)


def test_what_is_fired_is_what_the_clocks_say(dsn: str, schedulers: Schedulers) -> None:
    chance = schedulers.chance
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(CLOCK.encode())
        names = [(zone, each, policy) for zone in ZONES for each in (*FIXED, *WILD) for policy in POLICIES]
        for zone, each, policy in names:
            conn.execute(
                "select pgqueue.create_schedule(%s, 't', %s, p_time_zone => %s, p_missed => %s)",
                (f"{zone} {each} {policy}", each, zone, policy),
            )
        schedulers.start(3)
        poll(lambda: caught_up(conn), deadline_s=DEADLINE_S, pause_s=0.002)
        places = [datetime(2026, 1, 1, 0, 0, 30, tzinfo=UTC)]
        for place, is_up in positions(chance):
            if not is_up:
                schedulers.stop()
            elif chance.random() < 0.03:
                schedulers.strike()
            conn.execute("update public.clock set moment = %s", (place,))
            places.append(place)
            if not is_up:
                schedulers.start(3)
            conn.execute("select pg_notify('pgqueue_control', '{\"kind\": \"schedules\"}')")
            poll(lambda: caught_up(conn), deadline_s=DEADLINE_S, pause_s=0.002)
        schedulers.stop()
        found: dict[str, list[datetime]] = defaultdict(list)
        for name, tick in conn.execute(
            "select s.name, k.tick from pgqueue.schedule_ticks k join pgqueue.schedules s on s.id = k.schedule_id"
            " where k.state = 'fired' order by k.tick"
        ):
            found[name].append(tick)
        tasks = conn.execute("select count(*), count(distinct metadata) from pgqueue.tasks").fetchone()
    clocks = {zone: wall_clock(zone, places[0], places[-1]) for zone in ZONES}
    wrong = {
        (zone, each, policy): (found[f"{zone} {each} {policy}"], wanted)
        for zone, each, policy in names
        if found[f"{zone} {each} {policy}"] != (wanted := expected(named(each, clocks[zone]), places, policy))
    }
    assert wrong == {}
    assert tasks == (sum(map(len, found.values())),) * 2, "one task a tick"
    assert schedulers.killed > 5
