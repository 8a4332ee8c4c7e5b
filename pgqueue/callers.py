"""Connections of the caller's, whose transaction a call joins: psycopg's own, SQLAlchemy's and Django's over it."""

from __future__ import annotations

from typing import Any

import psycopg

from pgqueue.errors import ConfigurationError

__all__ = ["unwrap", "unwrap_async"]


async def unwrap_async(conn: Any) -> psycopg.AsyncConnection[Any]:  # noqa: ANN401 - any JSON, or any connection
    """SQLAlchemy begins its transaction with its first own statement, and commits none that it did not begin."""
    if isinstance(conn, psycopg.AsyncConnection):
        return conn
    if hasattr(conn, "get_raw_connection"):
        if not conn.in_transaction():
            await conn.begin()
        return await unwrap_async((await conn.get_raw_connection()).driver_connection)
    if hasattr(conn, "connection") and hasattr(conn, "run_sync"):
        return await unwrap_async(await conn.connection())
    raise _not_a_connection(conn, "psycopg.AsyncConnection")


def unwrap(conn: Any) -> psycopg.Connection[Any]:  # noqa: ANN401 - any JSON, or any connection
    """As `unwrap_async`; Django's connection begins by itself."""
    if isinstance(conn, psycopg.Connection):
        return conn
    if hasattr(conn, "ensure_connection"):
        conn.ensure_connection()
        return unwrap(conn.connection)
    if hasattr(conn, "driver_connection"):
        return unwrap(conn.driver_connection)
    if hasattr(conn, "connection") and callable(conn.connection):
        return unwrap(conn.connection())
    if hasattr(conn, "connection") and hasattr(conn, "in_transaction"):
        if not conn.in_transaction():
            conn.begin()
        return unwrap(conn.connection)
    raise _not_a_connection(conn, "psycopg.Connection")


def _not_a_connection(conn: object, wanted: str) -> ConfigurationError:
    msg = f"conn={type(conn).__name__} is no {wanted}, nor a SQLAlchemy or Django connection over one"
    return ConfigurationError(msg, hint="use psycopg 3; pgqueue.sync takes blocking connections, pgqueue async ones")
