"""The queue service of the demo: three task types, each in a queue of its own.

`pgqueue-worker stdlib_index.tasks:queue_service`, run in the folder `examples`, is one worker.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pgqueue import Database, PermanentError, QueueService, Retry, TaskContext, TaskFilter

from .analysis import FileReport, count_lines, measure
from .sources import SourceFile  # noqa: TC001 - read at run time: the type of a payload

if TYPE_CHECKING:
    from pgqueue.models import Status

__all__ = [
    "QUEUES",
    "Catalogue",
    "Check",
    "Shelf",
    "ShelfTotals",
    "catalogue",
    "check_shelf",
    "index_file",
    "queue_service",
]

QUEUES = {"files": 1, "catalogue": 1, "checks": 4}
"""Each queue's slots in a worker: parsing is work for a processor, and each worker has one of the two."""

LOOK_S = 0.25
ENDED: tuple[Status, ...] = ("completed", "failed", "cancelled")

queue_service = QueueService(Database())
for name, concurrency in QUEUES.items():
    queue_service.register_queue(name, concurrency)


class Shelf(msgspec.Struct, frozen=True):
    """A shelf and how many files stand on it."""

    name: str
    files: int


class Catalogue(msgspec.Struct, frozen=True):
    """What the catalogue is made of, and the folder its cards are written to."""

    folder: str
    shelves: list[Shelf]


class ShelfTotals(msgspec.Struct, frozen=True):
    """A card of the catalogue: what the readable files of a shelf hold together."""

    name: str
    files: int
    unreadable: int
    lines: int
    classes: int
    functions: int


class Check(msgspec.Struct, frozen=True):
    """A shelf to be counted again, by somebody who does not parse."""

    folder: str
    shelf: str
    paths: list[str]


@queue_service.handler("index_file", queue_name="files", executor="thread", timeout=60, max_retries=2)
def index_file(_ctx: TaskContext, file: SourceFile) -> FileReport:
    """Measure one file. What does not parse today will not parse tomorrow: that failure is permanent.

    In a thread: with one slot a worker, the processes are the workers, and nothing is passed on between them.
    """
    try:
        return measure(Path(file.path), file.name)
    except (SyntaxError, ValueError) as error:
        raise PermanentError(f"{type(error).__name__}: {error}") from error


@queue_service.handler("catalogue", queue_name="catalogue")
async def catalogue(ctx: TaskContext, order: Catalogue) -> list[ShelfTotals]:
    """Follow the other tasks: as soon as all files of a shelf are measured, write its card."""
    cards = []
    for done, shelf in enumerate(order.shelves):
        await ctx.update_progress_with_steps(shelf.name, done, len(order.shelves), f"waits for {shelf.files} files")
        await _all_ended(shelf)
        cards.append(await _add_up(shelf))
        _write(card_path(order.folder, shelf.name), cards[-1])
    await ctx.update_progress_with_steps("all shelves", len(cards), len(order.shelves), "done")
    return cards


@queue_service.handler(
    "check_shelf", queue_name="checks", max_retries=100, retry=Retry.exponential(0.5, cap=2, jitter=0)
)
def check_shelf(_ctx: TaskContext, check: Check) -> int:
    """Compare a card with the files on disk. Fails, and is tried again, until the card is written."""
    path = card_path(check.folder, check.shelf)
    if not path.exists():
        raise FileNotFoundError(f"there is no card for {check.shelf!r} yet")
    card = msgspec.json.decode(path.read_bytes(), type=ShelfTotals)
    counted = sum(count_lines(Path(name).read_bytes()) for name in check.paths)
    if counted < card.lines:
        raise PermanentError(f"the card of {check.shelf!r} says {card.lines} lines, but there are {counted}")
    return counted


def card_path(folder: str, shelf: str) -> Path:
    """Return where the card of a shelf is written."""
    return Path(folder, f"{shelf.replace('/', ' of ')}.json")


async def _all_ended(shelf: Shelf) -> None:
    while True:
        ended = 0
        for status in ENDED:
            found = TaskFilter(project_id=shelf.name, task_type="index_file", status=status, page_size=1)
            ended += (await queue_service.list_tasks(found))[1]
        if ended >= shelf.files:
            return
        await asyncio.sleep(LOOK_S)


async def _add_up(shelf: Shelf) -> ShelfTotals:
    found = TaskFilter(project_id=shelf.name, task_type="index_file", status="completed", page_size=1000)
    tasks, total = await queue_service.list_tasks(found)
    reports = [msgspec.convert(task.result_value, FileReport) for task in tasks]
    return ShelfTotals(
        name=shelf.name,
        files=total,
        unreadable=shelf.files - total,
        lines=sum(report.lines for report in reports),
        classes=sum(report.classes for report in reports),
        functions=sum(report.functions for report in reports),
    )


def _write(path: Path, card: ShelfTotals) -> None:
    """Write all or nothing: whoever finds the file finds it whole."""
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(card))
    draft.replace(path)
