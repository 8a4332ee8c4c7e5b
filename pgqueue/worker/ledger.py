"""The claims a worker knows: what the heartbeat tells the database, so that nothing runs with nobody."""

from __future__ import annotations

__all__ = ["Ledger"]


class Ledger:
    """Numbers claims and counts what of each is not settled yet.

    A claim whose answer never came is forgotten: the next heartbeat lists the claims that are open, and
    the database releases what runs of any other up to `last`.
    """

    def __init__(self) -> None:
        """Start with no claims."""
        self.last = 0
        self._open: dict[int, int] = {}
        self._done: list[int] = []

    def start(self) -> int:
        """Number a claim that is about to be sent."""
        self.last += 1
        self._open[self.last] = -1
        return self.last

    def answered(self, claim_no: int, size: int) -> None:
        """The claim brought so many attempts."""
        if size:
            self._open[claim_no] = size
        else:
            del self._open[claim_no]

    def forget(self, claim_no: int) -> None:
        """The claim's outcome is unknown."""
        self._open.pop(claim_no, None)

    def settled(self, claim_no: int) -> None:
        """One attempt of the claim is settled; the last one closes it."""
        left = self._open[claim_no] - 1
        if left:
            self._open[claim_no] = left
        else:
            del self._open[claim_no]
            self._done.append(claim_no)

    def take_done(self) -> list[int]:
        """Hand out the closed claims, to be deleted with the next claim."""
        done, self._done = self._done, []
        return done

    def give_back(self, done: list[int]) -> None:
        """The deletion of these may not have happened."""
        self._done.extend(done)

    def open_claims(self) -> tuple[int, list[int]]:
        """Return the last number given out and the claims that are open."""
        last = self.last
        return last, list(self._open)
