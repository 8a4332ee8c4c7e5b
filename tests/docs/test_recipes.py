"""What the recipes show works in psql."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    import psycopg

BLOCK = re.compile(r"^(?:```sql\n(.*?)^```|<!-- sql\n(.*?)^-->)$", re.MULTILINE | re.DOTALL)


def test_every_statement_runs(conn: psycopg.Connection[Any]) -> None:
    page = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    blocks = [shown or hidden for shown, hidden in BLOCK.findall(page)]
    assert len(blocks) >= 8
    for statement in (one for block in blocks for one in re.split(r";$", block, flags=re.MULTILINE)):
        if statement.strip():
            conn.execute(statement.encode())
