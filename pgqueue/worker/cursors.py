"""Where the claims of a queue have come to, so that the next one begins there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgqueue.calls import array

if TYPE_CHECKING:
    from pgqueue.worker.exchange import Answer

__all__ = ["Cursors"]


class Cursors:
    """The last row claimed of each rank: (run_at as UTC text, id)."""

    def __init__(self) -> None:
        """Begin before all rows."""
        self._last: dict[int, tuple[str, int]] = {}

    def arrays(self) -> tuple[str, str, str]:
        """Return ranks, times and ids, as pgqueue.claim takes them."""
        last = self._last.values()
        return array(map(str, self._last)), array([at for at, _ in last]), array([str(task_id) for _, task_id in last])

    async def move(self, answer: Answer) -> None:
        """Move to the last row of each rank; rows come in the order of ranks and times."""
        if answer.first is None or answer.last is None:
            return
        for row in (answer.last,) if answer.first[2] == answer.last[2] else await answer.rows():
            here = (row[3], row[0])
            if here > self._last.get(row[2], ("", 0)):
                self._last[row[2]] = here
