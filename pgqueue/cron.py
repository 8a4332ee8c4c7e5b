"""What a cron expression names: its ticks, in a zone whose clocks are changed twice a year.

croniter reads the expression and walks plain local times; the rule for clock changes is ours, and is Vixie cron's:

- A fixed-time job (no `*` in minute, hour or second) runs once on each day: where its time does not exist, at
  the first moment after the gap; where it comes twice, at the first of them.
- A wildcard job (a `*` in one of them) runs whenever local clocks show a matching time: by elapsed time, also
  through a repeated hour; what does not exist is no tick.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from croniter import CroniterBadDateError, CroniterError, croniter

from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cron", "cron_of"]

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
FIELDS_HINT = (
    "write minute hour day-of-month month day-of-week, for instance */5 * * * *; "
    "a sixth field, at the end, is the second; or one of " + ", ".join(MACROS)
)
ZONE_HINT = "use a name of the IANA time zone database, for instance Europe/Berlin or UTC"
LAST_YEAR = 2999
LONGEST = 200
SECOND = timedelta(seconds=1)


class Cron:
    """An expression in a time zone. Ticks are whole seconds, in UTC."""

    def __init__(self, expression: str, time_zone: str = "UTC") -> None:
        """Raises InvalidInput for what is no expression, names no moment, or no zone."""
        self.expression = expression
        self.time_zone = time_zone
        self.zone = _zone(time_zone)
        self._plain = MACROS.get(expression.strip().lower(), expression)
        fields = self._plain.split()
        self._croniter = _read(expression, self._plain, fields)
        self.is_wildcard = any("*" in field for field in (*fields[:2], *fields[5:]))

    def after(self, moment: datetime) -> Iterator[datetime]:
        """Yield the ticks after a moment (exclusive), in their order, as far as the year 2999."""
        ticks = self._elapsing(moment) if self.is_wildcard else self._fixed(moment)
        return itertools.takewhile(lambda tick: tick.year <= LAST_YEAR, ticks)

    def next(self, moment: datetime) -> datetime | None:
        """Return the first tick after a moment; None where there is none."""
        return next(self.after(moment), None)

    def between(self, start: datetime, end: datetime) -> Iterator[datetime]:
        """Yield the ticks after `start` (exclusive) up to `end` (inclusive)."""
        return itertools.takewhile(lambda tick: tick <= end, self.after(start))

    def newest(self, start: datetime, end: datetime) -> datetime | None:
        """Return the last tick after `start` up to `end`, without walking all of them."""
        for days in (1 / 1440, 1 / 24, 1, 40, 4000):
            begin = max(start, end - timedelta(days=days))
            if ticks := list(self.between(begin, end)):
                return ticks[-1]
            if begin == start:
                break
        return None

    def describe(self) -> str:
        """Return the expression in plain words, in English."""
        from cron_descriptor import ExpressionDescriptor, Options  # noqa: PLC0415 - few need it, and it is slow to load

        fields = self._plain.split()
        options = Options()
        options.use_24hour_time_format = True
        options.locale_code = "en_US"
        words = f"At the times of {self.expression}"
        with contextlib.suppress(Exception):
            words = str(ExpressionDescriptor(" ".join(fields[5:] + fields[:5]), options))
        return f"{words} ({self.time_zone})"

    def _fixed(self, moment: datetime) -> Iterator[datetime]:
        last = moment
        for local in self._walk(_local(moment, self.zone)):
            tick = self._moment_of(local)
            if tick > last:
                last = tick
                yield tick

    def _moment_of(self, local: datetime) -> datetime:
        """Return the first moment at which clocks show `local`, or have passed over it."""
        moment = local.replace(tzinfo=self.zone).astimezone(UTC)
        if _local(moment, self.zone) == local:
            return moment
        return max(change for change in _changes(self.time_zone, moment.year) if change <= moment)

    def _elapsing(self, moment: datetime) -> Iterator[datetime]:
        """Walk from one change of the clocks to the next: in between, local time is UTC and a constant."""
        begin = _local(moment, self.zone)
        while moment.year <= LAST_YEAR:
            offset = moment.astimezone(self.zone).utcoffset() or timedelta(0)
            end = self._segment_end(moment)
            tick = None
            for local in self._walk(begin):
                tick = local.replace(tzinfo=UTC) - offset
                if tick >= end:
                    break
                yield tick
            if tick is None:
                return
            moment, begin = end, _local(end, self.zone) - SECOND

    def _segment_end(self, moment: datetime) -> datetime:
        years = (moment.year, moment.year + 1)
        changes = (change for year in years for change in _changes(self.time_zone, year) if change > moment)
        return next(changes, datetime(moment.year + 2, 1, 1, tzinfo=UTC))

    def _walk(self, local: datetime) -> Iterator[datetime]:
        """Yield the plain local times that match, after one."""
        walker = copy.copy(self._croniter)
        walker.set_current(local, force=True)
        with contextlib.suppress(CroniterBadDateError, OverflowError):
            while True:
                yield walker.get_next(datetime)


@functools.lru_cache(maxsize=4096)
def cron_of(expression: str, time_zone: str = "UTC") -> Cron:
    """Return the Cron of an expression, read once. Raises InvalidInput."""
    return Cron(expression, time_zone)


def _read(expression: str, plain: str, fields: list[str]) -> croniter:
    if len(expression) > LONGEST:
        raise _refused(expression[:LONGEST] + "…", f"it has {len(expression)} characters, more than {LONGEST}")
    if len(fields) not in (5, 6):
        raise _refused(expression, f"it has {len(fields)} field{'s' * (len(fields) != 1)}")
    for field in fields:
        if field[:1] in "RrHh":
            raise _refused(expression, f"{field} (random or hashed times) is not supported: use jitter")
    start = datetime(2024, 1, 1)  # noqa: DTZ001 - a plain local time
    try:
        found = croniter(plain, start)
        copy.copy(found).get_next(datetime)
    except CroniterBadDateError:
        msg = f"the cron expression {expression!r} names no moment that ever comes"
        hint = "is the day in a month that has it? 0 0 31 2 * asks for February 31"
        raise InvalidInput(msg, detail={"field": "cron_expr", "value": expression}, hint=hint) from None
    except (CroniterError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise _refused(expression, str(error)) from None
    return found


def _refused(expression: str, reason: str) -> InvalidInput:
    msg = f"the cron expression {expression!r} cannot be read: {reason}"
    return InvalidInput(msg, detail={"field": "cron_expr", "value": expression}, hint=FIELDS_HINT)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        msg = f"there is no time zone {name!r}"
        raise InvalidInput(msg, detail={"field": "time_zone", "value": name}, hint=ZONE_HINT) from None


def _local(moment: datetime, zone: ZoneInfo) -> datetime:
    """Return what clocks in a zone show, to the second."""
    return moment.astimezone(zone).replace(tzinfo=None, microsecond=0)


@functools.lru_cache(maxsize=4096)
def _changes(time_zone: str, year: int) -> tuple[datetime, ...]:
    """Return the moments of a year at which the clocks of a zone are changed: from then on the new time holds."""
    zone = ZoneInfo(time_zone)
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(367)]
    return tuple(
        _change(zone, before, after)
        for before, after in itertools.pairwise(days)
        if _offset(before, zone) != _offset(after, zone)
    )


def _change(zone: ZoneInfo, before: datetime, after: datetime) -> datetime:
    while after - before > SECOND:
        middle = before + (after - before) // 2
        middle = middle.replace(microsecond=0)
        if _offset(middle, zone) == _offset(before, zone):
            before = middle
        else:
            after = middle
    return after


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()
