"""`pgqueue task logs`: what handlers logged."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.output import console, emit_rows, line, plain
from pgqueue.cli.parameters import TASK_ID
from pgqueue.cli.session import run
from pgqueue.cli.talk import say, visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rich.console import Console

    from pgqueue.models import LogLine
    from pgqueue.services import QueueOperations

LOOK_AGAIN_S = 0.5
PAGE = 1000
STYLES = {"warning": "bold", "error": "red", "critical": "bold red", "debug": "dim"}


@click.command()
@click.argument("task_id", metavar="ID", type=TASK_ID)
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends.")
@data_options
def logs(*, task_id: int, follow: bool) -> None:
    """Print what a task logged, oldest first."""
    count = run(lambda service: _logs(service, task_id, follow=follow))
    if not count and common().output == "table":
        say(f"task {task_id} logged nothing; handlers log with ctx.log(…) or structlog")


async def _logs(service: QueueOperations, task_id: int, *, follow: bool) -> int:
    """Write lines as they come, or all at once where they form one JSON array; return how many."""
    out = console()
    kept: list[LogLine] = []
    count = 0
    async for page in _pages(service, task_id, follow=follow):
        count += len(page)
        if common().output == "json":
            kept += page
        else:
            _write(page, out)
    if common().output == "json":
        emit_rows(kept, [], empty="")
    return count


async def _pages(service: QueueOperations, task_id: int, *, follow: bool) -> AsyncIterator[list[LogLine]]:
    """Yield new lines until there are none, or with `follow` until the task has ended."""
    after = 0
    while True:
        ended = (await service.get_task(task_id)).finished_at is not None
        page = await service.get_logs(task_id, after, PAGE)
        if page:
            after = page[-1].id
            yield page
        if len(page) < PAGE:
            if ended or not follow:
                return
            await asyncio.sleep(LOOK_AGAIN_S)


def _write(page: list[LogLine], out: Console) -> None:
    from rich.text import Text

    for entry in page:
        if common().output == "jsonl":
            click.echo(line(plain(entry)))
            continue
        fields = " ".join(f"{name}={words.compact(value)}" for name, value in (entry.fields or {}).items())
        text = Text(f"{entry.logged_at.astimezone():%H:%M:%S.%f}"[:-3] + " ", "dim")
        text.append(f"{entry.level:8} ", STYLES.get(entry.level, ""))
        text.append(visible(f"{entry.message} {fields}".rstrip()))
        out.print(text, soft_wrap=True)
