"""`bin/demo`: index the standard library with two workers on a PostgreSQL of its own."""

from __future__ import annotations

import argparse
import asyncio
import platform
import shlex
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from pgqueue.errors import PgqueueError

from .display import Display
from .page import write_page
from .run import run
from .sources import find
from .stage import EXAMPLES, PROGRAMS, Busy, Stage
from .summary import figures_of, print_summary

if TYPE_CHECKING:
    from types import FrameType

    from .sources import SourceFile

PIPED = 120
"""Columns where nobody says how many there are."""
DEFAULT_FOLDER = EXAMPLES.parent / ".demo"


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="bin/demo",
        description="Index the files of Python's standard library: one task a file, two worker processes, "
        "an embedded PostgreSQL. Takes under a minute, and leaves nothing running.",
    )
    parser.add_argument("--files", type=_count, metavar="N", help="index only N files, evenly chosen")
    parser.add_argument("--workers", type=_count, default=2, metavar="N", help="worker processes [default: 2]")
    parser.add_argument("--report", type=Path, metavar="FILE", help="where the page goes [default: .demo/report.html]")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="database, logs, page [default: .demo]")
    parser.add_argument("--keep", action="store_true", help="leave database and workers running, to look at them")
    parser.add_argument("--stop", action="store_true", help="stop what --keep left running, and do nothing else")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def main() -> int:
    """Run the demo and return its exit code: 0, 1 for an error that was told, 130 for Ctrl-C, 128 + n for signal n."""
    chosen = arguments()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    errors = Console(stderr=True, soft_wrap=True, highlight=False)
    try:
        with Stage(chosen.folder.absolute()) as stage:
            return _stop(stage) if chosen.stop else _demo(stage, chosen)
    except KeyboardInterrupt:
        errors.print("stopped; nothing is left running", style="yellow")
        return 130
    except (Busy, PgqueueError, OSError, RuntimeError) as error:
        errors.print(f"the demo failed: {error}", style="red", markup=False)
        return 1


def _terminated(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _stop(stage: Stage) -> int:
    count = stage.stop_kept()
    print(f"stopped {count} workers and the server" if count else "no worker ran; the server is stopped")
    return 0


def _demo(stage: Stage, chosen: argparse.Namespace) -> int:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPED)
    began = time.monotonic()
    files = _find(stage, chosen)
    console.print(f"{len(files):,} files of Python {platform.python_version()}; starting PostgreSQL …", style="dim")
    stage.prepare()
    stage.start_workers(chosen.workers)
    title = f"pgqueue indexes Python {platform.python_version()}"
    with Display(console, title) as display:
        outcome = asyncio.run(run(stage, files, stage.folder / "cards", display))
    figures = figures_of(outcome)
    print_summary(console, figures)
    page = (chosen.report or stage.folder / "report.html").absolute()
    write_page(page, outcome, figures, display.rates)
    console.print(f"report   {page}", soft_wrap=True)
    console.print(f"all in   {time.monotonic() - began:.1f} s", soft_wrap=True)
    if chosen.keep:
        _keep(stage, console)
    return 0


def _find(stage: Stage, chosen: argparse.Namespace) -> list[SourceFile]:
    cards = stage.folder / "cards"
    shutil.rmtree(cards, ignore_errors=True)
    cards.mkdir()
    return find(stage.folder / "snippets", chosen.files)


def _keep(stage: Stage, console: Console) -> None:
    stage.kept = True
    stop = [str(EXAMPLES.parent / "bin" / "demo"), "--stop"]
    if stage.folder != DEFAULT_FOLDER:
        stop += ["--folder", str(stage.folder)]
    lines = [
        "",
        f"Database and {len(stage.workers)} workers go on running. Look at them:",
        f"  export PGQUEUE_DSN={shlex.quote(stage.dsn)}",
        f"  {PROGRAMS}/pgqueue top",
        f"  {PROGRAMS}/pgqueue task list --status failed",
        f"  {PROGRAMS}/pgqueue workers",
        "and stop them:",
        f"  {shlex.join(stop)}",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False)


if __name__ == "__main__":
    sys.exit(main())
