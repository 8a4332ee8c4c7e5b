"""What the guides and the page of schedules show works, from top to bottom, on a real database."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from tests.docs.snippets import snippets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def namespace(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The globals of a module that lives as long as the test: payload types are looked up there."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    module = types.ModuleType("guide")
    monkeypatch.setitem(sys.modules, "guide", module)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))
    yield module.__dict__
    structlog.reset_defaults()


@pytest.mark.parametrize("name", ["docs/guide.md", "docs/guide.zh.md", "docs/schedules.md"])
async def test_a_guide_runs_from_top_to_bottom(name: str, namespace: dict[str, Any]) -> None:
    count = 0
    for snippet in snippets(name):
        await snippet.run(namespace)
        count += 1
    assert count > 5
    await namespace["db"].close()
