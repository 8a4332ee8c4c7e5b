"""What only tests ask of a database: a clock that is set, and databases of their own.

These are texts, not calls: PostgreSQL takes no parameters in them, and answers nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue.calls.call import Call, value

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = ["clock_text", "clone_database", "drop_database", "real_time", "shifted_clock"]

MICROSECONDS_A_DAY = 86_400_000_000


def clock_text() -> Call[str]:
    """pg_get_functiondef: the statement that makes pgqueue._now() as it is."""
    return Call("select pg_get_functiondef('pgqueue._now()'::regprocedure)", (), value)


def real_time() -> Call[datetime]:
    """clock_timestamp: the server's time, whatever pgqueue._now() says."""
    return Call("select clock_timestamp()", (), value)


def shifted_clock(shift: timedelta) -> str:
    """Return the statement after which pgqueue._now() is the server's time plus `shift`."""
    micros = shift.days * MICROSECONDS_A_DAY + shift.seconds * 1_000_000 + shift.microseconds
    return (
        "create or replace function pgqueue._now() returns timestamptz language plpgsql stable parallel safe "
        f"as $$ begin return clock_timestamp() + {micros} * interval '1 microsecond'; end $$"
    )


def clone_database(name: str, template: str) -> str:
    """Return the statement that makes a database as a copy of another."""
    return f"create database {_quoted(name)} template {_quoted(template)}"


def drop_database(name: str) -> str:
    """Return the statement that drops a database with all that is in it, ending its sessions."""
    return f"drop database if exists {_quoted(name)} with (force)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
