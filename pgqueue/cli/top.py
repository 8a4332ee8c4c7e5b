"""`pgqueue top`: queues, workers and running tasks, live."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import queue, words, workers
from pgqueue.cli.base import common, data_options
from pgqueue.cli.output import Column, console, is_terminal, line, plain, pretty, table, write_table
from pgqueue.cli.parameters import Duration
from pgqueue.cli.session import run
from pgqueue.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType
    from rich.table import Table

    from pgqueue.models import WorkerInfo
    from pgqueue.services import QueueOperations

    Row = dict[str, Any]

BAR = 10
SHORTEST_S = 0.1
MANY = 1_000_000


@dataclass
class Snapshot:
    """What was seen at one moment; `problem` says why it could not be seen anew."""

    queues: list[Row] = field(default_factory=list)
    workers: list[WorkerInfo] = field(default_factory=list)
    running: list[Row] = field(default_factory=list)
    taken_at: datetime = field(default_factory=lambda: datetime.now().astimezone())
    problem: str = ""


@click.command()
@click.option("--interval", type=Duration(), default="1", metavar="DURATION", help="How often to look.")
@click.option("--once", is_flag=True, help="Show one snapshot and end.")
@data_options
def top(*, interval: float, once: bool) -> None:
    """Show live what the queues and workers do.

    On a terminal until Ctrl-C; elsewhere one snapshot after another, with -o jsonl one object a line.
    """
    run(lambda service: _once(service) if once else _top(service, max(interval, SHORTEST_S)))


async def _once(service: QueueOperations) -> None:
    _print(await _look(service))


async def _top(service: QueueOperations, interval: float) -> None:
    out = console()
    if not is_terminal() or common().output != "table":
        while True:
            _print(await _look(service))
            click.echo(nl=common().output == "table")
            await asyncio.sleep(interval)
    from rich.live import Live

    seen = await _look(service)
    with Live(console=out, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_screen(seen, out.size.height, out.size.width), refresh=True)
            await asyncio.sleep(interval)
            seen = await _look_again(service, seen)


async def _look(service: QueueOperations) -> Snapshot:
    queues, infos, running = await asyncio.gather(
        service.overview("queue_overview"), service.list_workers(), service.overview("running_tasks")
    )
    queues.sort(key=lambda row: (-row["running"], -row["waiting"], row["name"]))
    running.sort(key=lambda row: row["started_at"])
    return Snapshot(queues, infos, running)


async def _look_again(service: QueueOperations, last: Snapshot) -> Snapshot:
    """Look, or where the database is gone keep what was seen last, and say so."""
    try:
        return await _look(service)
    except DatabaseUnavailable as error:
        last.problem = error.message
        return last


def _print(seen: Snapshot) -> None:
    output = common().output
    if output != "table":
        found = {"taken_at": seen.taken_at, "queues": seen.queues, "workers": seen.workers, "running": seen.running}
        click.echo((pretty if output == "json" else line)(plain(found)))
        return
    click.echo(_head(seen))
    for made in _sections(seen, MANY):
        click.echo()
        write_table(made)


def _screen(seen: Snapshot, height: int, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(_head(seen)[:width], style="bold", no_wrap=True)]
    for made in _sections(seen, height - 8):
        parts += [Text(), made]
    if seen.problem:
        parts += [Text(), Text(f"not up to date: {seen.problem}", style="bold red")]
    return Group(*parts)


def _head(seen: Snapshot) -> str:
    waiting = sum(row["waiting"] for row in seen.queues)
    running = sum(row["running"] for row in seen.queues)
    alive = sum(info.state == "alive" for info in seen.workers)
    counts = f"{words.count(waiting)} waiting, {words.count(running)} running, {words.plural(alive, 'worker')} alive"
    return f"pgqueue  {seen.taken_at:%H:%M:%S}  {counts}"


def _sections(seen: Snapshot, room: int) -> list[Table]:
    """Lay out the three tables within so many lines: queues and workers get a third each at most."""
    queues = _cut(seen.queues, room // 3)
    infos = _cut(seen.workers, room // 3)
    running = _cut(seen.running, room - len(queues) - len(infos))
    made = [table(queues, queue.columns())]
    if infos:
        made.append(table(infos, workers.columns()))
    if running:
        made.append(table(running, _running()))
    return made


def _cut(rows: Sequence[Any], room: int) -> Sequence[Any]:
    return rows[: max(room, 1)]


def _running() -> list[Column[Row]]:
    return [
        Column("TASK", lambda row: str(row["id"]), right=True),
        Column("TYPE", lambda row: row["task_type"], flexible=True),
        Column("QUEUE", lambda row: row["queue_name"], flexible=True),
        Column("WORKER", lambda row: str(row["worker_id"]), right=True),
        Column("FOR", lambda row: words.duration(words.interval(row["running_for"]) or 0), right=True),
        Column("PROGRESS", lambda row: bar(row["progress"])),
        Column(
            "MESSAGE",
            lambda row: "asked to stop" if row["cancel_requested_at"] else row["message"] or "",
            flexible=True,
        ),
    ]


def bar(percent: int | None) -> str:
    """Return a bar of text; nothing for a task that has not reported."""
    if percent is None:
        return ""
    full = percent * BAR // 100
    return f"{'━' * full}{'╌' * (BAR - full)} {percent:3}%"
