"""`pgqueue up`: everything that is needed, in one."""

from __future__ import annotations

import click

from pgqueue.cli.base import database_option
from pgqueue.cli.migrate import apply
from pgqueue.cli.session import resolve, start_announced
from pgqueue.cli.talk import say
from pgqueue.cli.target import load_service
from pgqueue.cli.worker import serve, slot_options, slots_of, start_log


@click.command()
@click.argument("target", metavar="[MODULE:QUEUE_SERVICE]", required=False)
@slot_options
@database_option
def up(target: str | None, queues: tuple[tuple[str, int | None], ...], concurrency: int | None) -> None:
    """Start all that is needed: database, schema, worker.

    Where no database is named, an embedded PostgreSQL server is started; it goes on running afterwards
    (`pgqueue db stop`). Then the schema is brought up to this release, and with MODULE:QUEUE_SERVICE
    a worker runs its tasks until Ctrl-C.
    """
    if target is None:
        if queues or concurrency is not None:
            raise click.UsageError("--queue and --concurrency are for a worker: name MODULE:QUEUE_SERVICE.")
        apply(resolve().dsn)
        say("the database is ready; `pgqueue up MODULE:QUEUE_SERVICE` also runs a worker")
        return
    start_log()
    service = load_service(target)
    with start_announced():
        apply(service.db.dsn)
    serve(service, slots_of(service, queues, concurrency))
