"""Settings: defaults < ``pgqueue.toml`` < ``PGQUEUE_*`` < what the caller passes.

This module is the only reader of the environment, besides libpq itself. Unknown names and bad
values are refused with the place they stand in.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from pgqueue.errors import ConfigurationError

__all__ = [
    "Settings",
    "data_home",
    "database_url",
    "debug",
    "environment",
    "export_dsn",
    "libpq_variables",
    "load",
    "no_color",
    "origins",
    "search_path",
    "test_dsn",
]

PREFIX = "PGQUEUE_"
FILE_NAME = "pgqueue.toml"
RESERVED = (
    *("CONFIG", "DEBUG", "OUTPUT"),
    *("TEST_", "DEMO_", "BENCH_", "CLI_", "UP_", "WORKER_", "MIGRATE_", "SUBMIT_", "TASK_"),
    *("QUEUE_", "SCHEDULE_", "OPERATION_", "CLEANUP_", "WORKERS_", "TOP_", "DB_", "DOCTOR_", "KEY_"),
)
"""What may follow PGQUEUE_ beside the settings: the options of commands, and the tests' own."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Days = Annotated[float, msgspec.Meta(ge=0, le=365_000)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All settings of one process; times in seconds."""

    dsn: str | None = None
    """Where the database is, as URL or key=value; None: see `pgqueue.embedded.resolve_dsn`."""
    listen_dsn: str | None = None
    """Direct connection for LISTEN where `dsn` goes through a transaction pooler."""
    data_dir: Path | None = None
    """Folder of the embedded server; None: `data_home()`."""
    pg_bindir: Path | None = None
    """Folder with `postgres` and `initdb` for the embedded server; None: looked for."""
    lease_s: Seconds = 30.0
    """How long a silent worker keeps its tasks."""
    heartbeat_s: Seconds = 5.0
    """Pause between two heartbeats: at most a third of the lease."""
    poll_s: Seconds = 1.0
    """Longest wait for work when every wake-up is lost."""
    grace_s: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 30.0
    """What running tasks get to end on a stop, before they are cancelled."""
    pool_min: Count = 1
    pool_max: Count = 10
    pooler: bool = False
    """`dsn` is a transaction pooler: no prepared statements, no LISTEN on it."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_format: Literal["console", "json"] = "console"
    partition_days_ahead: Annotated[int, msgspec.Meta(ge=1, le=366)] = 14
    """How many daily partitions of history are kept ready."""
    api_host: str = "127.0.0.1"
    """Where the HTTP interface listens; anything but the machine itself needs a key to exist."""
    api_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    """Its port; 0: any that is free."""
    api_max_body: Annotated[int, msgspec.Meta(ge=1024, le=1_073_741_824)] = 4_194_304
    """Most bytes of a request's body."""
    api_receive_s: Seconds = 10.0
    """What a request may take to arrive: its head, and again its body."""
    api_timeout_s: Seconds = 30.0
    """Most that one statement of a request to `pgqueue api` may take in the database."""
    api_cors_origins: str = ""
    """Origins of web pages that may use the HTTP interface, separated by commas."""
    api_audit_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] = 90
    """How long the audit log is kept."""
    api_root_path: Annotated[str, msgspec.Meta(pattern=r"^(/[A-Za-z0-9._~-]+)*\Z")] = ""
    """Path under which a proxy serves the HTTP interface and the dashboard, as /pgqueue."""
    dashboard_read_only: bool = False
    """The dashboard shows everything and changes nothing."""
    dashboard_session_s: Annotated[int, msgspec.Meta(ge=60, le=31_536_000)] = 43_200
    """How long a login of the dashboard lasts."""
    dashboard_timeout_s: Seconds = 3.0
    """Most that one question of a page may take in the database."""
    keep_completed_days: Days = 30.0
    """How long completed tasks are kept where their queue says nothing."""
    keep_failed_days: Days = 30.0
    """How long failed tasks are kept. As long as the three are the same, whole days are dropped."""
    keep_cancelled_days: Days = 30.0
    """How long cancelled tasks are kept."""
    api_url: str | None = None
    """Where `pgqueue.http` finds the HTTP interface: http://host:port, with the path that stands before /api/v1."""
    api_key: str | None = None
    """The key with which it asks."""
    otel: Literal["off", "link", "parent"] = "off"
    """Traces (OpenTelemetry): a task's span is linked to that of its submitter, or is its child."""

    def __post_init__(self) -> None:
        if self.heartbeat_s * 3 > self.lease_s:
            msg = f"heartbeat_s={self.heartbeat_s:g} must be at most a third of lease_s={self.lease_s:g}"
            raise ConfigurationError(msg, hint="a lease must outlast two lost heartbeats: raise lease_s")
        if self.pool_min > self.pool_max:
            msg = f"pool_min={self.pool_min} is larger than pool_max={self.pool_max}"
            raise ConfigurationError(msg, hint="raise pool_max or lower pool_min")


