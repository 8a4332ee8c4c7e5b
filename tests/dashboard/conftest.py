"""A real server process, real workers and Debian's Chromium; whatever the console says is kept.

Where there is no Chromium these tests are left out, unless PGQUEUE_TEST_BROWSER=required.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect, sync_playwright

from pgqueue.sync import Database, QueueService
from tests.dashboard.browsing import DEADLINE_S, Console, Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, BrowserContext, Page

HERE = Path(__file__).parent
expect.set_options(timeout=DEADLINE_S * 1000)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a browser where there is none."""
    mine = [item for item in items if HERE in item.path.parents and "browser" in getattr(item, "fixturenames", ())]
    if CHROMIUM is not None or not mine:
        return
    if os.environ.get("PGQUEUE_TEST_BROWSER") == "required":
        raise pytest.UsageError("chromium is missing, and PGQUEUE_TEST_BROWSER=required: run bin/ci-packages")
    config.hook.pytest_deselected(items=mine)
    items[:] = [item for item in items if item not in mine]


@pytest.fixture
def run(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start programs over this test's database; all are stopped at the end."""
    started: list[Program] = []

    def start(name: str, *arguments: str, **variables: str) -> Program:
        started.append(Program(name, list(arguments), tmp_path, dsn, **variables))
        return started[-1]

    yield start
    for program in reversed(started):
        program.stop()
        print(program.log)  # noqa: T201 - shown where the test failed


@pytest.fixture
def serve(run: Callable[..., Program]) -> Callable[..., str]:
    """Start a server; return its address."""

    def start(**variables: str) -> str:
        return str(run("pgqueue-api", "--port", "0", **variables).says(r"serving (http://\S+)/api/v1,")[1])

    return start


@pytest.fixture
def url(serve: Callable[..., str]) -> str:
    """The address of a server."""
    return serve()


@pytest.fixture
def worker(run: Callable[..., Program]) -> Program:
    """A worker, running."""
    started = run("pgqueue-worker", "work:queue_service")
    started.says("worker started")
    return started


@pytest.fixture
def service(dsn: str) -> Iterator[QueueService]:
    """The queue, for the test itself."""
    with Database(dsn) as database:
        yield QueueService(database)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def console() -> Console:
    """What all pages of this test said; `allowed` takes patterns of what a test brings about itself."""
    return Console()


@pytest.fixture
def context(browser: Browser, console: Console, run: Callable[..., Program]) -> Iterator[BrowserContext]:
    """A browser window that has not been here before."""
    made = browser.new_context(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(DEADLINE_S * 1000)
    made.on("page", console.watch)
    yield made
    made.close()
    assert console.unexpected() == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A page in it."""
    return context.new_page()
