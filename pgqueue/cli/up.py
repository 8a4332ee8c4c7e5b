"""`pgqueue up`: everything that is needed, in one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import click

from pgqueue.cli.api import address_options, announce, make_server
from pgqueue.cli.base import database_option
from pgqueue.cli.migrate import apply
from pgqueue.cli.session import resolve, start_announced
from pgqueue.cli.talk import say, tell
from pgqueue.cli.target import load_service
from pgqueue.cli.worker import serve, slot_options, slots_of, start_log
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pgqueue.database import Database
    from pgqueue_web import Server


@click.command()
@click.argument("target", metavar="[MODULE:QUEUE_SERVICE]", required=False)
@slot_options
@address_options
@click.option("--api/--no-api", "with_api", default=True, help="Whether to serve the HTTP interface too.")
@database_option
def up(  # noqa: PLR0913 - one for each option
    *,
    target: str | None,
    queues: tuple[tuple[str, int | None], ...],
    concurrency: int | None,
    host: str | None,
    port: int | None,
    with_api: bool,
) -> None:
    """Start all that is needed: database, schema, worker, HTTP interface.

    Where no database is named, an embedded PostgreSQL server is started; it goes on running afterwards
    (`pgqueue db stop`). Then the schema is brought up to this release, and with MODULE:QUEUE_SERVICE
    a worker runs its tasks and the HTTP interface is served until Ctrl-C.
    """
    if target is None:
        if queues or concurrency is not None:
            raise click.UsageError("--queue and --concurrency are for a worker: name MODULE:QUEUE_SERVICE.")
        apply(resolve().dsn)
        say("the database is ready; `pgqueue up MODULE:QUEUE_SERVICE` also runs a worker and the HTTP interface")
        return
    start_log()
    service = load_service(target)
    with start_announced():
        apply(service.db.dsn)
    server = _server(service.db, host, port) if with_api else None
    serve(service, slots_of(service, queues, concurrency), None if server is None else _beside(server))


def _server(database: Database, host: str | None, port: int | None) -> Server | None:
    """Return the server; on another port where nobody asked for the one that is taken, None where it is missing."""
    try:
        return make_server(database, host, port)
    except ConfigurationError as error:
        if host is not None or port is not None:
            raise
        tell("warning", error.message)
        if error.detail.get("missing"):
            say(f"going on without it; {error.hint}")
            return None
    return make_server(database, None, 0)


@asynccontextmanager
async def _beside(server: Server) -> AsyncIterator[None]:
    async with server.beside():
        announce(server)
        yield
