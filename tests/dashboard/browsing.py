"""Programs in processes of their own, what pages say, and what axe-core finds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.polling import poll

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

T = TypeVar("T")
HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
DEADLINE_S = 30.0
AXE = (HERE / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


def wait_for(condition: Callable[[], T]) -> T:
    """Return what a condition says as soon as it says something; fail after a deadline."""
    return poll(condition, deadline_s=DEADLINE_S)


class Program:
    """A program of pgqueue in a process of its own."""

    def __init__(self, name: str, arguments: list[str], folder: Path, dsn: str, **variables: str) -> None:
        clean = {known: os.environ[known] for known in ("PATH", "LANG", "LC_ALL") if known in os.environ}
        self._log = folder / f"{name}-{time.monotonic_ns()}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [BIN / name, *arguments],
                env=clean | {"PGQUEUE_DSN": dsn, "HOME": str(folder), "PYTHONUNBUFFERED": "1"} | variables,
                cwd=HERE,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def says(self, pattern: str) -> re.Match[str]:
        """Wait until the log has something."""

        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.log
            return re.search(pattern, self.log)

        match = wait_for(found)
        assert match is not None
        return match

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(DEADLINE_S)


class Console:
    """What a page said that it should not: errors, warnings, refusals of the content security policy."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.allowed: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("console", lambda message: self.hear(message.type, message.text))
        page.on("pageerror", lambda error: self.hear("error", str(error)))

    def hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.lines.append(f"{kind}: {text}")

    def unexpected(self) -> list[str]:
        return [line for line in self.lines if not any(re.search(known, line) for known in self.allowed)]


def violations(page: Page) -> list[str]:
    """Return what axe-core finds wrong with a page."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{rule['id']}: {rule['help']}: {node['target']} {node['html'][:160]} {node['failureSummary'][:300]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]
