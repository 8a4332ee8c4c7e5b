"""The pytest plugin: a fresh, migrated database for each test that asks for one.

pytest loads this module in every project that has pgqueue installed, so it imports nothing until a fixture is used.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgqueue.database import Database
    from pgqueue.testing.databases import Template

__all__ = ["pgqueue_db", "pgqueue_dsn", "pgqueue_template"]


@pytest.fixture(scope="session")
def pgqueue_template() -> Iterator[Template]:
    """The migrated database that tests get copies of.

    On the server of PGQUEUE_TEST_DSN, whose user must be allowed to create databases and roles, or else on an
    embedded server that lives as long as the session.
    """
    from pgqueue.settings import test_dsn  # noqa: PLC0415 - see above
    from pgqueue.testing.databases import server_dsn, template  # noqa: PLC0415 - see above

    with server_dsn(test_dsn()) as dsn, template(dsn) as made:
        yield made


@pytest.fixture
def pgqueue_dsn(pgqueue_template: Template) -> Iterator[str]:
    """The DSN of a fresh, migrated database, for this test alone."""
    with pgqueue_template.clone() as dsn:
        yield dsn


@pytest.fixture
def pgqueue_db(pgqueue_dsn: str) -> Iterator[Database]:
    """A pgqueue.Database on the test's database; the first operation opens it, and the end of the test closes it."""
    from pgqueue.database import Database  # noqa: PLC0415 - see above

    database = Database(pgqueue_dsn)
    yield database
    _close(database)


def _close(database: Database) -> None:
    """Close on the loop that opened it, as long as that can still run."""
    loop = database._loop  # noqa: SLF001 - a pool can only be closed on its own loop
    if loop is not None and not loop.is_closed() and not loop.is_running():
        loop.run_until_complete(database.close())
    else:
        asyncio.run(database.close())
