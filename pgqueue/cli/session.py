"""A command's way to the database: which one, and an asynchronous run of its work."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pgqueue.cli.base import common
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from pgqueue.database import Database
    from pgqueue.embedded import Resolved
    from pgqueue.services import QueueOperations

T = TypeVar("T")


def run(work: Callable[[QueueOperations], Awaitable[T]]) -> T:
    """Run an asynchronous piece of work with the operations of the chosen database; return its result."""
    from pgqueue.services import QueueOperations

    database = open_database()

    async def within() -> T:
        async with database:
            return await work(QueueOperations(database))

    return asyncio.run(within())


def open_database() -> Database:
    """Return the chosen database, not connected; only warnings and worse are logged, to stderr."""
    from pgqueue import log, settings
    from pgqueue.database import Database

    chosen = settings.load(dsn=resolve().dsn or None)
    log.configure(chosen.log_level if "log_level" in settings.origins() else "warning", chosen.log_format)
    return Database(chosen.dsn, settings=chosen)


def resolve() -> Resolved:
    """Return which database it is and why; say so where an embedded server was started for it."""
    from pgqueue.embedded import resolve_dsn

    with start_announced():
        return resolve_dsn(common().dsn)


@contextmanager
def start_announced() -> Iterator[None]:
    """Say when the embedded server runs afterwards and did not before."""
    from pgqueue.embedded import default_server

    server = default_server()
    before = server.status().running
    yield
    if not before and server.status().running:
        say(f"started an embedded PostgreSQL in {server.layout.home}; `pgqueue db stop` stops it")


def export_dsn() -> None:
    """Make --dsn the PGQUEUE_DSN of this process, for the module of a worker and the processes it starts."""
    from pgqueue import settings

    if dsn := common().dsn:
        settings.export_dsn(dsn)
