"""The ledger `pgqueue.migrations`: what a database has, and how that compares with the code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from psycopg.rows import tuple_row

from pgqueue.errors import SchemaMismatch
from pgqueue.schema.source import SqlFile, code_version, read_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    import psycopg

    from pgqueue.schema.source import Source

RELEASE = "release"
PRESENT = """\
select exists (
    select from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'pgqueue' and c.relname = 'migrations'
)
"""
"""Reads the catalogs themselves: within a transaction, to_regclass may answer from a stale cache."""
ENTRIES = "select name, kind, checksum, breaking from pgqueue.migrations"


class Entry(NamedTuple):
    """One row of the ledger; the row `release` keeps the newest release that migrated here."""

    name: str
    kind: str
    checksum: str
    breaking: bool


@dataclass(frozen=True)
class Plan:
    """What a migration would apply; `newer` says that the database is ahead of this code."""

    structure: tuple[SqlFile, ...]
    functions: tuple[SqlFile, ...]
    grants: tuple[SqlFile, ...]
    newer: bool
    database_release: str | None
    code_release: str

    @property
    def files(self) -> tuple[SqlFile, ...]:
        """What would be applied, in order."""
        return self.structure + self.functions + self.grants

    @property
    def current(self) -> bool:
        """Whether there is nothing to do."""
        return not self.files


@dataclass(frozen=True)
class Status:
    """A schema that fits this code: both releases, and whether the database's is the newer."""

    database_release: str | None
    code_release: str
    newer: bool


def plan(conn: psycopg.Connection[Any], root: Path | None = None) -> Plan:
    """Return what `migrate` would do, and change nothing.

    Raises SchemaMismatch where it would refuse: a structure file that changed after it was
    applied, or a database that a breaking newer release has migrated.
    """
    return compare(read_source(root), read_entries(conn))


def check(conn: psycopg.Connection[Any], root: Path | None = None) -> Status:
    """Return the status of a schema that fits; two short queries.

    Raises SchemaMismatch, with the hint `run: pgqueue migrate`, where it does not.
    """
    return _verdict(plan(conn, root))


async def check_async(conn: psycopg.AsyncConnection[Any], root: Path | None = None) -> Status:
    """Return the status of a schema that fits: `check` on an asynchronous connection."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        present = await (await cursor.execute(PRESENT)).fetchone()
        rows = await (await cursor.execute(ENTRIES)).fetchall() if present == (True,) else []
    return _verdict(compare(read_source(root), [Entry(*row) for row in rows]))


def read_entries(conn: psycopg.Connection[Any]) -> list[Entry]:
    """Return the ledger's rows; none where there is no ledger."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        present = cursor.execute(PRESENT).fetchone()
        rows = cursor.execute(ENTRIES).fetchall() if present == (True,) else []
    return [Entry(*row) for row in rows]


def compare(source: Source, entries: Sequence[Entry]) -> Plan:
    """Return what is missing in a database with these ledger rows; see `plan` for what raises."""
    known = {entry.name: entry for entry in entries}
    _refuse_changed(source, known)
    ahead = [e for e in entries if e.kind == "structure" and e.name not in {f.name for f in source.structure}]
    _refuse_breaking(ahead)
    release = known[RELEASE].checksum if RELEASE in known else None
    newer = bool(ahead) or _number(release) > _number(code_version())
    structure = tuple(file for file in source.structure if file.name not in known)
    functions = () if newer else _functions(source, known, again=bool(structure))
    grants = () if newer else _grants(source, known, again=bool(structure or functions))
    return Plan(structure, functions, grants, newer, release, code_version())


def _functions(source: Source, known: dict[str, Entry], *, again: bool) -> tuple[SqlFile, ...]:
    names = {file.name for file in source.functions}
    gone = any(entry.kind == "functions" and entry.name not in names for entry in known.values())
    return source.functions if again or gone or _differ(source.functions, known) else ()


def _grants(source: Source, known: dict[str, Entry], *, again: bool) -> tuple[SqlFile, ...]:
    return source.grants if again or _differ(source.grants, known) else ()


def _differ(files: Sequence[SqlFile], known: dict[str, Entry]) -> bool:
    return any(file.name not in known or known[file.name].checksum != file.checksum for file in files)


def _refuse_changed(source: Source, known: dict[str, Entry]) -> None:
    changed = [f.name for f in source.structure if f.name in known and known[f.name].checksum != f.checksum]
    if changed:
        msg = f"{changed[0]} was applied to this database with other contents"
        hint = "a structure file is frozen once it has landed: restore it, and put the change into a new file"
        raise SchemaMismatch(msg, detail={"files": changed}, hint=hint)


def _refuse_breaking(ahead: Sequence[Entry]) -> None:
    breaking = [entry.name for entry in ahead if entry.breaking]
    if breaking:
        msg = f"this database was migrated by a newer pgqueue ({breaking[0]}), and this one is too old for it"
        hint = f"upgrade pgqueue (this is {code_version()})"
        raise SchemaMismatch(msg, detail={"files": breaking}, hint=hint)


def _verdict(found: Plan) -> Status:
    if found.current:
        return Status(found.database_release, found.code_release, found.newer)
    names = [file.name for file in found.files]
    what = "has no pgqueue schema" if found.database_release is None else f"lacks {len(names)} files of this release"
    raise SchemaMismatch(f"the database {what}", detail={"files": names}, hint="run: pgqueue migrate")


def _number(release: str | None) -> tuple[int, ...]:
    return tuple(int(part) for part in (release or "").split(".") if part.isdecimal())
