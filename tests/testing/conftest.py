"""The helpers are tested in pytest sessions of their own, on this session's server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pgqueue.embedded import Server

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester, server: Server, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project whose tests use the plugin on the server of PGQUEUE_TEST_DSN."""
    monkeypatch.setenv("PGQUEUE_TEST_DSN", server.dsn())
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    return pytester
