"""The server as a process: reading `postmaster.pid`, and signalling nobody else.

A pid alone proves nothing, since the kernel gives it out again. A process counts as the server of
a data directory when its working directory is that directory, or, where that cannot be read (no
/proc, or a container without CAP_SYS_PTRACE), when its command line names the directory. On Linux
the check and the signal go through one pidfd.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROC = Path("/proc")
PAUSE_S = 0.01
SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass(frozen=True)
class PidFile:
    """What the server wrote into `postmaster.pid`."""

    pid: int
    started_at: int
    port: int
    socket_dir: str
    status: str

    @property
    def ready(self) -> bool:
        """Whether the server accepts connections."""
        return self.status in {"ready", "standby"}


def read_pid_file(data: Path) -> PidFile | None:
    """Return the contents of `postmaster.pid`, or None where it is missing or half written."""
    try:
        lines = [line.strip() for line in (data / "postmaster.pid").read_text(errors="replace").splitlines()]
    except OSError:
        return None
    lines += [""] * (8 - len(lines))
    if not (lines[0].isdecimal() and lines[2].isdecimal() and lines[3].isdecimal()):
        return None
    return PidFile(int(lines[0]), int(lines[2]), int(lines[3]), lines[4], lines[7])


def serves(pid: int, data: Path) -> bool:
    """Return whether process `pid` lives and is a server process of the data directory `data`."""
    if not PROC.joinpath("self").exists():
        return f"-D {data} " in _ps(pid)
    try:
        name = (PROC / str(pid) / "comm").read_text(encoding="utf-8", errors="replace").strip()
        return name == "postgres" and _works_in(pid, data)
    except OSError:
        return False


def _works_in(pid: int, data: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").samefile(data)
    except PermissionError:
        return os.fsencode(data) in (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")


def alive(pid: int) -> bool:
    """Return whether a process has this pid and has not ended."""
    try:
        os.kill(pid, 0)
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except PermissionError:
        return True
    except FileNotFoundError:
        return not PROC.joinpath("self").exists()
    except ProcessLookupError:
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def send_signal(pid: int, data: Path, number: signal.Signals) -> bool:
    """Signal `pid` if it is a server process of `data`; return whether it was."""
    try:
        handle = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else -1
    except OSError:
        return False
    try:
        if not serves(pid, data):
            return False
        if handle >= 0:
            signal.pidfd_send_signal(handle, number)
        else:
            os.kill(pid, number)
    except ProcessLookupError:
        return False
    finally:
        if handle >= 0:
            os.close(handle)
    return True


def answers(socket_path: Path) -> bool:
    """Return whether a server answers on its socket: it is asked for TLS, and says yes or no."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(socket_path))
            client.sendall(SSL_REQUEST)
            return client.recv(1) in {b"N", b"S"}
        except OSError:
            return False


def server_processes(data: Path) -> list[int]:
    """Return the pids of all processes that work in `data`; empty where there is no /proc."""
    pids = (int(entry.name) for entry in PROC.glob("[0-9]*"))
    return [pid for pid in pids if serves(pid, data)]


def poll_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Look at `condition` every 10 ms; return whether it came true within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE_S)
    return True


def open_lock(path: Path) -> int:
    """Open a lock file and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(descriptor: int) -> bool:
    """Take the exclusive lock if nobody has it; return whether it was taken."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[int]:
    """Hold an exclusive lock on `path`; raises DatabaseUnavailable after `timeout_s` seconds."""
    try:
        descriptor = open_lock(path)
    except PermissionError as exc:
        msg = f"{path.parent} belongs to another user"
        raise ConfigurationError(msg, hint="run as its owner, or choose another folder with PGQUEUE_DATA_DIR") from exc
    try:
        if not poll_until(lambda: try_lock(descriptor), timeout_s):
            msg = f"{path} has been locked by another process for {timeout_s:g} s"
            raise DatabaseUnavailable(msg, hint="another pgqueue starts or stops this server; is it stuck?")
        yield descriptor
    finally:
        os.close(descriptor)


def _ps(pid: int) -> str:
    args = ["ps", "-o", "command=", "-p", str(pid)]
    return subprocess.run(args, capture_output=True, text=True, check=False).stdout
