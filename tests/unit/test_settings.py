"""Settings: four layers, each mistake named with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgqueue import settings
from pgqueue.errors import ConfigurationError
from pgqueue.settings import Settings, load, origins


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("PGQUEUE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_without_anything_the_defaults_hold() -> None:
    assert load() == Settings()
    assert (load().lease_s, load().heartbeat_s, load().poll_s) == (30.0, 5.0, 1.0)
    assert origins() == {}


def test_each_layer_overrides_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pgqueue.toml").write_text("pool_max = 20\npoll_s = 2\ngrace_s = 7.5\n")
    monkeypatch.setenv("PGQUEUE_POLL_S", "3")
    monkeypatch.setenv("PGQUEUE_GRACE_S", "8")
    found = load(grace_s=9.0, dsn=None)
    assert (found.pool_max, found.poll_s, found.grace_s) == (20, 3.0, 9.0)
    assert origins(grace_s=9.0) == {
        "pool_max": "pgqueue.toml: pool_max",
        "poll_s": "PGQUEUE_POLL_S",
        "grace_s": "argument grace_s",
    }


def test_variables_are_read_as_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_POOLER", "true")
    monkeypatch.setenv("PGQUEUE_POOL_MAX", "3")
    monkeypatch.setenv("PGQUEUE_DATA_DIR", "~/data")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("PGQUEUE_LOG_LEVEL", "")
    found = load()
    assert (found.pooler, found.pool_max, found.data_dir) == (True, 3, Path("/home/someone/data"))
    assert found.log_level == "info"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PGQUEUE_LEASE", "30", "PGQUEUE_LEASE: no setting has this name .*did you mean lease_s"),
        ("PGQUEUE_LEASE_S", "soon", "PGQUEUE_LEASE_S: 'soon' is refused: Expected `float`"),
        ("PGQUEUE_POOLER", "perhaps", "PGQUEUE_POOLER: 'perhaps' is refused: Expected `bool`"),
        ("PGQUEUE_POOL_MIN", "0", "PGQUEUE_POOL_MIN: '0' is refused: Expected `int` >= 1"),
        ("PGQUEUE_LOG_FORMAT", "xml", "PGQUEUE_LOG_FORMAT: 'xml' is refused: Invalid enum value"),
        ("PGQUEUE_LEASE_S", "9", "heartbeat_s=5 must be at most a third of lease_s=9"),
        ("PGQUEUE_POOL_MIN", "11", "pool_min=11 is larger than pool_max=10"),
        ("PGQUEUE_LEASE_S", "nan", "PGQUEUE_LEASE_S: 'nan' is refused"),
        ("PGQUEUE_LEASE_S", "inf", "PGQUEUE_LEASE_S: 'inf' is refused"),
    ],
)
def test_a_bad_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=message):
        load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("leas_s = 3", r"pgqueue\.toml: leas_s: no setting has this name .*did you mean lease_s"),
        ("pool_max = 'ten'", r"pgqueue\.toml: pool_max: 'ten' is refused"),
        ("pool_max = ", r"pgqueue\.toml cannot be read"),
        ("data_dir = 3", r"pgqueue\.toml: data_dir: 3 is refused: Expected `str`"),
        ("[pool]\nmax = 3", r"pgqueue\.toml: pool: no setting has this name"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(text: str, message: str) -> None:
    Path("pgqueue.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load()


def test_a_bad_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="argument lease_s: '30' is refused"):
        load(lease_s="30")
    with pytest.raises(ConfigurationError, match=r"argument color: no setting has this name .*known settings: dsn"):
        load(color="red")


def test_another_file_may_be_named_and_must_then_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.toml").write_text("pool_max = 5")
    monkeypatch.setenv("PGQUEUE_CONFIG", "other.toml")
    assert load().pool_max == 5
    monkeypatch.setenv("PGQUEUE_CONFIG", "missing.toml")
    with pytest.raises(ConfigurationError, match=r"PGQUEUE_CONFIG names missing\.toml, which does not exist"):
        load()


def test_the_options_of_commands_are_not_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_SUBMIT_PRIORITY", "10")
    monkeypatch.setenv("PGQUEUE_TEST_PG_BINDIR", "/somewhere")
    assert load() == Settings()


def test_the_environment_is_read_in_one_place() -> None:
    package = Path(settings.__file__).parent
    readers = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if any(word in path.read_text() for word in ("os.environ", "os.getenv"))
    }
    assert readers == {"settings.py"}
