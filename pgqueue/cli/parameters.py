"""How values are written on the command line: durations, moments, slots, pairs."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    ParamType = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic only in newer versions of click

SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
PRIORITIES = {"low": 1, "normal": 5, "high": 10, "urgent": 20}
LONGEST_S = 3_153_600_000
"""A hundred years."""


class Duration(ParamType):
    """Seconds, or parts such as 90s, 5m, 1h30m, 2d, 250ms; converts to seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; fail for what is no duration or negative."""
        text = str(value).strip()
        seconds = self._seconds(text)
        if seconds is None:
            self.fail(f"{text!r} is no duration: write seconds, or for instance 90s, 5m, 1h30m, 2d.", param, ctx)
        if not 0 <= seconds <= LONGEST_S:
            self.fail(f"{text!r} is no duration: it must lie between 0 and a hundred years.", param, ctx)
        return seconds

    def _seconds(self, text: str) -> float | None:
        if re.fullmatch(r"-?\d+(\.\d+)?", text):
            return float(text)
        parts = PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            return None
        return sum(float(number) * SECONDS[unit] for number, unit in parts)


class WholeSeconds(Duration):
    """A duration without a fraction, of at least so many seconds."""

    def __init__(self, least: int = 1) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return whole seconds."""
        seconds = super().convert(value, param, ctx)
        if seconds < self.least or seconds != int(seconds):
            self.fail(f"{value!r} cannot be used: give whole seconds, at least {self.least}.", param, ctx)
        return int(seconds)


class Span(Duration):
    """A duration as a timedelta."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a timedelta."""
        return value if isinstance(value, timedelta) else timedelta(seconds=super().convert(value, param, ctx))


class Moment(ParamType):
    """A moment as ISO 8601, in the local zone unless it names one; or with `past`, a duration before now."""

    name = "moment"

    def __init__(self, *, past: bool = False) -> None:
        self.past = past

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Return a datetime with a zone."""
        text = str(value).strip()
        seconds = Duration()._seconds(text) if self.past else None  # noqa: SLF001 - one of the same kind
        try:
            if seconds is not None:
                return datetime.fromtimestamp(datetime.now().timestamp() - seconds).astimezone()  # noqa: DTZ005 - local
            return datetime.fromisoformat(text).astimezone()
        except (ValueError, OverflowError, OSError):
            also = ", or how long ago, for instance 90m or 2d" if self.past else ""
            self.fail(f"{text!r} is no moment: write 2031-05-01T18:30 or 2031-05-01T16:30Z{also}.", param, ctx)


class Slots(ParamType):
    """NAME or NAME=CONCURRENCY; converts to (name, number or None)."""

    name = "slots"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        """Return the queue and its slots."""
        name, equals, number = str(value).partition("=")
        if not name or (equals and not number.isdecimal()):
            self.fail(f"{value!r} is not NAME or NAME=CONCURRENCY, for instance processing=10.", param, ctx)
        return name, int(number) if equals else None


class PriorityNumber(ParamType):
    """A number, higher runs first, or low, normal, high, urgent."""

    name = "priority"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number."""
        if value in PRIORITIES:
            return PRIORITIES[value]
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is no priority: give a number, or {', '.join(PRIORITIES)}.", param, ctx)


class Pair(ParamType):
    """KEY=VALUE; the value is read as JSON where it is JSON, else as text."""

    name = "pair"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Return key and value."""
        import msgspec

        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not KEY=VALUE, for instance pages=3 or name=Ada.", param, ctx)
        try:
            return key, msgspec.json.decode(text)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return key, text


TASK_ID = click.IntRange(1, 2**63 - 1)
"""The id of a task."""
