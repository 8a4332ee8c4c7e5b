"""Helpers for the tests of applications that use pgqueue.

`run_inline` calls a handler without a database; `drain`, `assert_submitted` and `travel` work on a real one,
which the fixtures `pgqueue_dsn` and `pgqueue_db` of the pytest plugin give to each test. There is no fake database.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgqueue.testing.clock import travel as travel
    from pgqueue.testing.inline import InlineRun as InlineRun
    from pgqueue.testing.inline import run_inline as run_inline
    from pgqueue.testing.inline import run_inline_sync as run_inline_sync
    from pgqueue.testing.queues import assert_submitted as assert_submitted
    from pgqueue.testing.queues import drain as drain

_HOMES = {
    "InlineRun": "inline",
    "assert_submitted": "queues",
    "drain": "queues",
    "run_inline": "inline",
    "run_inline_sync": "inline",
    "travel": "clock",
}

__all__ = ["InlineRun", "assert_submitted", "drain", "run_inline", "run_inline_sync", "travel"]


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for: pytest loads the plugin in every project that has pgqueue."""
    if name not in _HOMES:
        msg = f"module 'pgqueue.testing' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"pgqueue.testing.{_HOMES[name]}"), name)
