"""The demo runs for real, in a small form, and leaves nothing running but what it was asked to keep."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgqueue.embedded import Server
from tests.polling import until

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO = Path(__file__).parents[2] / "bin" / "demo"
MOST_S = 90
VOID = {"meta", "i", "polygon", "polyline"}


class Demo:
    """Runs `bin/demo` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = Server(folder / "postgres")

    def command(self, *options: str) -> list[str]:
        return [str(DEMO), "--folder", str(self.folder), *options]

    def __call__(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end, with its output in a pipe."""
        return subprocess.run(
            self.command(*options), capture_output=True, text=True, timeout=MOST_S, check=False, env=environment()
        )

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Start it as a terminal would: in a process group of its own."""
        return subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=environment(),
        )

    def worker_pids(self) -> list[int]:
        """Return the processes that the workers registered; the server must run."""
        with psycopg.connect(self.server.dsn("demo")) as conn:
            return [pid for (pid,) in conn.execute("select pid from pgqueue.workers where lost_at is null")]


def environment() -> dict[str, str]:
    """Return an environment without settings of pgqueue."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that ended and that nobody waited for does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def demo(home: Path) -> Iterator[Demo]:
    made = Demo(home)
    yield made
    made.server.stop()


class Page(HTMLParser):
    """Notes what a page loads from elsewhere, and whether each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"href", "src"}]
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open[-1] in VOID - {tag}:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_small_run_indexes_reports_and_leaves_nothing_running(demo: Demo) -> None:
    done = demo("--files", "40")

    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    total, completed, failed = map(int, re.findall(r"tasks +(\d+): (\d+) completed, (\d+) failed", done.stdout)[0])
    assert total == completed + failed
    assert failed >= 4
    retries, again, succeeded = re.findall(r"retries +(\d+) by (\d+) tasks, (\d+) of them completed", done.stdout)[0]
    assert int(retries) >= int(again) == int(succeeded) > 0
    assert "SyntaxError: " in done.stdout
    assert not demo.server.status().running


def test_the_report_is_one_page_that_loads_nothing(demo: Demo, tmp_path: Path) -> None:
    report = tmp_path / "report.html"

    done = demo("--files", "12", "--report", str(report))

    assert done.returncode == 0, done.stderr
    assert f"report   {report}" in done.stdout
    page = Page(report.read_text(encoding="utf-8"))
    assert page.links == []
    assert page.open == []
    assert "print_statement.py" in page.text
    assert "Missing parentheses" in page.text
    assert "url(" not in report.read_text(encoding="utf-8")


async def test_ctrl_c_stops_what_was_started(demo: Demo) -> None:
    process = demo.start()

    def workers_serve() -> bool:
        try:
            return len(demo.worker_pids()) == 2
        except psycopg.Error:
            return False

    await until(workers_serve)
    pids = demo.worker_pids()
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=MOST_S)

    assert process.returncode == 130, said
    assert "nothing is left running" in said
    assert [pid for pid in pids if alive(pid)] == []
    assert not demo.server.status().running


def test_what_is_kept_goes_on_until_it_is_stopped(demo: Demo) -> None:
    kept = demo("--files", "8", "--keep")
    assert kept.returncode == 0, kept.stderr
    assert f"bin/demo --stop --folder {demo.folder}" in kept.stdout
    pids = demo.worker_pids()
    assert [alive(pid) for pid in pids] == [True, True]

    stopped = demo("--stop")

    assert stopped.returncode == 0, stopped.stderr
    assert "stopped 2 workers and the server" in stopped.stdout
    assert [pid for pid in pids if alive(pid)] == []
    assert not demo.server.status().running
