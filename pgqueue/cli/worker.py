"""`pgqueue worker` and `pgqueue-worker`: run the tasks of a queue service."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pgqueue.cli.base import CONTEXT, database_option, near
from pgqueue.cli.failures import run_command
from pgqueue.cli.parameters import Slots
from pgqueue.cli.talk import tell
from pgqueue.cli.target import load_service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from pgqueue.queue_service import QueueService

F = TypeVar("F", bound="Callable[..., Any]")


def slot_options(command: F) -> F:
    """Add --queue and --concurrency."""
    queue = click.option(
        "--queue",
        "queues",
        type=Slots(),
        multiple=True,
        metavar="NAME[=CONCURRENCY]",
        help="Serve this queue, with so many slots; may be repeated.  [default: those the service declares]",
    )
    concurrency = click.option(
        "--concurrency",
        type=click.IntRange(0, 100_000),
        metavar="N",
        help="Slots of each queue that names none.  [default: what the service or the queue says]",
    )
    return queue(concurrency(command))


@click.command(context_settings=CONTEXT)
@click.argument("target", metavar="MODULE:QUEUE_SERVICE")
@slot_options
@database_option
def worker(target: str, queues: tuple[tuple[str, int | None], ...], concurrency: int | None) -> None:
    """Run the tasks of a queue service.

    MODULE:QUEUE_SERVICE is where Python finds it, for instance app:queue_service; the current directory is
    searched too. The first Ctrl-C (or SIGTERM) claims nothing more and lets running tasks end, the second
    stops them at once; they go back to the queue at no cost.
    """
    start_log()
    service = load_service(target)
    serve(service, slots_of(service, queues, concurrency))


def start_log() -> None:
    """Log to stderr as the settings say; before the user's module is imported, which may change it."""
    from pgqueue import log, settings

    chosen = settings.load()
    log.configure(chosen.log_level, chosen.log_format)


def serve(
    service: QueueService, slots: dict[str, int | None] | None, beside: AbstractAsyncContextManager[None] | None = None
) -> None:
    """Run a worker until it is stopped, and `beside` it something else.

    What was imported stays until the end: the garbage collector does not look through it again, 30 ms each time.
    """

    async def within() -> None:
        async with service.db, beside or nullcontext():
            gc.collect()
            gc.freeze()
            await service.start(queues=slots)

    asyncio.run(within())
    leave_threads_behind()


def leave_threads_behind() -> None:
    """End the process though handlers in threads do not: their tasks were released, and run elsewhere."""
    stuck = [thread.name for thread in threading.enumerate() if thread.name.startswith("pgqueue_")]
    if stuck:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def slots_of(
    service: QueueService, queues: Iterable[tuple[str, int | None]], concurrency: int | None
) -> dict[str, int | None] | None:
    """Return the slots of each queue, or None where the service decides alone."""
    declared = service.declared_queues()
    named = dict(queues)
    for name in named:
        if name not in declared:
            tell("warning", f"queue {name!r} is none that the service declares.{near(name, declared)}")
    if not named and concurrency is None:
        return None
    return {name: concurrency if count is None else count for name, count in (named or dict.fromkeys(declared)).items()}


def main() -> NoReturn:
    """Run the console script `pgqueue-worker`."""
    run_command(worker, "pgqueue-worker", "PGQUEUE_WORKER")
