"""`pgqueue api` and `pgqueue-api`: the HTTP interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pgqueue.cli.base import CONTEXT, database_option
from pgqueue.cli.failures import run_command
from pgqueue.cli.session import resolve
from pgqueue.cli.talk import say
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pgqueue.database import Database
    from pgqueue_web import Server

END_S = 2.5
"""Seconds from a signal to the end of the process at the latest."""
F = TypeVar("F", bound="Callable[..., Any]")


def address_options(command: F) -> F:
    """Add --host and --port; their variables are those of the settings."""
    host = click.option(
        "--host", metavar="HOST", allow_from_autoenv=False, help="Where to listen.  [default: api_host, 127.0.0.1]"
    )
    port = click.option(
        "--port",
        type=click.IntRange(0, 65_535),
        metavar="PORT",
        allow_from_autoenv=False,
        help="Its port; 0 takes any that is free.  [default: api_port, 8000]",
    )
    return host(port(command))


@click.command(context_settings=CONTEXT)
@address_options
@database_option
def api(host: str | None, port: int | None) -> None:
    """Serve the HTTP interface.

    On this machine alone it is open until the first key is made (`pgqueue key create`). Where others could reach
    it, it does not start without a key. It serves until Ctrl-C or SIGTERM; streams are ended then.
    """
    from pgqueue import log, settings
    from pgqueue.database import Database

    chosen = settings.load(dsn=resolve().dsn or None)
    log.configure(chosen.log_level, chosen.log_format)
    database = Database(chosen.dsn, settings=chosen)
    server = make_server(database, host, port)

    async def within() -> None:
        async with database, _ending_in_time(server):
            await server.run(ready=lambda: announce(server))

    asyncio.run(within())


@contextlib.asynccontextmanager
async def _ending_in_time(server: Server) -> AsyncIterator[None]:
    """Let the process end within 3 s of a signal, whatever still waits for a database that does not answer."""

    async def watch() -> None:
        await server.context.stopping.wait()
        last = threading.Timer(END_S, _cut_off)
        last.daemon = True
        last.start()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def _cut_off() -> None:
    """End the process: what is under way in the database is rolled back there."""
    say("what was still under way is cut off")
    os._exit(0)


def make_server(database: Database, host: str | None, port: int | None) -> Server:
    """Return the server, listening. Raises ConfigurationError where it cannot, or is not installed."""
    try:
        from pgqueue_web import Server
    except ModuleNotFoundError as error:
        msg = f"the HTTP interface is not installed: {error.name} is missing"
        hint = "install it: pip install 'pgqueue[web]'"
        raise ConfigurationError(msg, detail={"missing": error.name}, hint=hint) from error
    return Server(database, host, port)


def announce(server: Server) -> None:
    """Say where it is."""
    say(f"serving {server.url}/api/v1, documented at {server.url}/api/v1/docs")
    say(f"the dashboard is at {server.url}/")


def main() -> NoReturn:
    """Run the console script `pgqueue-api`."""
    run_command(api, "pgqueue-api", "PGQUEUE_API")
