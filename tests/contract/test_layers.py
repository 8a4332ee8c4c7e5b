"""The shape of the package: imports point down, functions and modules stay short."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import pgqueue

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(pgqueue.__file__).parent
SOURCES = [path for tree in (PACKAGE, PACKAGE.parent / "web" / "pgqueue_web") for path in sorted(tree.rglob("*.py"))]
SQL = re.compile(r"\b(select|insert into|update|delete from)\b[^.]*\bpgqueue\.", re.IGNORECASE)
LINT = "from importlinter.cli import lint_imports_command as run; run()"


def lengths(path: Path) -> Iterator[tuple[str, int]]:
    """Return name and number of lines of each function's body, without its docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
            yield node.name, (body[-1].end_lineno or 0) - body[0].lineno + 1


def test_imports_only_point_down() -> None:
    done = subprocess.run([sys.executable, "-c", LINT], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_module_is_short_and_so_are_its_functions(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert [name for name, lines in lengths(path) if lines > 50] == []


def test_half_of_all_functions_have_six_lines_or_less() -> None:
    assert statistics.median(lines for path in SOURCES for _, lines in lengths(path)) <= 6


def test_the_web_holds_no_sql_and_knows_no_driver() -> None:
    """Everything goes through pgqueue's services; psycopg and its errors stay in pgqueue."""
    web = [path for path in SOURCES if "pgqueue_web" in path.parts]
    assert len(web) > 10
    for path in web:
        tree = ast.parse(path.read_text())
        modules = {
            alias.name if isinstance(node, ast.Import) else node.module or ""
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for alias in node.names
        }
        assert {name for name in modules if name.startswith(("psycopg", "pgqueue.calls", "pgqueue.schema"))} == set(), (
            path
        )
        texts = [
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        assert [text for text in texts if SQL.search(text)] == [], path
