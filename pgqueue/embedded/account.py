"""Whose server it is: PostgreSQL refuses root, so root drops to `postgres` or `nobody`."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CANDIDATES = ("postgres", "nobody")
TIMEOUT_S = 120.0
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C"}


class Credentials(TypedDict, total=False):
    """The keyword arguments of `subprocess` that change the user."""

    user: int
    group: int
    extra_groups: Sequence[int]


@dataclass(frozen=True)
class Account:
    """The user that runs the server."""

    name: str
    uid: int
    gid: int

    @property
    def dropped(self) -> bool:
        """Whether the server runs as somebody else than this process."""
        return self.uid != os.geteuid()

    def credentials(self) -> Credentials:
        """Return what `subprocess.run` needs to act as this user."""
        if not self.dropped:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def run(self, args: Sequence[str | Path], keep_open: Sequence[int] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command as this user in a clean environment, from `/`; never raises on its exit.

        The command inherits the descriptors `keep_open`, and so holds their locks while it lives.
        """
        return subprocess.run(
            args,
            **self.credentials(),
            cwd="/",
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=keep_open,
            timeout=TIMEOUT_S,
            check=False,
        )

    def can_run(self, program: Path) -> bool:
        """Return whether this user reaches and can execute `program`."""
        try:
            return self.run([program, "--version"]).returncode == 0
        except OSError:
            return False

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user can work in `folder`."""
        return self.run(["/bin/sh", "-c", 'cd -- "$0"', folder]).returncode == 0

    def make_folder(self, folder: Path) -> None:
        """Make `folder` with mode 0700 for this user; it must not exist."""
        folder.mkdir(mode=0o700)
        if self.dropped:
            os.chown(folder, self.uid, self.gid)


def make_reachable(folder: Path) -> None:
    """Make `folder` and what is missing above it, open to pass through; leave what exists alone."""
    if folder.is_dir():
        return
    make_reachable(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o755 if os.geteuid() == 0 else 0o700)


def choose_account(data: Path) -> Account:
    """Return the owner of `data` if it exists, else this user, or one of CANDIDATES for root.

    Raises ConfigurationError where `data` belongs to somebody that this process cannot act as.
    """
    uid = os.geteuid()
    owner = data.stat().st_uid if data.exists() else None
    if owner is None:
        return _dropped() if uid == 0 else _account(uid)
    if owner == 0 or (uid not in (0, owner)):
        msg = f"{data} belongs to uid {owner}; this process runs as uid {uid}"
        hint = "run as its owner, or choose another folder with PGQUEUE_DATA_DIR (PostgreSQL refuses root)"
        raise ConfigurationError(msg, hint=hint)
    return _account(owner)


def _dropped() -> Account:
    for name in CANDIDATES:
        try:
            return _account(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    msg = f"PostgreSQL refuses to run as root, and none of the users {', '.join(CANDIDATES)} exists"
    raise ConfigurationError(msg, hint="run as another user, or: useradd --system postgres")


def _account(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        msg = f"uid {uid} has no entry in /etc/passwd, and PostgreSQL does not run without one"
        raise ConfigurationError(
            msg, hint=f"as root: useradd --uid {uid} pgqueue; or name a server in PGQUEUE_DSN"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
