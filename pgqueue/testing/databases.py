"""Databases for tests: migrated once into a template, cloned for each test."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from pgqueue import schema
from pgqueue.calls import testing as texts
from pgqueue.embedded import Server
from pgqueue.testing.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Template", "server_dsn", "template"]

OPTIONS: dict[str, object] = {
    "fsync": False,
    "full_page_writes": False,
    "synchronous_commit": False,
    "logging_collector": False,
}
"""Speed instead of safety: the server lives as long as the tests."""

ROOM = 1024**3


class Template:
    """A migrated database on a server; `clone` gives copies of it."""

    def __init__(self, admin_dsn: str, name: str) -> None:
        """`admin_dsn` names a database of the server, and a user that may create others."""
        self.admin_dsn = admin_dsn
        self.name = name
        self._numbers = itertools.count(1)

    def dsn(self, name: str) -> str:
        """Return the DSN of a database of this server."""
        return make_conninfo(self.admin_dsn, dbname=name)

    def execute(self, statement: str) -> None:
        """Run a statement in the server's first database."""
        with Target(self.admin_dsn).opened() as target:
            target.execute(statement)

    @contextlib.contextmanager
    def clone(self) -> Iterator[str]:
        """Make a copy and return its DSN; at the end it is dropped, whoever is connected."""
        name = f"{self.name}_{next(self._numbers)}"
        self.execute(texts.clone_database(name, self.name))
        try:
            yield self.dsn(name)
        finally:
            self.execute(texts.drop_database(name))


@contextlib.contextmanager
def template(admin_dsn: str) -> Iterator[Template]:
    """Make a migrated database under a name that nobody else uses; it is dropped at the end."""
    made = Template(admin_dsn, f"pgqueue_test_{secrets.token_hex(4)}")
    made.execute(texts.clone_database(made.name, "template1"))
    try:
        schema.migrate(made.dsn(made.name))
        yield made
    finally:
        made.execute(texts.drop_database(made.name))


@contextlib.contextmanager
def server_dsn(given: str | None) -> Iterator[str]:
    """Return the given DSN, or that of a server of one's own, which is gone at the end.

    Raises DatabaseUnavailable where no server programs are found.
    """
    if given:
        yield given
        return
    folder = _folder()
    server = Server(folder, options=OPTIONS)
    try:
        server.start()
        yield server.dsn()
    finally:
        server.stop("immediate")
        shutil.rmtree(folder)


def _folder() -> Path:
    """Return a new folder that root's server account can enter; in memory where there is room, which is quicker."""
    memory = Path("/dev/shm")  # noqa: S108 - a folder of a random name is made below it
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    folder = Path(tempfile.mkdtemp(prefix="pgq", dir=memory if roomy else None))
    folder.chmod(0o755)
    return folder
