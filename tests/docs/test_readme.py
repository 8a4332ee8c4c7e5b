"""What the README shows works, and its table of errors is that of the code."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue import errors
from tests.docs.snippets import ROOT, snippets

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

README = (ROOT / "README.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (QU\d{3}) \| `(\w+)` \| (.+) \|$", re.MULTILINE)
PROGRAMS = Path(sys.executable).parent
DEADLINE_S = 30.0


def documents() -> Iterator[Path]:
    yield from ROOT.glob("*.md")
    yield from (ROOT / "docs").rglob("*.md")


def test_the_quickstart_is_short_and_works(empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = snippets("README.md")
    assert len(program.text.splitlines()) <= 25
    (tmp_path / "quickstart.py").write_text(program.text)
    monkeypatch.setenv("PGQUEUE_DSN", empty_dsn)
    log = tmp_path / "up.log"
    with log.open("wb") as stderr:
        up = [str(PROGRAMS / "pgqueue"), "up", "quickstart:queue_service"]
        worker = subprocess.Popen(up, cwd=tmp_path, stdout=stderr, stderr=stderr)
    try:
        deadline = time.monotonic() + DEADLINE_S
        while "worker started" not in log.read_text():
            assert worker.poll() is None and time.monotonic() < deadline, log.read_text()  # noqa: PT018 - either way
            time.sleep(0.05)
        command = [sys.executable, "quickstart.py"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
        assert done.stdout == "Hello, Ann!\n"
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(DEADLINE_S) == 0
    finally:
        worker.kill()
        worker.wait()


def test_the_table_of_errors_is_that_of_the_code() -> None:
    assert {state: name for state, name, _ in ROW.findall(README)} == {
        state: kind.__name__ for state, kind in errors.BY_SQLSTATE.items()
    }


def test_every_error_is_named() -> None:
    kinds = [name for name in errors.__all__ if name[0].isupper() and name != "BY_SQLSTATE"]
    assert [name for name in kinds if f"`{name}`" not in README] == []


def test_sql_raises_no_other_states() -> None:
    raised = {state for path in (ROOT / "sql").rglob("*.sql") for state in re.findall(r"\bQU\d{3}\b", path.read_text())}
    assert raised <= errors.BY_SQLSTATE.keys()
    assert "QU001" in raised


def test_links_lead_somewhere() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in documents()
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
        if not (path.parent / target).exists()
    ]
    assert broken == []


def test_what_is_named_in_bin_and_sql_is_there() -> None:
    named = {
        (path, name)
        for path in documents()
        for name in re.findall(
            r"(?<![\w/.])((?:bin|sql|pgqueue)/[\w/-]+(?:\.(?:sql|py))?)(?![\w*]|\.\w)", path.read_text(encoding="utf-8")
        )
    }
    assert [
        f"{path.name}: {name}" for path, name in sorted(named) if "NNN" not in name and not (ROOT / name).exists()
    ] == []


def test_the_roles_of_the_readme_are_those_of_the_grants() -> None:
    granted = set(re.findall(r"'(pgqueue_\w+)'", (ROOT / "sql" / "grants.sql").read_text()))
    assert set(re.findall(r"^\| `(pgqueue_\w+)` \|", README, re.MULTILINE)) == granted


def test_settings_that_are_named_exist() -> None:
    from pgqueue import Settings  # noqa: PLC0415 - only here

    other = {"PGQUEUE_TEST_DSN", "PGQUEUE_TEST_PG_BINDIR", "PGQUEUE_OUTPUT", "PGQUEUE_DEBUG", "PGQUEUE_CONFIG"}
    known = {f"PGQUEUE_{name.upper()}" for name in Settings.__struct_fields__} | other
    named = {name for path in documents() for name in re.findall(r"\bPGQUEUE_[A-Z_]+\b", path.read_text())}
    assert {name for name in named - known if not name.startswith("PGQUEUE_TASK_LIST_")} == set()
