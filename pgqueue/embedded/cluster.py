"""The files of one server: where they lie, and how a data directory is made."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue.embedded.account import choose_account, make_reachable
from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.embedded.account import Account
    from pgqueue.embedded.binaries import Binaries

SUPERUSER = "postgres"
PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
LONGEST_SOCKET_PATH = 103
"""macOS allows 103 bytes, Linux 107."""
BUILTIN_LOCALES_SINCE = 17


@dataclass(frozen=True)
class Layout:
    """The folder of one server: `data/`, `run/` (socket), `log/` and two lock files."""

    home: Path

    @property
    def data(self) -> Path:
        """The data directory proper."""
        return self.home / "data"

    @property
    def log(self) -> Path:
        """The folder of the server's logs, one file a weekday."""
        return self.home / "log"

    @property
    def start_log(self) -> Path:
        """What the server said before its own logging began."""
        return self.log / "start.log"

    @property
    def start_lock(self) -> Path:
        """Held by whoever starts or stops the server."""
        return self.home / "start.lock"

    @property
    def owner_lock(self) -> Path:
        """Held by the server itself and all its processes, as long as one of them lives."""
        return self.home / "owner.lock"

    @property
    def elsewhere(self) -> Path:
        """Names the socket's folder where the path below `home` would be too long."""
        return self.home / "socket_dir"

    def socket_dir(self) -> Path:
        """Return the socket's folder, below `home` where its path is short enough."""
        near = self.home / "run"
        if _fits(near):
            return near
        try:
            return Path(self.elsewhere.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return near

    def prepare(self) -> Account:
        """Make the folders that are missing and return the account that the server runs as."""
        if (self.home / "PG_VERSION").exists():
            msg = f"{self.home} is itself a data directory of PostgreSQL"
            raise ConfigurationError(msg, hint="PGQUEUE_DATA_DIR names the folder around it; choose an empty one")
        try:
            make_reachable(self.home)
            account = choose_account(self.data)
        except PermissionError as exc:
            msg = f"{self.home} cannot be made or entered by this user: {exc.strerror}"
            raise ConfigurationError(msg, hint="choose a folder that you own with PGQUEUE_DATA_DIR") from exc
        if account.dropped and not account.can_enter(self.home):
            msg = f"user {account.name}, who runs the server for root, cannot enter {self.home}"
            raise ConfigurationError(msg, hint="choose PGQUEUE_DATA_DIR below /var/lib, not in a private folder")
        return account

    def make_folders(self, account: Account) -> None:
        """Make the folders for log and socket; the caller holds the start lock."""
        if not self.log.exists():
            account.make_folder(self.log)
        folder = self.socket_dir()
        if not _fits(folder) or self._belongs_to_another(folder):
            self.elsewhere.write_text(str(_short_folder(account)), encoding="utf-8")
        elif not folder.exists():
            account.make_folder(folder)
        elif folder.is_symlink() or folder.stat().st_uid != account.uid:
            msg = f"the socket's folder {folder} does not belong to {account.name}"
            raise ConfigurationError(msg, hint=f"somebody else made it: remove {self.elsewhere} and start again")

    def _belongs_to_another(self, folder: Path) -> bool:
        """Whether the server of a copied folder uses this socket: its lock file names the data."""
        if folder == self.home / "run":
            return False
        try:
            lines = (folder / f"{SOCKET}.lock").read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return lines[1:2] != [str(self.data)]

    def log_tail(self, lines: int = 12) -> str:
        """Return the last lines that the server logged."""
        files = sorted(self.log.glob("*.log"), key=lambda path: path.stat().st_mtime)
        text = "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files[-2:])
        return "\n".join(text.strip().splitlines()[-lines:])


def make_cluster(layout: Layout, account: Account, binaries: Binaries, lock: int, *, durable: bool) -> None:
    """Run `initdb` beside the final place and move the result there: all or nothing.

    It inherits the start lock, so that an `initdb` whose starter was killed ends before the next
    one begins. The locale is named, since the environment's may not exist. Raises
    DatabaseUnavailable with what `initdb` said.
    """
    draft = layout.home / "data.new"
    said = ""
    for locale in _locales(binaries.version):
        shutil.rmtree(draft, ignore_errors=True)
        account.make_folder(draft)
        command = [str(binaries.bindir / "initdb"), *_initdb_options(draft, durable=durable), *locale]
        done = account.run(command, keep_open=[lock])
        if done.returncode == 0:
            draft.rename(layout.data)
            return
        said = done.stdout
    msg = f"initdb of PostgreSQL {binaries.version} ({binaries.bindir}) failed: {said.strip()}"
    raise DatabaseUnavailable(msg, hint="is the disk full, or the folder not writable?")


def _initdb_options(data: Path, *, durable: bool) -> Iterator[str]:
    yield from ("-D", str(data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-instructions")
    if not durable:
        yield "--no-sync"


def _locales(version: int) -> Iterator[list[str]]:
    builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if version >= BUILTIN_LOCALES_SINCE else []
    for locale in ("C.UTF-8", "C"):
        yield [f"--locale={locale}", *builtin]


def _fits(folder: Path) -> bool:
    return len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET_PATH


def _short_folder(account: Account) -> Path:
    """Make a private folder with a short path for the socket; its name cannot be foreseen."""
    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - mkdtemp is safe there
        if _fits(Path(base, "pgqueue-xxxxxxxx")) and account.can_enter(Path(base)):
            folder = tempfile.mkdtemp(prefix="pgqueue-", dir=base)
            os.chown(folder, account.uid, account.gid)
            return Path(folder)
    msg = "no folder with a short path for the server's socket: /tmp and /var/tmp cannot be used"
    raise ConfigurationError(msg, hint="choose a shorter PGQUEUE_DATA_DIR")
