"""How a handler may end a task other than by returning, and how long failures wait."""

from __future__ import annotations

import typing
from typing import Literal

import msgspec

__all__ = ["Cancel", "PermanentError", "Retry", "RetryLater", "Snooze"]

Strategy = Literal["quadratic", "fixed", "exponential"]


class PermanentError(Exception):
    """Raised by a handler: the task fails at once, whatever retries it has left."""


class RetryLater(Exception):
    """Raised by a handler: the attempt failed; try again after `delay` seconds. Costs a retry."""

    def __init__(self, delay: float, reason: str = "") -> None:
        """`delay` in seconds, 0 to one year."""
        super().__init__(reason or f"retry in {delay:g} s")
        self.delay = _delay(delay)


class Snooze(Exception):
    """Raised by a handler: nothing failed; run again after `delay` seconds. Costs no retry."""

    def __init__(self, delay: float, reason: str = "") -> None:
        """`delay` in seconds, 0 to one year."""
        super().__init__(reason or f"snoozed for {delay:g} s")
        self.delay = _delay(delay)


class Cancel(Exception):
    """Raised by a handler: the task ends as cancelled, for this reason."""

    def __init__(self, reason: str = "cancelled by its handler") -> None:
        """`reason` is kept as the task's error."""
        super().__init__(reason)


def _delay(delay: float) -> float:
    if not 0 <= delay <= 31_536_000:
        msg = f"a delay must be between 0 and 31536000 seconds (one year), not {delay!r}"
        raise ValueError(msg)
    return float(delay)


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long to wait after the n-th failure; computed by the SQL function pgqueue._retry_delay.

    quadratic: base * n² seconds (1, 4, 9 …, the default); fixed: base; exponential: base * 2ⁿ⁻¹.
    `cap` bounds the delay in seconds; `jitter` (0 to 1) is the share of it that chance may take away.
    """

    strategy: Strategy = "quadratic"
    base: float = 1.0
    cap: float = 86_400.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for a number out of range."""
        for name, most in (("base", 31_536_000), ("cap", 31_536_000), ("jitter", 1)):
            if not 0 <= getattr(self, name) <= most:
                msg = f"Retry({name}={getattr(self, name)!r}): {name} must be between 0 and {most}"
                raise ValueError(msg)
        if self.strategy not in typing.get_args(Strategy):
            msg = f"Retry(strategy={self.strategy!r}): choose one of {', '.join(typing.get_args(Strategy))}"
            raise ValueError(msg)

    @classmethod
    def fixed(cls, seconds: float, *, jitter: float = 0.0) -> Retry:
        """Wait the same number of seconds after every failure."""
        return cls(strategy="fixed", base=seconds, jitter=jitter)

    @classmethod
    def exponential(cls, base: float = 1.0, *, cap: float = 3600.0, jitter: float = 0.5) -> Retry:
        """Wait base, 2 * base, 4 * base … seconds, at most `cap`."""
        return cls(strategy="exponential", base=base, cap=cap, jitter=jitter)
