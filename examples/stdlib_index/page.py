"""The report: one HTML page that needs nothing else. All text is escaped where it is put in."""

from __future__ import annotations

import html
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from .library import Library, library_of
from .summary import Figures, Outcome, duration, duration_row, retry_reasons

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["write_page"]

STYLE = Path(__file__).with_name("page.css")
WIDTH, HEIGHT = 1000, 100


def write_page(path: Path, outcome: Outcome, figures: Figures, rates: list[float]) -> None:
    """Write the page. `rates` are tasks a second, evenly spaced over the run."""
    library = library_of(outcome.tasks)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_page(library, figures, rates), encoding="utf-8")


def _page(library: Library, figures: Figures, rates: list[float]) -> str:
    title = f"The standard library of Python {platform.python_version()}"
    made = f"{figures.total:,} tasks, {len(figures.by_worker)} workers, {figures.seconds:.1f} seconds"
    sections = [
        _run(figures, rates),
        _packages(library),
        _identifiers(library),
        _biggest(library),
        _deepest(library),
        _complex(library),
        _failures(figures),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>
{STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<header><h1>{_text(title)}</h1>
<p>Every file parsed, measured and indexed by pgqueue: {_text(made)}.</p></header>
{_tiles(library, figures)}
<div class="grid">
{"".join(sections)}</div>
<footer>Complexity is McCabe's: 1 plus the number of decisions in a function.</footer>
</main>
</body>
</html>
"""


def _text(value: object) -> str:
    return html.escape(str(value))


def _code(value: object) -> str:
    return f"<code>{_text(value)}</code>"


def _tiles(library: Library, figures: Figures) -> str:
    tiles = [
        (f"{library.files:,}", "files indexed"),
        (f"{library.lines:,}", "lines"),
        (f"{library.functions:,}", "functions"),
        (f"{library.classes:,}", "classes"),
        (f"{library.distinct_identifiers:,}", "different identifiers"),
        (f"{len(figures.failures):,}", "failed for good"),
    ]
    made = "".join(
        f'<div class="tile"><b>{_text(number)}</b><span>{_text(name)}</span></div>' for number, name in tiles
    )
    return f'<div class="tiles">{made}</div>'


def _section(title: str, note: str, body: str, *, wide: bool = False) -> str:
    kind = ' class="wide"' if wide else ""
    return f'<section{kind}><h2>{_text(title)}</h2><p class="note">{_text(note)}</p>{body}</section>\n'


def _ranking(rows: Iterable[tuple[str, int]]) -> str:
    """Lay out rows of (HTML, number) with a bar for the number."""
    found = list(rows)
    top = max((number for _, number in found), default=1) or 1
    made = (
        f'<tr><td>{label}</td><td class="bar"><i style="width:{100 * number / top:.1f}%"></i></td>'
        f'<td class="n">{number:,}</td></tr>'
        for label, number in found
    )
    return f"<table>{''.join(made)}</table>"


def _packages(library: Library) -> str:
    rows = [(f'{_code(name)} <span class="soft">{files:,}</span>', lines) for name, files, lines in library.packages]
    return _section("Largest packages", "lines; in grey the number of files", _ranking(rows))


def _identifiers(library: Library) -> str:
    return _section(
        "Most used identifiers",
        "how often each name is written",
        _ranking((_code(name), count) for name, count in library.identifiers),
    )


def _biggest(library: Library) -> str:
    return _section("Biggest files", "lines", _ranking((_code(file.name), file.lines) for file in library.biggest))


def _deepest(library: Library) -> str:
    rows = ((_code(f"{file.name}:{file.nesting_line}"), file.nesting) for file in library.deepest)
    return _section("Deepest nesting", "blocks within blocks", _ranking(rows))


def _complex(library: Library) -> str:
    rows = (
        (f'{_code(function.name)} <span class="soft">{_code(f"{name}:{function.line}")}</span>', function.complexity)
        for function, name in library.complex
    )
    return _section("Most complex functions", "cyclomatic complexity", _ranking(rows), wide=True)


def _failures(figures: Figures) -> str:
    rows = "".join(
        f'<tr><td class="name">{_code(name)}</td><td class="bad">{_text(reason)}</td></tr>'
        for name, reason in figures.failures
    )
    body = f"<table>{rows}</table>" if rows else "<p>None.</p>"
    return _section("Failed for good", "what does not parse will not parse on the next try either", body, wide=True)


def _run(figures: Figures, rates: list[float]) -> str:
    facts = [
        ("Tasks", f"{figures.completed:,} completed, {figures.failed:,} failed"),
        ("Throughput", f"{figures.throughput:.1f} tasks a second"),
        ("Wait", duration_row(figures.wait)),
        ("Run", duration_row(figures.run)),
        ("Retries", f"{figures.retries}, {retry_reasons(figures)}" if figures.retries else "none"),
        ("Tasks of each worker", " + ".join(f"{count:,}" for count in figures.by_worker)),
    ]
    listed = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value in facts)
    return _section("The run", "tasks a second, over time", f"{_curve(figures, rates)}<dl>{listed}</dl>", wide=True)


def _curve(figures: Figures, rates: list[float]) -> str:
    if len(rates) < 2:
        return ""
    top = max(rates) or 1.0
    step = WIDTH / (len(rates) - 1)
    points = " ".join(f"{number * step:.1f},{HEIGHT - HEIGHT * rate / top:.1f}" for number, rate in enumerate(rates))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="tasks a second">'
        f'<polygon class="area" points="0,{HEIGHT} {points} {WIDTH},{HEIGHT}"/>'
        f'<polyline class="curve" points="{points}"/></svg>'
        f'<div class="axis"><span>0 s</span><span>at most {top:.0f} tasks/s</span>'
        f"<span>{_text(duration(1000 * figures.seconds))}</span></div>"
    )
