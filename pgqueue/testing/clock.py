"""Moving the clock of a test's database."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pgqueue import calls
from pgqueue.calls import testing as texts
from pgqueue.errors import InvalidInput
from pgqueue.testing.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["travel"]


@contextlib.contextmanager
def travel(where: object, to: timedelta | datetime) -> Iterator[datetime]:
    """Move the queue's clock by a timedelta or to a datetime with a zone; from there it goes on. Yields the moment.

    `where` is a DSN, a Database, or a blocking psycopg connection, of the owner of the schema. pgqueue._now() is
    replaced for everybody in that database and put back at the end; travels may be nested. Defaults of plain inserts
    (run_at, created_at) keep the server's time. Workers that run meanwhile may find their leases over: travel while
    none runs, then drain. Raises InvalidInput for a datetime without a zone.
    """
    if isinstance(to, datetime) and to.tzinfo is None:
        msg = f"{to.isoformat()} has no time zone"
        raise InvalidInput(msg, hint="give it one, for instance datetime(…, tzinfo=UTC)")
    target = Target(where)
    with target.opened():
        before = target.run(texts.clock_text())
        real = target.run(texts.real_time())
        moment = to if isinstance(to, datetime) else target.run(calls.clock()) + to
        target.execute(texts.shifted_clock(moment - real))
    try:
        yield moment
    finally:
        with target.opened():
            target.execute(before)
