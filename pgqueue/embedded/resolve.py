"""Which database: the first rule that names one wins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqueue import settings
from pgqueue.embedded.server import Server
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DATABASE = "pgqueue"


@dataclass(frozen=True)
class Resolved:
    """A DSN and the rule that gave it; an empty DSN leaves everything to libpq's variables."""

    dsn: str
    rule: str


def default_server(
    data_dir: Path | str | None = None,
    options: Mapping[str, object] | None = None,
) -> Server:
    """Return the server of this user, not started: `data_dir`, the setting, or the default folder."""
    return Server(data_dir or settings.load().data_dir or settings.data_home(), options=options)


def named_dsn(dsn: str | None = None) -> Resolved | None:
    """Return the DSN that somebody named, or None where only an embedded server is left.

    Order: the argument, PGQUEUE_DSN, `pgqueue.toml`, DATABASE_URL, libpq's own variables.
    """
    if dsn:
        return Resolved(dsn, "--dsn")
    if configured := settings.load().dsn:
        return Resolved(configured, settings.origins()["dsn"])
    if url := settings.database_url():
        return Resolved(url, "DATABASE_URL")
    if names := settings.libpq_variables():
        return Resolved("", f"libpq variables ({', '.join(names)})")
    return None


def resolve_dsn(dsn: str | None = None) -> Resolved:
    """Return where the database is; starts the embedded server where nothing else names one.

    There the database `pgqueue` is made if missing. Raises DatabaseUnavailable, with three fixes,
    where no database is named and no server is installed, ConfigurationError for a DSN that cannot be read.
    """
    if named := named_dsn(dsn):
        _check(named.dsn)
        return named
    server = default_server()
    server.start()
    server.create_database(DATABASE)
    return Resolved(server.dsn(DATABASE), f"embedded server in {server.layout.home}")


def _check(dsn: str) -> None:
    """Refuse what libpq cannot read, without repeating it: libpq's own message may show a password."""
    from psycopg import ProgrammingError, conninfo  # noqa: PLC0415 - keeps `pgqueue --help` quick

    try:
        conninfo.conninfo_to_dict(dsn)
    except ProgrammingError:
        hint = "write postgresql://user@host:5432/database or host=… dbname=…; quote values that hold spaces"
        raise ConfigurationError("the DSN cannot be read", hint=hint) from None
