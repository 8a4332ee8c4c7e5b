"""Where a helper shall look: a DSN, a Database, or a connection."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue.database import Database, SyncDatabase, translated
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.calls import Call

__all__ = ["Target"]


class Target:
    """Runs calls on a connection of the caller's, or on one of its own, which is closed afterwards.

    `where` is a DSN, a Database or SyncDatabase, or a blocking connection (psycopg, SQLAlchemy, Django). What an open
    transaction wrote is seen through its own connection alone.
    """

    def __init__(self, where: object) -> None:
        """Opens nothing."""
        dsn = where.dsn if isinstance(where, Database | SyncDatabase) else where
        self._conn: Any = None if isinstance(dsn, str) else dsn
        self._database = SyncDatabase(dsn if isinstance(dsn, str) else "dbname=given")

    @contextlib.contextmanager
    def opened(self) -> Iterator[Target]:
        """Keep one connection for all calls within the block."""
        if self._conn is not None:
            yield self
            return
        with self._database.connect() as conn:
            self._conn = conn
            try:
                yield self
            finally:
                self._conn = None

    def run(self, call: Call[Any]) -> Any:  # noqa: ANN401 - the call's own answer
        """Run a call within `opened`."""
        return self._database.run(call, conn=self._conn)

    def execute(self, statement: str) -> None:
        """Run a statement that answers nothing, within `opened`. Raises ConfigurationError, PgqueueError."""
        if not isinstance(self._conn, psycopg.Connection):
            msg = f"{type(self._conn).__name__} is neither a DSN, nor a database, nor a blocking psycopg connection"
            raise ConfigurationError(msg, hint="pass the DSN, for instance the fixture pgqueue_dsn")
        with translated():
            self._conn.execute(statement.encode())
