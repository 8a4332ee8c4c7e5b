"""What an expression names, minute by minute, through every change of the clocks."""

from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue.cron import MACROS, Cron
from pgqueue.errors import InvalidInput

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def local_times(cron: Cron, start: str, count: int) -> list[str]:
    """The first ticks after a moment, as clocks there show them, with their offset."""
    ticks = itertools.islice(cron.after(at(start)), count)
    return [tick.astimezone(cron.zone).strftime("%d %H:%M:%S %z") for tick in ticks]


class TestClockChanges:
    def test_a_fixed_time_that_comes_twice_runs_once(self) -> None:
        found = local_times(Cron("30 1 * * *", "America/New_York"), "2026-10-31T12:00Z", 3)
        assert found == ["01 01:30:00 -0400", "02 01:30:00 -0500", "03 01:30:00 -0500"]

    def test_a_fixed_time_that_does_not_exist_runs_once_when_the_gap_is_over(self) -> None:
        found = local_times(Cron("30 2 * * *", "America/New_York"), "2026-03-07T12:00Z", 3)
        assert found == ["08 03:00:00 -0400", "09 02:30:00 -0400", "10 02:30:00 -0400"]

    def test_several_fixed_times_in_one_gap_run_once_together(self) -> None:
        found = local_times(Cron("0,30 2,3 * * *", "Europe/Berlin"), "2026-03-28T12:00Z", 3)
        assert found == ["29 03:00:00 +0200", "29 03:30:00 +0200", "30 02:00:00 +0200"]

    def test_half_an_hour_is_a_change_too(self) -> None:
        found = local_times(Cron("15 2 * * *", "Australia/Lord_Howe"), "2026-10-03T00:00Z", 2)
        assert found == ["04 02:30:00 +1100", "05 02:15:00 +1100"]
        found = local_times(Cron("45 1 * * *", "Australia/Lord_Howe"), "2026-04-04T00:00Z", 2)
        assert found == ["05 01:45:00 +1100", "06 01:45:00 +1030"]

    def test_a_wildcard_runs_through_the_repeated_hour(self) -> None:
        found = local_times(Cron("*/30 * * * *", "Europe/Berlin"), "2026-10-24T23:59Z", 6)
        assert found == [f"25 {each}" for each in ("02:00:00 +0200", "02:30:00 +0200", "02:00:00 +0100",
                                                   "02:30:00 +0100", "03:00:00 +0100", "03:30:00 +0100")]  # fmt: skip

    def test_a_wildcard_leaves_out_what_does_not_exist(self) -> None:
        found = local_times(Cron("@hourly", "Europe/Berlin"), "2026-03-28T23:30Z", 3)
        assert found == ["29 01:00:00 +0100", "29 03:00:00 +0200", "29 04:00:00 +0200"]

    def test_a_day_that_a_zone_left_out_still_has_its_daily_run(self) -> None:
        found = local_times(Cron("0 12 * * *", "Pacific/Apia"), "2011-12-29T12:00Z", 3)
        assert found == ["29 12:00:00 -1000", "31 00:00:00 +1400", "31 12:00:00 +1400"]


def changes_of(zone: ZoneInfo, year: int) -> list[datetime]:
    """The hours in which a zone's clocks are changed, by looking at every hour."""
    hours = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=n) for n in range(8784)]
    offsets = [hour.astimezone(zone).utcoffset() for hour in hours]
    return [b for b, x, y in zip(hours[1:], offsets, offsets[1:], strict=False) if x != y]


def zones_and_changes() -> list[tuple[str, datetime]]:
    """One zone for each change of the clocks in 2026 that some zone makes."""
    seen: dict[tuple[object, ...], tuple[str, datetime]] = {}
    for name in sorted(available_timezones()):
        zone = ZoneInfo(name)
        if len({datetime(2026, month, 1, tzinfo=UTC).astimezone(zone).utcoffset() for month in range(1, 13)}) == 1:
            continue
        for change in changes_of(zone, 2026):
            offsets = (change.astimezone(zone).utcoffset(), (change - 2 * MINUTE * 60).astimezone(zone).utcoffset())
            seen.setdefault((change, *offsets), (name, change))
    return list(seen.values())


def minutes_around(change: datetime, zone: ZoneInfo) -> list[tuple[datetime, datetime]]:
    """Each minute from two days before a change on, for five days, with what clocks show then."""
    start = change.replace(minute=0) - 2 * DAY
    moments = [start + n * MINUTE for n in range(5 * 1440)]
    return [(moment, moment.astimezone(zone).replace(tzinfo=None)) for moment in moments]


@pytest.mark.parametrize(("name", "change"), zones_and_changes(), ids=lambda each: str(each)[:16])
def test_through_every_change_nothing_is_skipped_or_doubled(name: str, change: datetime) -> None:
    zone = ZoneInfo(name)
    minutes = minutes_around(change, zone)
    start, end = minutes[0][0], minutes[-1][0]
    for expression, step in {"*/15 * * * *": 15, "0 * * * *": 60}.items():
        expected = [moment for moment, local in minutes if local.minute % step == 0]
        assert list(Cron(expression, name).between(start - MINUTE, end)) == expected
    for hour, minute in [(0, 30), (1, 30), (2, 15), (2, 30), (3, 0), (23, 45)]:
        expected = [daily_run(minutes, minutes[0][1].date() + n * DAY, time(hour, minute)) for n in range(1, 4)]
        found = Cron(f"{minute} {hour} * * *", name).between(expected[0] - MINUTE, expected[-1])
        assert list(found) == expected


