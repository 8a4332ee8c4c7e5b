"""One real server a session, one fresh database a test.

The server is pgqueue's own embedded one in a temporary folder. The schema is migrated once into a
template database, of which each test gets a clone. PGQUEUE_TEST_PG_BINDIR chooses the programs.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import pytest_asyncio
from pytest_postgresql.janitor import DatabaseJanitor

from pgqueue import schema
from pgqueue.embedded import Server, find_binaries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

signal.signal(signal.SIGINT, signal.default_int_handler)
"""A shell that runs the tests in the background lets them ignore Ctrl-C; what they start must not inherit that."""

TEMPLATE = "pgqueue_template"
OPTIONS: dict[str, object] = {
    "fsync": False,
    "full_page_writes": False,
    "synchronous_commit": False,
    "max_connections": 200,
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
    "logging_collector": False,
}
"""Speed instead of safety; a test that needs other settings starts its own server."""

ROOM = 2 * 1024**3

_numbers = itertools.count(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the long form of the tests that have one")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is marked long, unless --long asks for it."""
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether --long asks for the long form."""
    return bool(request.config.getoption("--long"))


def server_folder() -> Path:
    """Return a new folder with a short path that root's server account can enter.

    In memory where there is room: a clone is hundreds of small files, 15 times as quick there.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="pgq", dir=memory if roomy else "/tmp"))
    folder.chmod(0o755)
    return folder


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for a server of this test's own; the test stops what it starts there."""
    folder = server_folder()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def new_server() -> Iterator[Callable[..., Server]]:
    """Make servers, not started, from options on top of OPTIONS; all are stopped at the end."""
    servers: list[Server] = []

    def make(**options: object) -> Server:
        binaries = find_binaries(os.environ.get("PGQUEUE_TEST_PG_BINDIR") or None)
        servers.append(Server(server_folder(), binaries, OPTIONS | options))
        return servers[-1]

    yield make
    for server in servers:
        server.stop("immediate")
        shutil.rmtree(server.layout.home)


@pytest.fixture(scope="session")
def server(new_server: Callable[..., Server]) -> Server:
    """The session's server, running."""
    started = new_server()
    started.start()
    return started


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    """The name of a database that holds the migrated schema, for cloning."""
    server.create_database(TEMPLATE)
    schema.migrate(server.dsn(TEMPLATE))
    return TEMPLATE


def janitor(server: Server, name: str, template: str | None = None) -> DatabaseJanitor:
    """Return pytest-postgresql's keeper of one database of our server."""
    where = psycopg.conninfo.conninfo_to_dict(server.dsn())
    return DatabaseJanitor(
        user=str(where["user"]),
        host=str(where["host"]),
        port=str(where["port"]),
        dbname=name,
        template_dbname=template,
    )


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """The DSN of an empty database, for this test alone."""
    name = f"empty_{next(_numbers)}"
    with janitor(server, name):
        yield server.dsn(name)


@pytest.fixture
def dsn(server: Server, template: str) -> Iterator[str]:
    """The DSN of a migrated database, for this test alone."""
    name = f"test_{next(_numbers)}"
    with janitor(server, name, template):
        yield server.dsn(name)


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A synchronous autocommit connection to this test's database."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest_asyncio.fixture
async def aconn(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """An asynchronous autocommit connection to this test's database."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection
