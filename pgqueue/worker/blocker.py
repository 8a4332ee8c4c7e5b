"""Names the handler that keeps the event loop from turning, once for each time it does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.handlers import TaskContext

__all__ = ["Blocker"]

log = structlog.get_logger()


class Blocker:
    """Told by the loop whenever it turns, and by another thread that it does not."""

    def __init__(self, current: Callable[[], TaskContext | None]) -> None:
        """`current` is the handler that has the loop just now."""
        self._current = current
        self._is_named = False

    def turned(self) -> None:
        """The loop turns: whatever blocks it next is named anew."""
        self._is_named = False

    def name(self, lag: float) -> None:
        """Log who blocks the loop, which has not turned for `lag` seconds."""
        if self._is_named:
            return
        self._is_named = True
        ctx = self._current()
        if ctx is None:
            log.warning("the event loop does not turn; the machine may be overloaded", blocked_s=round(lag, 1))
            return
        log.warning(
            "a handler blocks the event loop: use a plain function, or await",
            handler=f"{ctx.task_type} (task {ctx.task_id})",
            blocked_s=round(lag, 1),
        )
