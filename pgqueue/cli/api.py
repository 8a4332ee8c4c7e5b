"""`pgqueue api` and `pgqueue-api`: the HTTP interface."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from pgqueue.cli.base import CONTEXT, database_option
from pgqueue.cli.failures import run_command
from pgqueue.cli.session import resolve
from pgqueue.cli.talk import say
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.database import Database
    from pgqueue_web import Server

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
    database = Database(chosen.dsn, settings=chosen).limited(chosen.api_timeout_s)
    server = make_server(database, host, port)

    async def within() -> None:
        async with database:
            await server.run(ready=lambda: announce(server))

    asyncio.run(within())


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
