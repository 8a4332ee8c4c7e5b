"""`pgqueue scheduler`: fires schedules in a process of its own."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from pgqueue.cli.base import database_option
from pgqueue.cli.session import resolve
from pgqueue.cli.worker import start_log

if TYPE_CHECKING:
    from pgqueue.database import Database

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command()
@database_option
def scheduler() -> None:
    """Fire schedules, and run no tasks.

    Every worker fires schedules as well; this is for machines that run none. Any number may run at once,
    and no tick is fired twice. The first Ctrl-C (or SIGTERM) ends it after what is being fired, the second
    at once.
    """
    from pgqueue import settings
    from pgqueue.database import Database

    start_log()
    chosen = settings.load(dsn=resolve().dsn or None)
    asyncio.run(_fire(Database(chosen.dsn, settings=chosen)))


async def _fire(database: Database) -> None:
    import structlog

    from pgqueue import schema
    from pgqueue.scheduler import Scheduler

    log = structlog.get_logger()
    firing = Scheduler(database)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        firing.stop()
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    async with database:
        async with database.connection() as conn:
            await schema.check_async(conn)
        for number in SIGNALS:
            loop.add_signal_handler(number, stop)
        log.info("scheduler started")
        await firing.run()
        log.info("scheduler stopped")
