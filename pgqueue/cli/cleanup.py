"""`pgqueue cleanup`: old history goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.output import emit_rows
from pgqueue.cli.parameters import Span
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from datetime import timedelta

    from pgqueue.services import QueueOperations


@click.command()
@click.option("--older-than", type=Span(), metavar="TIME", help="Whatever the queues say: all that finished before.")
@click.option("--dry-run", is_flag=True, help="Only count; needs --older-than.")
@data_options
def cleanup(*, older_than: timedelta | None, dry_run: bool) -> None:
    """Remove old finished tasks.

    With their attempts and logs. Without --older-than those that were kept for as long as their queue or the
    settings say, which workers do by themselves every ten minutes.
    """
    if dry_run and older_than is None:
        raise click.UsageError("--dry-run counts what finished before a time: add --older-than, for instance 30d.")

    async def work(service: QueueOperations) -> int:
        from pgqueue import calls
        from pgqueue.services import RetryManager

        manager = RetryManager(service.db)
        if older_than is None:
            return await manager.apply_retention()
        if dry_run:
            return await service.db.run(calls.count_older(older_than))
        return await manager.cleanup_old_tasks(older_than)

    count = run(work)
    if common().output != "table":
        emit_rows([{"tasks": count, "removed": not dry_run}], [], empty="")
    elif dry_run:
        say(f"{words.plural(count, 'task')} would be removed; nothing was changed")
    else:
        say(f"removed {words.plural(count, 'task')}")
