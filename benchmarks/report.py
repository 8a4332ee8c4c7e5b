"""What a run found: as text, as JSON, as a table for the README, and as plots."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.model import Figure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from benchmarks.model import Row
    from benchmarks.peers.catalogue import Peer
    from benchmarks.server import BenchServer

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def machine(server: BenchServer, rivals: Sequence[Peer], *, is_async: bool) -> dict[str, Any]:
    """Describe what the figures belong to."""
    settings = ("fsync", "full_page_writes", "synchronous_commit", "shared_buffers", "max_wal_size")
    return {
        "measured_at": time.strftime("%Y-%m-%d %H:%M"),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "load_before": round(os.getloadavg()[0], 1),
        "commit_ms": round(server.commit_ms(), 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": server.version,
        "settings": {name: server.value(f"show {name}") for name in settings},
        "profile": "async commit" if is_async else "durable",
        "rivals": {peer.name: peer.version() for peer in rivals},
    }


def warning(about: dict[str, Any]) -> str:
    """Say where the machine is too busy for figures to mean something."""
    if about["load_before"] < (about["cores"] or 1) / 4:
        return ""
    return f"\nThe machine is busy (load {about['load_before']}): this run tells little, even in its ratios.\n"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def number(value: float) -> str:
    """Write a figure with the digits that mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def line(figure: Figure) -> str:
    """Write a figure with its spread."""
    low, high = min(figure.values), max(figure.values)
    spread = f"  [{number(low)} to {number(high)}, {len(figure.values)} runs]" if len(figure.values) > 1 else ""
    setup = f"  ({figure.setup})" if figure.setup else ""
    return f"  {figure.contender:28} {figure.metric:34} {number(figure.median):>10} {figure.unit}{spread}{setup}"


def save(row: Row, figures: Iterable[Figure], about: dict[str, Any]) -> None:
    """Keep what a row found, in place of what it found before, with the versions of those who are in it."""
    RESULTS.mkdir(exist_ok=True)
    found = [asdict(figure) for figure in figures]
    names = {figure["contender"] for figure in found}
    versions = {name: version for name, version in about["rivals"].items() if name in names}
    content = {"row": row.name, "what": row.what, "figures": found, "about": about | {"rivals": versions}}
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    _file(row.name, about["profile"]).write_text(text, encoding="utf-8")


def load(name: str, profile: str = "durable") -> tuple[list[Figure], dict[str, Any]]:
    """Return what is kept of a row: nothing where it never ran."""
    try:
        content = json.loads(_file(name, profile).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return [], {}
    return [Figure(**figure) for figure in content["figures"]], content["about"]


def _file(name: str, profile: str) -> Path:
    return RESULTS / (f"{name}.json" if profile == "durable" else f"{name}.{profile.replace(' ', '-')}.json")


def table(rows: Iterable[Row]) -> str:
    """Write the tables of the README: one a row, with every figure kept."""
    parts = []
    for row in rows:
        figures, about = load(row.name)
        if figures:
            plot = f"\n![{row.name}](results/{row.name}.svg)\n" if (RESULTS / f"{row.name}.svg").exists() else ""
            parts.append(f"### {row.name}: {row.what}\n{plot}\n{_pivot(figures)}\n\n{_footnote(about)}\n")
    return "\n".join(parts)


def _pivot(figures: Sequence[Figure]) -> str:
    metrics = list(dict.fromkeys((figure.metric, figure.unit) for figure in figures))
    cells = {(figure.contender, figure.metric): figure for figure in figures}
    lines = ["| | " + " | ".join(f"{metric}, {unit}" for metric, unit in metrics) + " | set-up |"]
    lines.append("|---|" + "---|" * (len(metrics) + 1))
    for contender in dict.fromkeys(figure.contender for figure in figures):
        own = [cells.get((contender, metric)) for metric, _ in metrics]
        setup = next(figure.setup for figure in own if figure)
        lines.append(f"| {contender} | " + " | ".join(_cell(figure) for figure in own) + f" | {setup} |")
    return "\n".join(lines)


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    spread = f" ({number(min(figure.values))} to {number(max(figure.values))})" if len(figure.values) > 1 else ""
    return number(figure.median) + spread


def _footnote(about: dict[str, Any]) -> str:
    rivals = ", ".join(f"{name} {version}" for name, version in about["rivals"].items())
    beside = f"; {rivals}" if rivals else ""
    where = f"{about['cores']} cores ({about['processor']}), PostgreSQL {about['postgresql']}"
    noise = f"load {about['load_before']} and a commit in {about['commit_ms']} ms before"
    return f"{about['measured_at']}, {where}, {noise}{beside}."


def write_readme(rows: Iterable[Row]) -> None:
    """Put the tables between their marks in the README."""
    text = README.read_text(encoding="utf-8")
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    README.write_text(f"{head}{BEGIN}\n\n{table(rows)}\n{END}{tail}", encoding="utf-8")


def plot(rows: Iterable[Row]) -> None:
    """Draw one metric of each row that compares contenders."""
    import matplotlib as mpl  # noqa: PLC0415 - only plots need it

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pgqueue"
    from matplotlib import pyplot as plt  # noqa: PLC0415

    for row in rows:
        figures, _ = load(row.name)
        shown = [f for f in figures if f.metric == (row.plotted or figures[0].metric)]
        if len(shown) < 2:
            continue
        shown.sort(key=lambda figure: figure.median, reverse=not shown[0].is_rate)
        drawing, axes = plt.subplots(figsize=(7, 0.6 + 0.35 * len(shown)))
        colors = ["#2a6f97" if figure.contender == "pgqueue" else "#b8c4cc" for figure in shown]
        bars = axes.barh([figure.contender for figure in shown], [figure.median for figure in shown], color=colors)
        axes.bar_label(bars, [number(figure.median) for figure in shown], padding=3, fontsize=8)
        axes.set_title(f"{row.name}: {shown[0].metric}, {shown[0].unit}", fontsize=9, loc="left")
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.xaxis.set_visible(False)
        axes.tick_params(labelsize=8, length=0)
        drawing.savefig(RESULTS / f"{row.name}.svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(drawing)