def daily_run(minutes: list[tuple[datetime, datetime]], day: date, at_time: time) -> datetime:
    """The first minute at which clocks show a time of a day; where they never do, the first that is past it."""
    wanted = datetime.combine(day, at_time)
    shown = [moment for moment, local in minutes if local == wanted]
    return shown[0] if shown else next(moment for moment, local in minutes if local > wanted)


def part(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ordered = st.tuples(number, number).map(sorted)
    return st.one_of(
        st.just("*"),
        number.map(str),
        ordered.map(lambda pair: f"{pair[0]}-{pair[1]}"),
        st.integers(1, high).map(lambda step: f"*/{step}"),
        st.lists(number, min_size=2, max_size=4, unique=True).map(lambda some: ",".join(map(str, sorted(some)))),
    )


EXPRESSIONS = st.tuples(part(0, 59), part(0, 23), part(1, 28), part(1, 12), part(0, 6)).map(" ".join)


@given(expression=EXPRESSIONS, start=st.datetimes(datetime(2000, 1, 1), datetime(2035, 1, 1)))  # noqa: DTZ001 - UTC below
@settings(max_examples=150, deadline=None)
def test_away_from_clock_changes_it_names_what_croniter_names(expression: str, start: datetime) -> None:
    moment = start.replace(tzinfo=UTC)
    walker = croniter(expression, moment)
    expected = [walker.get_next(datetime) for _ in range(5)]
    for zone in ("UTC", "Etc/GMT"):
        assert list(itertools.islice(Cron(expression, zone).after(moment), 5)) == expected
    shifted = [tick - timedelta(hours=5, minutes=30) for tick in expected]
    moved = Cron(expression, "Asia/Kolkata").after(moment - timedelta(hours=5, minutes=30))
    assert list(itertools.islice(moved, 5)) == shifted


class TestExpressions:
    @pytest.mark.parametrize("macro", MACROS)
    def test_a_macro_is_what_it_stands_for(self, macro: str) -> None:
        start = at("2026-02-03T04:05:06Z")
        for name in (macro, macro.upper()):
            assert Cron(name).next(start) == Cron(MACROS[macro]).next(start)

    def test_a_sixth_field_is_the_second_and_stands_at_the_end(self) -> None:
        assert local_times(Cron("5 * * * * */20"), "2026-01-01T00:00Z", 3) == [
            "01 00:05:00 +0000",
            "01 00:05:20 +0000",
            "01 00:05:40 +0000",
        ]

    def test_a_tick_is_after_the_moment_not_at_it(self) -> None:
        cron = Cron("* * * * *")
        assert cron.next(at("2026-01-01T00:00:00Z")) == at("2026-01-01T00:01:00Z")
        assert cron.next(at("2026-01-01T00:00:59.999999Z")) == at("2026-01-01T00:01:00Z")
        assert cron.next(at("2025-12-31T23:59:59.999999Z")) == at("2026-01-01T00:00:00Z")

    def test_the_newest_is_found_without_walking_all(self) -> None:
        end = at("2026-05-01T10:00:30Z")
        assert Cron("* * * * * *").newest(at("2016-05-01T00:00Z"), end) == end
        assert Cron("0 0 1 1 *").newest(at("2016-05-01T00:00Z"), end) == at("2026-01-01T00:00Z")
        assert Cron("0 0 1 1 *").newest(at("2026-05-01T00:00Z"), end) is None

    def test_it_ends_where_time_does(self) -> None:
        assert Cron("0 0 29 2 *").next(at("2999-12-31T00:00Z")) is None

    @pytest.mark.parametrize(
        "expression",
        ["", "nonsense", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8",
         "*/0 * * * *", "1-0/0 * * * *", "H * * * *", "R * * * *", "@reboot", "@every 5m", "٣ * * * *", "* * * * MOO",
         "0 0 W * *", "a b c d e", "-1 * * * *", "1e3 * * * *", "* * * * *; drop table", "💥 * * * *"],
    )  # fmt: skip
    def test_nonsense_is_refused_with_the_fields_that_there_are(self, expression: str) -> None:
        with pytest.raises(InvalidInput, match="cannot be read") as caught:
            Cron(expression)
        assert caught.value.detail == {"field": "cron_expr", "value": expression}
        assert "minute hour day-of-month month day-of-week" in str(caught.value.hint)

    def test_what_is_longer_than_any_expression_is_not_read(self) -> None:
        assert Cron("0,1 " + "0," * 94 + "1 * * *").next(at("2026-01-01T00:00Z")) is not None
        for count in (100, 1_000_000):
            with pytest.raises(InvalidInput, match="more than 200") as caught:
                Cron("0," * count + "1 * * * *")
            assert len(str(caught.value)) < 500

    @pytest.mark.parametrize("expression", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
    def test_what_never_comes_is_refused(self, expression: str) -> None:
        with pytest.raises(InvalidInput, match="no moment that ever comes"):
            Cron(expression)

    @pytest.mark.parametrize("zone", ["", "Mars/Phobos", "America", "../../etc/passwd", "/etc/passwd", "UTC\x00", "é"])
    def test_an_unknown_zone_is_refused(self, zone: str) -> None:
        with pytest.raises(InvalidInput, match="there is no time zone") as caught:
            Cron("* * * * *", zone)
        assert caught.value.detail["field"] == "time_zone"

    @pytest.mark.parametrize(
        ("expression", "words"),
        [
            ("*/15 9-17 * * MON-FRI", "Every 15 minutes, between 09:00 and 17:59, Monday through Friday (UTC)"),
            ("@daily", "At 00:00 (UTC)"),
            ("30 1 * * * 15", "At 01:30:15 (UTC)"),
            ("0 0 L * *", "At 00:00, on the last day of the month (UTC)"),
        ],
    )
    def test_it_says_in_plain_words_what_it_means(self, expression: str, words: str) -> None:
        assert Cron(expression).describe() == words
