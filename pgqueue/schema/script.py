"""The whole schema as one script for psql."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue.schema.migrator import LEDGER, LOCK_KEY, RECORD, SETTINGS
from pgqueue.schema.source import SqlFile, code_version, read_source

if TYPE_CHECKING:
    from pathlib import Path

HEAD = """\
-- pgqueue {release}: run with psql, as the user that shall own the schema.
-- It may run again: what a database has already is left out.
\\set ON_ERROR_STOP on
begin;
select pg_advisory_xact_lock({key}) \\g /dev/null
"""
ONCE = """\
select not exists (select from pgqueue.migrations where name = '{name}') as pgqueue_todo \\gset
\\if :pgqueue_todo
{record}\\endif
do $pgqueue$
begin
    if not exists (select from pgqueue.migrations where name = '{name}' and checksum = '{checksum}') then
        raise exception using
            errcode = 'QU501',
            message = '{name} was applied to this database with other contents';
    end if;
end
$pgqueue$;
"""


def sql_text(root: Path | None = None) -> str:
    """Return everything as one script that psql runs in one transaction, as often as wanted.

    It leaves the same ledger as `migrate`, so that both ways can be mixed.
    """
    source = read_source(root)
    parts = [HEAD.format(release=code_version(), key=LOCK_KEY)]
    parts += [f"set local {name} = '{value}';\n" for name, value in (SETTINGS | {"lock_timeout": "2s"}).items()]
    parts += [LEDGER, *(_once(file) for file in source.structure)]
    parts += [_record(file) for file in source.functions + source.grants]
    parts += [_insert("release", "release", code_version(), breaking=False), "commit;\n"]
    return "\n".join(parts)


def _once(file: SqlFile) -> str:
    """Run a structure file where the ledger does not have it; refuse one that changed."""
    return ONCE.format(name=file.name, checksum=file.checksum, record=_record(file))


def _record(file: SqlFile) -> str:
    entry = _insert(file.name, file.kind, file.checksum, breaking=file.breaking)
    return f"-- {file.name}\n{file.text.rstrip()}\n{entry}"


def _insert(name: str, kind: str, checksum: str, *, breaking: bool) -> str:
    values = (f"'{name}'", f"'{kind}'", f"'{checksum}'", str(breaking).lower())
    return RECORD.replace("%s", "{}").format(*values).rstrip() + ";\n"
