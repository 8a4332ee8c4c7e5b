"""What a row is, what it finds, and what it must reach."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

BEST_RIVAL = "the best rival"
RIVALS_WITH_HISTORY = "the best rival that keeps history"


@dataclass
class Figure:
    """One metric of one contender: its median counts, its repeats show the spread."""

    contender: str
    metric: str
    unit: str
    values: list[float] = field(default_factory=list)
    setup: str = ""
    """Concurrency, batch and number of tasks."""

    @property
    def median(self) -> float:
        """The median of the repeats."""
        return statistics.median(self.values)

    @property
    def is_rate(self) -> bool:
        """Whether more is better."""
        return self.unit.endswith("/s")


@dataclass(frozen=True)
class Target:
    """pgqueue's `metric` over that of `against` (a contender, of the same row and run) must be within the bound."""

    metric: str
    against: str
    at_least: float | None = None
    at_most: float | None = None
    other_metric: str | None = None
    contender: str = "pgqueue"

    def __str__(self) -> str:
        bound = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
        other = f" ({self.other_metric})" if self.other_metric else ""
        return f"{self.metric} {bound} of {self.against}{other}"

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio is within the bound."""
        return ratio >= self.at_least if self.at_least is not None else ratio <= (self.at_most or 0)


@dataclass(frozen=True)
class Row:
    """A family of figures that are read together; the harness repeats and gathers them."""

    name: str
    what: str
    measure: Callable[[Bench, Peer], Iterable[Figure]]
    """Measures a contender once."""
    targets: Sequence[Target] = ()
    beside: Callable[[Bench], Iterable[Figure]] | None = None
    """Measures what is no queue at all, for comparison."""
    with_rivals: bool = False
    """Rivals are measured beside it with --peers."""
    with_bare: bool = False
    """So is the bare loop, always."""
    plotted: str = ""
    """The metric that the plot shows; the first one if empty."""
    most_repeats: int = 9
    is_long: bool = False
    """Runs for many minutes: only when named, or with --long."""


@dataclass(frozen=True)
class Verdict:
    """What became of a target; `ratio` is None where what it compares was not measured."""

    row: str
    target: Target
    ratio: float | None

    @property
    def word(self) -> str:
        """One of met, missed and not measured."""
        if self.ratio is None:
            return "not measured"
        return "met" if self.target.is_met(self.ratio) else "missed"

    def __str__(self) -> str:
        ratio = "" if self.ratio is None else f": {self.ratio:.2f}"
        return f"{self.word:12} {self.row}: {self.target}{ratio}"


def gather(figures: Iterable[Figure]) -> list[Figure]:
    """Put the repeats of a figure together."""
    found: dict[tuple[str, str], Figure] = {}
    for figure in figures:
        known = found.setdefault((figure.contender, figure.metric), figure)
        if known is not figure:
            known.values += figure.values
    return list(found.values())


def judge(row: Row, figures: Sequence[Figure], with_history: Iterable[str], rivals: Iterable[str]) -> list[Verdict]:
    """Compare the figures of a row with its targets."""
    groups = {BEST_RIVAL: set(rivals), RIVALS_WITH_HISTORY: set(with_history)}
    return [Verdict(row.name, target, _ratio(target, figures, groups)) for target in row.targets]


def _ratio(target: Target, figures: Sequence[Figure], groups: dict[str, set[str]]) -> float | None:
    names = groups.get(target.against, {target.against})
    wanted = target.other_metric or target.metric
    own = [f for f in figures if f.contender == target.contender and f.metric == target.metric]
    others = [f.median for f in figures if f.contender in names and f.metric == wanted and f.median > 0]
    if not own or not others:
        return None
    return own[0].median / (max(others) if own[0].is_rate else min(others))
