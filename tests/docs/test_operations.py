"""What the operator's page shows works in psql, and its settings are those that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from pgqueue import Settings, calls

if TYPE_CHECKING:
    import psycopg

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^(?:```sql\n(.*?)^```|<!-- sql\n(.*?)^-->)$", re.MULTILINE | re.DOTALL)
SETTING = re.compile(r"^\| (`\w+`(?:, `\w+`)*) \| ?(.*?) ?\|", re.MULTILINE)
VIEW = re.compile(r"^\| `(\w+)` \| [A-Z]", re.MULTILINE)


def test_every_statement_runs(conn: psycopg.Connection[Any]) -> None:
    blocks = [shown or hidden for shown, hidden in BLOCK.findall(PAGE)]
    assert len(blocks) > 10
    for block in blocks:
        for statement in re.split(r";$", block, flags=re.MULTILINE):
            if statement.strip():
                conn.execute(statement.encode())


def test_every_view_for_operators_is_told_of() -> None:
    assert set(VIEW.findall(PAGE)) == calls.reading.VIEWS | {"all_tasks"}


def test_every_column_of_health_is_told_of(conn: psycopg.Connection[Any]) -> None:
    columns = [column.name for column in conn.execute("select * from pgqueue.health").description or ()]
    told = PAGE[PAGE.index("| column of `health`") : PAGE.index("## Views")]
    assert re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", told, re.MULTILINE))) == columns


def test_every_setting_is_told_of_with_its_default() -> None:
    told: dict[str, str] = {}
    for names, defaults in SETTING.findall(PAGE[PAGE.index("## Settings") :]):
        values = defaults.split(", ")
        told |= dict(zip(re.findall(r"\w+", names), values, strict=True))
    assert told == {field.name: _shown(field.default) for field in msgspec.structs.fields(Settings)}


def _shown(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
