"""Starting, adopting and stopping one PostgreSQL server."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pgqueue.embedded import process
from pgqueue.embedded.account import ENVIRONMENT
from pgqueue.embedded.binaries import copy_for, find_binaries
from pgqueue.embedded.cluster import PORT, SOCKET, SUPERUSER, Layout, make_cluster
from pgqueue.errors import DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

    from pgqueue.embedded.account import Account
    from pgqueue.embedded.binaries import Binaries

StopMode = Literal["fast", "immediate", "smart"]
SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT, "smart": signal.SIGTERM}
DEFAULTS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "shared_buffers": "128MB",
    "logging_collector": "on",
    "log_filename": "postgresql-%a.log",
    "log_rotation_age": "1d",
    "log_rotation_size": "0",
    "log_truncate_on_rotation": "on",
    "log_line_prefix": "%m [%p] %q%a %d ",
}
LAUNCH = 'umask 077; log=$1; shift; "$@" </dev/null >"$log" 2>&1 & echo $!'
"""Leaves the server to init, so that it outlives this process and never becomes its zombie."""


@dataclass(frozen=True)
class Status:
    """What is known of a server; pid and socket_dir are None where it does not run."""

    data_dir: Path
    running: bool = False
    ready: bool = False
    pid: int | None = None
    socket_dir: Path | None = None
    started_at: int | None = None
    """Seconds since 1970."""


class Server:
    """One server in one folder, shared by all processes that name the folder.

    `options` are PostgreSQL settings on top of DEFAULTS; they take effect at a start, not where
    a running server is adopted. As a context manager it stops on exit what it started itself.
    """

    def __init__(
        self,
        data_dir: Path | str,
        binaries: Binaries | None = None,
        options: Mapping[str, object] | None = None,
        *,
        timeout_s: float = 60.0,
    ) -> None:
        self.layout = Layout(Path(data_dir).expanduser().absolute())
        self.options = DEFAULTS | {name: _text(value) for name, value in (options or {}).items()}
        self.timeout_s = timeout_s
        self._binaries = binaries
        self._started = False

    @cached_property
    def binaries(self) -> Binaries:
        """The server programs, looked for on first use."""
        return self._binaries or find_binaries(data_dir=self.layout.home)

    def start(self) -> None:
        """Start the server, or adopt the one that runs; returns when it accepts connections.

        Makes the data directory where it is missing. Any number of processes may call it at once.
        Raises DatabaseUnavailable with the end of the server's log where it does not come up.
        """
        account = self.layout.prepare()
        with process.locked(self.layout.start_lock, self.timeout_s + 30.0) as lock:
            if not self._adopt():
                self._await_ready(self._launch(account, copy_for(account, self.binaries), lock))
                self._started = True

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until its last process is gone; a stopped server is no error.

        `fast` ends sessions, `smart` waits for them, `immediate` does not write a checkpoint.
        """
        if not self.layout.home.exists():
            return
        with process.locked(self.layout.start_lock, self.timeout_s + 30.0):
            pid_file = process.read_pid_file(self.layout.data)
            if pid_file and process.send_signal(pid_file.pid, self.layout.data, SIGNALS[mode]):
                self._await_gone(mode)
            self._started = False

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start; the DSN stays the same."""
        self.stop(mode)
        self.start()

    def status(self) -> Status:
        """Return whether the server runs, without starting anything."""
        pid_file = process.read_pid_file(self.layout.data)
        if pid_file is None or not process.serves(pid_file.pid, self.layout.data):
            return Status(self.layout.data)
        return Status(
            data_dir=self.layout.data,
            running=True,
            ready=pid_file.ready,
            pid=pid_file.pid,
            socket_dir=Path(pid_file.socket_dir),
            started_at=pid_file.started_at,
        )

    def dsn(self, dbname: str = "postgres") -> str:
        """Return a DSN (key=value) for a database of this server; it is valid once it started."""
        from psycopg.conninfo import make_conninfo  # noqa: PLC0415 - keeps `pgqueue --help` quick

        return make_conninfo(host=str(self.layout.socket_dir()), port=PORT, user=SUPERUSER, dbname=dbname)

    def create_database(self, name: str) -> None:
        """Create an empty database; one that exists already is no error."""
        import psycopg  # noqa: PLC0415 - keeps `pgqueue --help` quick
        from psycopg import errors, sql  # noqa: PLC0415

        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            known = conn.execute("select 1 from pg_catalog.pg_database where datname = %s", [name]).fetchone()
            if known is None:
                with suppress(errors.DuplicateDatabase, errors.UniqueViolation):
                    conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        """Drop a database with all that is in it, ending its sessions; one that is missing is no error."""
        import psycopg  # noqa: PLC0415 - keeps `pgqueue --help` quick
        from psycopg import sql  # noqa: PLC0415

        with psycopg.connect(self.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._started:
            self.stop()

    def _adopt(self) -> bool:
        """Return whether a running server accepts connections; one that ends is waited for."""
        settled = process.poll_until(lambda: self._accepts() or not self.status().running, self.timeout_s)
        if not settled:
            raise self._failure(f"a server runs, but was not ready within {self.timeout_s:g} s")
        return self.status().running

    def _accepts(self) -> bool:
        status = self.status()
        return status.ready and status.socket_dir is not None and process.answers(status.socket_dir / SOCKET)

    def _launch(self, account: Account, binaries: Binaries, lock: int) -> int:
        self.layout.make_folders(account)
        if not self.layout.data.exists():
            make_cluster(self.layout, account, binaries, lock, durable=self.options.get("fsync") != "off")
        owner = process.open_lock(self.layout.owner_lock)
        try:
            self._evict(owner)
            return self._spawn(account, self._command(binaries), owner)
        finally:
            os.close(owner)

    def _evict(self, owner: int) -> None:
        """Take the owner's lock: orphans of a killed server end, and what it left behind goes."""
        if not self._is_free(owner):
            for pid in process.server_processes(self.layout.data):
                process.send_signal(pid, self.layout.data, signal.SIGQUIT)
            if not process.poll_until(lambda: self._is_free(owner), 10.0):
                msg = f"processes of a server that was killed still use {self.layout.data}"
                raise DatabaseUnavailable(msg, hint="does a server in another container use this folder? stop it")
        for leftover in (self.layout.data / "postmaster.pid", *self.layout.socket_dir().glob(f"{SOCKET}*")):
            leftover.unlink(missing_ok=True)

    def _is_free(self, owner: int) -> bool:
        return process.try_lock(owner) and not process.server_processes(self.layout.data)

    def _command(self, binaries: Binaries) -> list[str]:
        options = self.options | {"log_directory": str(self.layout.log)}
        pairs = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        where = ["-D", str(self.layout.data), "-k", str(self.layout.socket_dir()), "-p", str(PORT)]
        return [str(binaries.bindir / "postgres"), *where, *pairs]

    def _spawn(self, account: Account, command: list[str], owner: int) -> int:
        """Launch in a session of its own; every process of the server inherits the owner's lock."""
        done = subprocess.run(
            ["/bin/sh", "-c", LAUNCH, "sh", str(self.layout.start_log), *command],
            **account.credentials(),
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
            pass_fds=(owner,),
            stdout=subprocess.PIPE,
            check=True,
        )
        return int(done.stdout)

    def _await_ready(self, pid: int) -> None:
        process.poll_until(lambda: self._accepts() or not process.alive(pid), self.timeout_s)
        if not self.status().ready:
            state = "is not ready yet" if process.alive(pid) else "ended"
            raise self._failure(f"the server in {self.layout.home} {state}")

    def _await_gone(self, mode: StopMode) -> None:
        owner = process.open_lock(self.layout.owner_lock)
        try:
            if not process.poll_until(lambda: self._is_free(owner), self.timeout_s):
                raise self._failure(f"the server did not stop within {self.timeout_s:g} s (mode {mode})")
        finally:
            os.close(owner)

    def _failure(self, what: str) -> DatabaseUnavailable:
        log = self.layout.log_tail()
        return DatabaseUnavailable(f"{what}; its log ends:\n{log}", hint=f"the log is in {self.layout.log}")


def _text(value: object) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else str(value)