_TYPES = {field.encode_name: field.type for field in msgspec.structs.fields(Settings)}


def load(**overrides: object) -> Settings:
    """Return the settings of this process; overrides that are None count as not given.

    Raises ConfigurationError that names the file, variable or argument at fault.
    """
    return Settings(**{name: value for name, (_, value) in _merged(overrides).items()})


def origins(**overrides: object) -> dict[str, str]:
    """Return where each setting that is not a default comes from: file, variable or argument."""
    return {name: origin for name, (origin, _) in _merged(overrides).items()}


def data_home() -> Path:
    """Return the default folder of the embedded server: as root under /var/lib, else XDG's."""
    if os.geteuid() == 0:
        return Path("/var/lib/pgqueue/postgres")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "pgqueue" / "postgres"


def database_url() -> str | None:
    """Return DATABASE_URL, or None where it is unset or empty."""
    return os.environ.get("DATABASE_URL") or None


def libpq_variables() -> list[str]:
    """Return the names of those set variables that tell libpq which server to use."""
    names = ("PGSERVICE", "PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE")
    return [name for name in names if os.environ.get(name)]


def no_color() -> bool:
    """Return whether NO_COLOR asks for plain output."""
    return bool(os.environ.get("NO_COLOR"))


def debug() -> bool:
    """Return whether PGQUEUE_DEBUG asks for tracebacks from the command line."""
    return bool(os.environ.get(PREFIX + "DEBUG"))


def test_dsn() -> str | None:
    """Return PGQUEUE_TEST_DSN: the server on which the pytest plugin makes its databases; None for an embedded one."""
    return os.environ.get("PGQUEUE_TEST_DSN") or None


def export_dsn(dsn: str) -> None:
    """Make `dsn` the PGQUEUE_DSN of this process and of those that it starts."""
    os.environ["PGQUEUE_DSN"] = dsn


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment and more, for a program that is started."""
    return os.environ | more


def search_path() -> str:
    """Return PATH."""
    return os.environ.get("PATH", os.defpath)


def _merged(overrides: dict[str, object]) -> dict[str, tuple[str, Any]]:
    merged: dict[str, tuple[str, Any]] = {}
    for name, value in _file_values().items():
        merged[name] = _checked(f"{_file()}: {name}", name, value, strict=True)
    for name, value in _environment_values().items():
        merged[name] = _checked(PREFIX + name.upper(), name, value, strict=False)
    for name, value in overrides.items():
        if value is not None:
            merged[name] = _checked(f"argument {name}", name, value, strict=True)
    return merged


def _file() -> Path:
    return Path(os.environ.get(PREFIX + "CONFIG") or FILE_NAME)


def _file_values() -> dict[str, object]:
    path = _file()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if PREFIX + "CONFIG" not in os.environ:
            return {}
        msg = f"PGQUEUE_CONFIG names {path}, which does not exist"
        raise ConfigurationError(msg, hint="correct the path or unset PGQUEUE_CONFIG") from None
    except (OSError, ValueError) as exc:
        raise ConfigurationError(f"{path} cannot be read: {exc}", hint="it must be a TOML file") from exc


def _environment_values() -> dict[str, object]:
    names = (name.removeprefix(PREFIX) for name in os.environ if name.startswith(PREFIX))
    return {
        name.lower(): os.environ[PREFIX + name]
        for name in names
        if os.environ[PREFIX + name] and not name.startswith(RESERVED)
    }


def _checked(origin: str, name: str, value: object, *, strict: bool) -> tuple[str, Any]:
    if name not in _TYPES:
        close = difflib.get_close_matches(name, _TYPES, n=1)
        hint = f"did you mean {close[0]}?" if close else "known settings: " + ", ".join(_TYPES)
        raise ConfigurationError(f"{origin}: no setting has this name", detail={"name": name}, hint=hint)
    if isinstance(value, Path):
        value = str(value)
    try:
        return origin, msgspec.convert(value, _TYPES[name], strict=strict, dec_hook=_path)
    except msgspec.ValidationError as exc:
        msg = f"{origin}: {value!r} is refused: {exc}"
        raise ConfigurationError(msg, detail={"name": name, "value": value}, hint=f"correct {name}") from exc


def _path(kind: type, value: object) -> object:
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return kind(value).expanduser()
