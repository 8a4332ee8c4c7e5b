"""The live picture on a terminal; plain lines elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pgqueue.models import QueueStats, TaskProgress, WorkerInfo

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Display", "Seen"]

TICKS = "▁▂▃▄▅▆▇█"
COLUMNS = 30
RATE_S = 0.5
LINE_S = 2.0
"""Pause between two plain lines."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the database said at one moment; `elapsed_s` in seconds since the submit."""

    elapsed_s: float
    total: int
    queues: list[QueueStats]
    workers: list[WorkerInfo]
    catalogue: TaskProgress

    @property
    def ended(self) -> int:
        """How many tasks have ended, however."""
        return sum(queue.completed + queue.failed + queue.cancelled for queue in self.queues)


class Display:
    """Shows what was seen: live on a terminal, a line every two seconds elsewhere."""

    def __init__(self, console: Console, title: str) -> None:
        """Show nothing yet."""
        self.rates: list[float] = []
        self._console = console
        self._title = title
        self._live = (
            Live(console=console, auto_refresh=False) if console.is_terminal and not console.is_dumb_terminal else None
        )
        self._marks: list[tuple[float, int]] = [(0.0, 0)]
        self._said_at = -LINE_S

    def __enter__(self) -> Self:
        """Take the terminal."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the terminal back; the last picture stays."""
        if self._live is not None:
            self._live.stop()

    def show(self, seen: Seen) -> None:
        """Show this moment."""
        self._note(seen)
        if self._live is not None:
            self._live.update(self._picture(seen), refresh=True)
        elif time.monotonic() - self._said_at >= LINE_S or seen.ended >= seen.total:
            self._said_at = time.monotonic()
            self._console.print(self._line(seen), highlight=False, soft_wrap=True)

    def _note(self, seen: Seen) -> None:
        """Keep one rate (tasks a second) for each half second or so."""
        moment, ended = self._marks[-1]
        if seen.elapsed_s - moment >= RATE_S:
            self.rates.append((seen.ended - ended) / (seen.elapsed_s - moment))
            self._marks.append((seen.elapsed_s, seen.ended))

    def _line(self, seen: Seen) -> str:
        rate = seen.ended / seen.elapsed_s if seen.elapsed_s else 0.0
        return (
            f"{seen.elapsed_s:5.1f} s  {seen.ended:5,} of {seen.total:,} tasks  {rate:6.1f}/s  "
            f"catalogue: {_steps(seen.catalogue)}"
        )

    def _picture(self, seen: Seen) -> RenderableType:
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right")
        head.add_row(Text(self._title, style="bold"), Text(f"{seen.elapsed_s:.0f} s", style="dim"))
        parts: list[RenderableType] = [head, Text(), self._bars(seen), Text(), _queues(seen), Text(), _workers(seen)]
        return Padding(Group(*parts), (1, 2), expand=False)

    def _bars(self, seen: Seen) -> Table:
        rate = self.rates[-1] if self.rates else 0.0
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(width=COLUMNS, no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_row("all tasks", _bar(seen.ended, seen.total), f"{seen.ended:,} of {seen.total:,}{self._left(seen)}")
        done, total = seen.catalogue.completed_steps or 0, seen.catalogue.total_steps or 1
        if seen.catalogue.status == "completed":
            done = total
        grid.add_row("catalogue", _bar(done, total), _steps(seen.catalogue))
        grid.add_row("tasks a second", Text(sparkline(self.rates[-COLUMNS:]), style="cyan"), f"{rate:.0f}")
        return grid

    def _left(self, seen: Seen) -> str:
        recent = self.rates[-10:]
        rate = sum(recent) / len(recent) if recent else 0.0
        if rate < 1 or seen.ended >= seen.total:
            return ""
        return f", about {(seen.total - seen.ended) / rate:.0f} s left"


def sparkline(rates: list[float]) -> str:
    """Draw rates as one row of blocks."""
    top = max(rates, default=0.0) or 1.0
    return "".join(TICKS[min(int(rate / top * len(TICKS)), len(TICKS) - 1)] for rate in rates)


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(total, 1), completed=done, width=COLUMNS, complete_style="cyan")


def _steps(progress: TaskProgress) -> str:
    if progress.status == "completed":
        return f"{progress.total_steps} of {progress.total_steps} shelves"
    if progress.total_steps is None:
        return progress.status
    return f"{progress.completed_steps} of {progress.total_steps} shelves, now {progress.step}"


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim", pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True, min_width=8 if number else 14)
    return table


def _queues(seen: Seen) -> Table:
    table = _table("QUEUE", "WAITING", "RETRYING", "RUNNING", "DONE", "FAILED")
    for queue in seen.queues:
        counts = (queue.pending, queue.scheduled, queue.running, queue.completed, queue.failed)
        table.add_row(queue.queue_name, *(_count(number) for number in counts))
    return table


def _workers(seen: Seen) -> Table:
    table = _table("WORKER", "PID", "STATE", "RUNNING")
    for number, worker in enumerate(seen.workers, 1):
        table.add_row(f"worker {number}", str(worker.pid), worker.state, _count(worker.running))
    return table


def _count(number: int) -> Text:
    return Text(f"{number:,}") if number else Text("·", style="dim")
