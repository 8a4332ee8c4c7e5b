"""The processes of a measurement: workers that work and submitters that submit. The harness only looks on."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from typing import TYPE_CHECKING, Any, Self

import psutil

from benchmarks import meter
from benchmarks.peers.catalogue import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.peers.catalogue import Peer

STOP_S = 20.0
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class Actor:
    """A process of one contender's adapter; gone at the end of the `with`."""

    def __init__(self, peer: Peer, home: Path, arguments: list[str], log: Path) -> None:
        self.peer = peer
        self._log = log
        with log.open("a") as errors:
            self.process = subprocess.Popen(
                [*peer.command(home), *arguments],
                cwd=peer.folder(home),
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Raise where the process has ended by itself."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.peer.name} ended with {self.process.returncode}; it said: {self._said()}")

    def cpu_s(self) -> float:
        """Return the processor seconds of the process and its children."""
        times = self._each(lambda process: process.cpu_times())
        return float(sum(each.user + each.system for each in times))

    def memory_mb(self) -> float:
        """Return the memory that the process and its children keep to themselves."""
        return float(sum(each.uss for each in self._each(lambda process: process.memory_full_info()))) / 1e6

    def _each(self, look: Callable[[Any], Any]) -> list[Any]:
        """Look at the process and those of its children that still live."""
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            head = psutil.Process(self.process.pid)
            for process in (head, *head.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    found.append(look(process))
        return found

    def stop(self) -> None:
        """Ask it to end; kill it, and its children, where it does not."""
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
            for child in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _said(self) -> str:
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " / ".join(lines[-4:])


class Worker(Actor):
    """A worker process and its meter."""

    def __init__(self, peer: Peer, home: Path, url: str, profile: str, place: Path) -> None:
        self.path = place.with_suffix(".meter")
        super().__init__(peer, home, ["work", url, profile, str(self.path)], place.with_suffix(".log"))

    def reading(self) -> meter.Reading:
        """Return what its meter shows."""
        return meter.read(self.path)


class Submitter(Actor):
    """A submitting process: obeys one order after another."""

    def __init__(self, peer: Peer, home: Path, url: str, place: Path) -> None:
        super().__init__(peer, home, ["submit", url], place.with_suffix(".log"))
        self.open_orders = 0
        """Orders that were given and not answered."""
        self._said_so_far = b""

    def ask(self, do: str, **options: object) -> None:
        """Give an order without waiting for its end."""
        self.check()
        assert self.process.stdin is not None  # noqa: S101 - a pipe was asked for
        self.process.stdin.write(json.dumps({"do": do} | options).encode() + b"\n")
        self.open_orders += 1

    def answers(self, timeout_s: float | None = None) -> list[float]:
        """Return how many seconds each order took that was answered; none where the time runs out before."""
        assert self.process.stdout is not None  # noqa: S101 - a pipe was asked for
        while b"\n" not in self._said_so_far:
            if not select.select([self.process.stdout], [], [], timeout_s)[0]:
                return []
            piece = self.process.stdout.read(4096)
            if not piece:
                self.process.wait()
                self.check()
            self._said_so_far += piece
        *lines, self._said_so_far = self._said_so_far.split(b"\n")
        self.open_orders -= len(lines)
        return [float(line) for line in lines]

    def do(self, do: str, **options: object) -> float:
        """Give an order while no other is open, and return how many seconds it took."""
        self.ask(do, **options)
        (seconds,) = self.answers()
        return seconds

    def warm(self, **options: object) -> None:
        """Have it connect and prepare its statements."""
        self.do("singles", n=options.get("clients", 1), **options)


def wait_until_ready(worker: Worker, timeout_s: float = 30.0) -> None:
    """Wait until a worker has made its meter, and a moment more: it has connected then."""
    deadline = time.monotonic() + timeout_s
    while not worker.path.exists() and time.monotonic() < deadline:
        worker.check()
        time.sleep(0.01)
