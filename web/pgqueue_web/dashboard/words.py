"""How numbers, times and JSON read on a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup

__all__ = ["FILTERS", "Node", "duration", "number", "relative", "seconds_of", "segment", "tree_of"]

NOTHING = "\N{EN DASH}"
MOST_NODES = 400
MOST_DEPTH = 12
MOST_TEXT = 2000
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
SIZES = ("B", "KB", "MB", "GB", "TB")


def number(value: float | None) -> str:
    """Write a whole number in groups of three."""
    return NOTHING if value is None else f"{value:,.0f}"


def capped(value: int, *, is_capped: bool = False) -> str:
    """Write a count, with a plus where counting stopped."""
    return f"{number(value)}+" if is_capped else number(value)


def duration(seconds: float | None) -> str:
    """Write a time span with its two largest units: 320 ms, 4.2 s, 3 min 5 s, 2 d 4 h."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    left = round(seconds)
    for place, (size, unit) in enumerate(UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            lower, name = UNITS[place + 1] if place + 1 < len(UNITS) else (1, "")
            part = rest // lower if name else 0
            return f"{whole} {unit} {part} {name}" if part else f"{whole} {unit}"
    return "0 s"


def milliseconds(value: float | None) -> str:
    """Write milliseconds as a time span."""
    return NOTHING if value is None else duration(value / 1000)


def span(start: datetime | None, end: datetime | None) -> str:
    """Write how long it is from one moment to another."""
    return NOTHING if start is None or end is None else duration((end - start).total_seconds())


def relative(moment: datetime, now: datetime) -> str:
    """Write a moment as seen from now: 3 min ago, in 2 h. The browser goes on with the same words."""
    seconds = round((now - moment).total_seconds())
    if abs(seconds) < 5:
        return "just now" if seconds >= 0 else "now"
    size, unit = next((size, unit) for size, unit in UNITS if abs(seconds) >= size)
    words = f"{abs(seconds) // size} {unit}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def moment(value: datetime | None, now: datetime) -> Markup:
    """Write a moment as seen from now, with the moment itself as tooltip."""
    if value is None:
        return Markup('<span class="none">{}</span>').format(NOTHING)
    absolute = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    stamp = value.astimezone(UTC).isoformat()
    return Markup('<time datetime="{}" title="{}" data-relative>{}</time>').format(
        stamp, absolute, relative(value, now)
    )


def absolute(value: datetime | None) -> Markup:
    """Write a moment itself."""
    if value is None:
        return Markup('<span class="none">{}</span>').format(NOTHING)
    stamp = value.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(stamp.isoformat(), stamp.strftime("%Y-%m-%d %H:%M:%S"))


def size(count: float | None) -> str:
    """Write bytes."""
    if count is None:
        return NOTHING
    power = 0
    while count >= 1000 and power < len(SIZES) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.0f} {SIZES[power]}" if power == 0 or count >= 100 else f"{count:.1f} {SIZES[power]}"


def cut(text: str | None, most: int = MOST_TEXT) -> str:
    """Write at most so many characters, and say how many there are."""
    if text is None:
        return ""
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters)"


def first_line(text: str | None, most: int = 300) -> str:
    """Write the first line that says something."""
    lines = (text or "").strip()[: most * 4].splitlines()
    return cut(lines[0], most) if lines else ""


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")


def seconds_of(interval: object) -> float:
    """Return the seconds of an interval as JSON has it: [-]D days H:M:S."""
    days, _, clock = str(interval).rpartition(" ")
    hours, minutes, seconds = (float(part) for part in clock.lstrip("-").split(":"))
    whole = int(days.split(" ")[0]) * 86_400 if days else 0
    span = hours * 3600 + minutes * 60 + seconds
    return whole - span if clock.startswith("-") else whole + span


class Node(NamedTuple):
    """A value of a JSON tree, as it is shown. `text` for a leaf, `children` else; `more` were left out."""

    key: str | None
    kind: str
    text: str
    children: list[Node]
    more: int = 0


def tree_of(value: Any) -> Node:  # noqa: ANN401 - any JSON
    """Return the tree of a JSON value, bounded in nodes, depth and text."""
    return _node(None, value, 0, [MOST_NODES])


def _node(key: str | None, value: Any, depth: int, budget: list[int]) -> Node:  # noqa: ANN401 - any JSON
    budget[0] -= 1
    if isinstance(value, dict | list):
        return _branch(key, value, depth, budget)
    if isinstance(value, str):
        return Node(key, "string", cut(value), [])
    if value is None or isinstance(value, bool):
        return Node(key, "word", {None: "null", True: "true", False: "false"}[value], [])
    return Node(key, "number", cut(str(value), 60), [])


def _branch(key: str | None, value: dict[str, Any] | list[Any], depth: int, budget: list[int]) -> Node:
    kind, unit = ("object", "field") if isinstance(value, dict) else ("array", "item")
    text = f"{len(value):,} {unit}{'' if len(value) == 1 else 's'}"
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    children: list[Node] = []
    for name, child in items if depth < MOST_DEPTH else []:
        if budget[0] <= 0:
            break
        children.append(_node(cut(str(name), 200), child, depth + 1, budget))
    return Node(key, kind, text, children, len(items) - len(children))


def plain_json(value: Any) -> str:  # noqa: ANN401 - any JSON
    """Write JSON on one line, cut short."""
    return cut(json.dumps(value, ensure_ascii=False))


FILTERS = {
    "absolute": absolute,
    "capped": capped,
    "cut": cut,
    "duration": duration,
    "first_line": first_line,
    "milliseconds": milliseconds,
    "moment": moment,
    "number": number,
    "seconds_of": seconds_of,
    "segment": segment,
    "size": size,
    "span": span,
    "tojson_plain": plain_json,
    "tree": tree_of,
}
