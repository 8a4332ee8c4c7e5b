"""The real executable in processes of its own, against this test's database."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import importlib
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from pgqueue import schema
from tests.polling import poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from pgqueue.embedded import Server

PROGRAMS = Path(sys.executable).parent
APP = Path(__file__).with_name("shop.py")
DEADLINE_S = 30.0


@dataclass(frozen=True)
class Result:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - any JSON
        """What it wrote to stdout, as JSON."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines it wrote to stdout."""
        return self.out.splitlines()


def interrupt(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)


class Cli:
    """Runs `pgqueue`; keeps the folder it runs in, with the module `shop`, and the environment."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        clean = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
        self.variables = clean | {"HOME": str(folder), "TERM": "xterm-256color"} | variables
        self._started: list[subprocess.Popen[str]] = []
        (folder / "shop.py").write_text(APP.read_text())

    def __call__(
        self, *arguments: str | int, stdin: str | bytes = b"", program: str = "pgqueue", **variables: str
    ) -> Result:
        """Run a command to its end."""
        done = subprocess.run(
            [PROGRAMS / program, *map(str, arguments)],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.variables | variables,
            timeout=DEADLINE_S,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str | int, program: str = "pgqueue", **variables: str) -> subprocess.Popen[str]:
        """Start a command; it is killed at the end of the test if it still runs."""
        process = subprocess.Popen(
            [PROGRAMS / program, *map(str, arguments)],
            cwd=self.folder,
            env=self.variables | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def each(self, commands: Iterable[tuple[list[Any], dict[str, Any]]]) -> list[Result]:
        """Run commands that do not depend on each other, two at a time; each is given by arguments and options."""
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda command: self(*command[0], **command[1]), commands))

    def in_terminal(
        self,
        *arguments: str | int,
        width: int = 80,
        when: str = "",
        then: Callable[[subprocess.Popen[bytes]], object] = interrupt,
        **variables: str,
    ) -> tuple[int, str]:
        """Run a command on a terminal, calling `then` once it wrote `when`; return its exit code and output."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        process = subprocess.Popen(
            [PROGRAMS / "pgqueue", *map(str, arguments)],
            cwd=self.folder,
            env=self.variables | variables,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        written = ""
        with contextlib.suppress(OSError):  # the terminal is closed when the process has ended
            while chunk := os.read(master, 65536):
                written += chunk.decode(errors="replace")
                if when and when in written:
                    then(process)
                    when = ""
        os.close(master)
        return process.wait(DEADLINE_S), written

    def end(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def cli(dsn: str, tmp_path: Path) -> Iterator[Cli]:
    """The command line on this test's database."""
    made = Cli(tmp_path, PGQUEUE_DSN=dsn)
    yield made
    made.end()


@pytest.fixture
def bare_cli(tmp_path: Path) -> Iterator[Cli]:
    """The command line with nothing that names a database."""
    made = Cli(tmp_path)
    yield made
    made.end()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds."""
    return functools.partial(poll, deadline_s=DEADLINE_S)


HISTORY = """
select
    pgqueue.submit('add', jsonb_build_object('a', 1, 'b', 2), p_user_id => 'ada'),
    pgqueue.submit('fail'),
    pgqueue.submit('ship', p_run_at => now() + interval '1 day'),
    pgqueue.cancel_task(3, 'no longer wanted')
"""
LIVE = "select pgqueue.submit('ship'), pgqueue.submit('ship', p_run_at => now() + interval '1 day')"


def fill(dsn: str) -> None:
    """Leave task 1 completed, task 2 failed, task 3 cancelled; task 4 waits, task 5 is not due."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(HISTORY)
        asyncio.run(importlib.import_module("cli.shop").drain(dsn))
        conn.execute(LIVE)


@pytest.fixture
def history(dsn: str) -> None:
    """Five tasks, as `fill` leaves them, in this test's database."""
    fill(dsn)


@pytest.fixture(scope="session")
def reading_cli(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """The command line on a database that `fill` has filled, for tests that only read."""
    server.create_database("reading")
    dsn = server.dsn("reading")
    schema.migrate(dsn)
    fill(dsn)
    made = Cli(tmp_path_factory.mktemp("reading"), PGQUEUE_DSN=dsn)
    yield made
    made.end()
