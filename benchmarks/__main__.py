"""`bin/bench`: measure rows on a PostgreSQL of its own, and check the targets."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import psycopg

from benchmarks import report
from benchmarks.bench import Bench, all_rivals
from benchmarks.model import Figure, Verdict, gather, judge
from benchmarks.peers.catalogue import BARE, HERE, OWN, RIVALS, Peer
from benchmarks.rows import ROWS
from benchmarks.server import OPTIONS, running

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.model import Row


DEFAULT_HOME = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pgqueue-bench"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="bin/bench",
        description="Measure pgqueue, and its rivals beside it, on a durable PostgreSQL started for it.",
        epilog="Without names all rows run but the long ones.",
    )
    parser.add_argument("names", nargs="*", metavar="ROW", help="rows to measure; --list tells them")
    parser.add_argument("--list", action="store_true", help="list the rows and their targets, and measure nothing")
    parser.add_argument("--peers", nargs="?", const="", metavar="NAME,…", help="measure the rivals too, or these")
    parser.add_argument(
        "--peers-home", type=Path, default=DEFAULT_HOME, help="where rivals are installed [%(default)s]"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed, and name its row")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead of text")
    parser.add_argument("--plot", action="store_true", help="draw the kept results and write the README's tables")
    parser.add_argument("--keep", action="store_true", help="keep the figures in benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, one repeat: to try the harness, not to judge")
    parser.add_argument("--long", action="store_true", help="the long rows too")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="repeats of a measurement [%(default)s]")
    parser.add_argument("--async-commit", action="store_true", help="the second profile: synchronous_commit off")
    parser.add_argument("--pg-bindir", type=Path, help="the server's programs [Debian's newest, else as pgqueue finds]")
    parser.add_argument("--folder", type=Path, help="where the server's data goes; must be on a disk [/var/tmp]")
    return parser.parse_args()


def main() -> int:
    """Run and return the exit code: 0, 1 for a missed target, 2 for a wrong name, 130 for Ctrl-C."""
    try:
        return run(arguments())
    except KeyboardInterrupt:
        print("stopped; nothing is left running", file=sys.stderr)
        return 130


def run(chosen: argparse.Namespace) -> int:
    """Do what the command line says."""
    if unknown := set(chosen.names) - set(ROWS):
        print(f"no row is named {', '.join(sorted(unknown))}; there are: {', '.join(ROWS)}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _terminated)
    rows = [row for row in ROWS.values() if row.name in chosen.names or not (chosen.names or row.is_long)]
    if chosen.long and not chosen.names:
        rows = list(ROWS.values())
    if chosen.list:
        show(rows if chosen.names else list(ROWS.values()))
        return 0
    verdicts = [] if chosen.plot and not chosen.names else measure(rows, chosen)
    if chosen.plot:
        report.plot(ROWS.values())
        report.write_readme(ROWS.values())
    missed = sorted({verdict.row for verdict in verdicts if verdict.word == "missed"})
    if chosen.check and missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
        return 1
    return 0


def show(rows: Sequence[Row]) -> None:
    """List rows and targets."""
    for row in rows:
        print(f"{row.name:16} {row.what}{' (long)' if row.is_long else ''}")
        for target in row.targets:
            print(f"{'':16}   {target}")


def measure(rows: Sequence[Row], chosen: argparse.Namespace) -> list[Verdict]:
    """Measure rows one after another; each is printed as soon as it is known."""
    rivals = []
    if chosen.peers is not None:
        names = [name for name in chosen.peers.split(",") if name]
        subprocess.run([HERE / "setup", chosen.peers_home, *names], check=False)
        rivals = all_rivals(chosen.peers_home, names)
    said: list[dict[str, object]] = []
    verdicts: list[Verdict] = []
    with (
        running(chosen.pg_bindir, is_async=chosen.async_commit, folder=chosen.folder) as server,
        tempfile.TemporaryDirectory(prefix="pgqueue-bench-") as place,
    ):
        bench = Bench(server, chosen.peers_home, Path(place), chosen.quick)
        about = report.machine(server, rivals, is_async=chosen.async_commit)
        if not chosen.json:
            print(introduction(about) + report.warning(about))
        for row in rows:
            figures = measure_row(row, bench, rivals, 1 if chosen.quick else chosen.repeats)
            judged = judge(row, figures, [p.name for p in RIVALS if p.keeps_history], [p.name for p in RIVALS])
            verdicts += judged
            if chosen.keep and not chosen.quick:
                report.save(row, figures, about)
            said.append({"row": row.name, "figures": [asdict(f) | {"median": f.median} for f in figures]})
            if not chosen.json:
                lines = [f"{row.name}: {row.what}", *map(report.line, figures), *(f"  {each}" for each in judged)]
                print("\n".join(lines), end="\n\n", flush=True)
    if chosen.json:
        judgement = [{"row": v.row, "target": str(v.target), "ratio": v.ratio, "verdict": v.word} for v in verdicts]
        print(json.dumps({"about": about, "rows": said, "targets": judgement}, ensure_ascii=False))
    else:
        words = [verdict.word for verdict in verdicts]
        print(", ".join(f"{words.count(word)} {word}" for word in ("met", "missed", "not measured")), "of the targets")
    return verdicts


def measure_row(row: Row, bench: Bench, rivals: Sequence[Peer], repeats: int) -> list[Figure]:
    """Measure everybody in turn, so that a noisy minute meets all; a rival that fails is told and left out."""
    figures: list[Figure] = []
    contenders = [OWN, *([BARE] if row.with_bare else []), *(rivals if row.with_rivals else [])]
    for _ in range(min(repeats, row.most_repeats)):
        figures += row.beside(bench) if row.beside else []
        for peer in tuple(contenders):
            try:
                figures += row.measure(bench, peer)
            except (RuntimeError, OSError, psycopg.Error) as error:
                if peer.is_own:
                    raise
                contenders.remove(peer)
                print(f"  {peer.name} is left out: {error}", file=sys.stderr)
    return gather(figures)


def introduction(about: dict[str, object]) -> str:
    """Say on what is measured."""
    settings = ", ".join(f"{name}={value}" for name, value in OPTIONS.items())
    lines = [f"{name}: {value}" for name, value in about.items() if name != "settings"]
    return "\n".join([*lines, f"settings: {settings}", ""])


def _terminated(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
