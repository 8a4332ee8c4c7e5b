"""Applying what is missing: one transaction, one advisory lock, short waits for table locks."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from pgqueue.errors import ConfigurationError, PgqueueError, from_postgres
from pgqueue.schema.ledger import RELEASE, Plan, compare, read_entries
from pgqueue.schema.source import SqlFile, code_version, read_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from pgqueue.schema.source import Source

    Connection = psycopg.Connection[Any]

LOCK_KEY = 0x7067_7175_6575_65  # the letters of pgqueue
OLDEST = 140_000
ATTEMPTS = 12
BUSY = (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure)
SETTINGS = {
    "search_path": "",
    "client_min_messages": "warning",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
SET_LOCAL = "select set_config(%s, %s, true)"
LEDGER = """\
create schema if not exists pgqueue;
create table if not exists pgqueue.migrations (
    name text constraint migrations_pkey primary key,
    kind text not null,
    checksum text not null,
    breaking boolean not null default false,
    applied_at timestamptz not null default clock_timestamp()
);
comment on table pgqueue.migrations is 'What was applied to this database; pgqueue migrate writes it.';
comment on column pgqueue.migrations.name is 'Path of the file below sql/, or release.';
comment on column pgqueue.migrations.kind is 'structure, functions, grants or release.';
comment on column pgqueue.migrations.checksum is 'SHA-256 of the file; of release, its number.';
comment on column pgqueue.migrations.breaking is 'Whether older code must refuse this database.';
comment on column pgqueue.migrations.applied_at is 'When it was applied last.';
"""
RECORD = """\
insert into pgqueue.migrations (name, kind, checksum, breaking) values (%s, %s, %s, %s)
on conflict (name) do update
set kind = excluded.kind, checksum = excluded.checksum, breaking = excluded.breaking, applied_at = clock_timestamp()
"""
FORGET = "delete from pgqueue.migrations where kind = 'functions' and name <> all (%s)"
PARTITIONS = "pgqueue._make_partitions"


@dataclass(frozen=True)
class Report:
    """What `migrate` applied, in order; `newer`: the database is ahead of this code."""

    applied: tuple[str, ...]
    release: str
    newer: bool


def migrate(target: str | Connection, root: Path | None = None) -> Report:
    """Bring a database up to this release; return what was applied, nothing where it is current.

    `target` is a DSN or a connection; on a connection inside a transaction it joins that
    transaction. Waits for other installers, and retries where a table lock is not had in 2 s.
    Raises SchemaMismatch where it must not touch the database, ConfigurationError where the
    server is older than PostgreSQL 14 or the database is not UTF-8, and PgqueueError with file
    and line where a statement fails.
    """
    source = read_source(root)
    if not isinstance(target, str):
        return _migrate(target, source)
    try:
        conn = psycopg.connect(target, autocommit=True, prepare_threshold=None)
    except psycopg.Error as exc:
        raise from_postgres(exc) from exc
    with conn:
        return _migrate(conn, source)


def _migrate(conn: Connection, source: Source) -> Report:
    _require(conn)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(conn, source)
        except BUSY as exc:
            if attempt == ATTEMPTS:
                hint = "end the transaction that holds the lock (see pg_stat_activity), then migrate again"
                raise PgqueueError("no lock on pgqueue's tables within 2 s", hint=hint, sqlstate=exc.sqlstate) from exc
            time.sleep(random.uniform(0.1, 1.0))  # noqa: S311 - jitter
        except psycopg.Error as exc:
            raise from_postgres(exc) from exc
    raise AssertionError


def _attempt(conn: Connection, source: Source) -> Report:
    with conn.transaction(), _local_settings(conn):
        # The advisory lock may take as long as the other installers take; table locks may not.
        conn.execute(SET_LOCAL, ["lock_timeout", "0"])
        conn.execute("select pg_advisory_xact_lock(%s)", [LOCK_KEY])
        conn.execute(SET_LOCAL, ["lock_timeout", "2s"])
        found = compare(source, read_entries(conn))
        if not found.current:
            _apply(conn, source, found)
        _make_partitions(conn)
    return Report(tuple(file.name for file in found.files), found.code_release, found.newer)


def _apply(conn: Connection, source: Source, found: Plan) -> None:
    conn.execute(LEDGER)
    for file in found.files:
        with _named(file):
            conn.execute(file.text.encode())
        conn.execute(RECORD, [file.name, file.kind, file.checksum, file.breaking])
    if not found.newer:
        conn.execute(FORGET, [[file.name for file in source.functions]])
        conn.execute(RECORD, [RELEASE, RELEASE, code_version(), False])


def _make_partitions(conn: Connection) -> None:
    with conn.cursor(row_factory=tuple_row) as cursor:
        known = cursor.execute("select to_regproc(%s) is not null", [PARTITIONS]).fetchone()
        if known == (True,):
            cursor.execute(f"select {PARTITIONS}()".encode())


@contextmanager
def _local_settings(conn: Connection) -> Iterator[None]:
    """Set what the files rely on; put the caller's values back at the end of the work."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        names = [*SETTINGS, "lock_timeout"]
        cursor.execute("select name, current_setting(name) from unnest(%s::text[]) name", [names])
        before = cursor.fetchall()
        cursor.executemany(SET_LOCAL, list(SETTINGS.items()))
        yield
        cursor.executemany(SET_LOCAL, before)


@contextmanager
def _named(file: SqlFile) -> Iterator[None]:
    """Say file and line where a statement fails."""
    try:
        yield
    except BUSY:
        raise
    except psycopg.Error as exc:
        position = int(exc.diag.statement_position or 1)
        line = file.text.count("\n", 0, position - 1) + 1
        msg = f"sql/{file.name}, line {line}: {exc.diag.message_primary or exc}"
        raise PgqueueError(msg, hint=exc.diag.message_hint, sqlstate=exc.sqlstate) from exc


def _require(conn: Connection) -> None:
    number = conn.info.server_version
    if number < OLDEST:
        msg = f"the server is PostgreSQL {number // 10000}; pgqueue needs 14 or newer"
        raise ConfigurationError(msg, detail={"server_version": number}, hint="upgrade the server, or name another")
    encoding = conn.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        msg = f"the database's encoding is {encoding}; pgqueue needs UTF8"
        hint = "create database … encoding 'UTF8' template template0"
        raise ConfigurationError(msg, detail={"server_encoding": encoding}, hint=hint)
