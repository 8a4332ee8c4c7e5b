"""Tests wait for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
DEADLINE_S = 20.0


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Wait until a condition holds; fail after a deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        answer = condition()
        if answer is True or (not isinstance(answer, bool) and await answer):
            return
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


def poll(condition: Callable[[], T], *, what: str = "", deadline_s: float = DEADLINE_S, pause_s: float = 0.02) -> T:
    """As `until`, blocking; return what the condition says as soon as it says something."""
    deadline = time.monotonic() + deadline_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what or 'the condition never held'}"
        time.sleep(pause_s)
    return found
