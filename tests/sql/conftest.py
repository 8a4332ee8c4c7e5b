"""Sessions that speak to the SQL engine the way any client would, and a clock that tests move."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import datetime

DEADLINE_S = 20.0
MOVABLE_CLOCK = """
create table public.clock (moment timestamptz);
insert into public.clock values (null);
create or replace function pgqueue._now() returns timestamptz
language plpgsql stable parallel safe
as $$
begin
    return coalesce((select c.moment from public.clock c), clock_timestamp());
end $$;
"""


class Lease(NamedTuple):
    """A task and the attempt that was claimed: what every later write must show."""

    id: int
    attempt: int


class Sql:
    """One autocommit session; each method is one statement."""

    def __init__(self, conn: psycopg.Connection[dict[str, Any]]) -> None:
        self.conn = conn
        self.pid = conn.info.backend_pid
        self._claim_no = 0

    def rows(self, query: str, *params: object) -> list[dict[str, Any]]:
        """Run a statement and return its rows."""
        cursor = self.conn.execute(query.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def row(self, query: str, *params: object) -> dict[str, Any]:
        """Run a statement that returns one row."""
        [row] = self.rows(query, *params)
        return row

    def value(self, query: str, *params: object) -> Any:  # noqa: ANN401 - whatever SQL returns
        """Run a statement that returns one value."""
        [value] = self.row(query, *params).values()
        return value

    def column(self, query: str, *params: object) -> list[Any]:
        """Run a statement that returns one column."""
        return [next(iter(row.values())) for row in self.rows(query, *params)]

    def refuses(self, sqlstate: str, query: str, *params: object) -> psycopg.Error:
        """Run a statement that must fail with this SQLSTATE; return the error."""
        with pytest.raises(psycopg.Error) as caught:
            self.rows(query, *params)
        assert caught.value.sqlstate == sqlstate, caught.value
        return caught.value

    def call(self, function: str, **arguments: object) -> list[dict[str, Any]]:
        """Call a function of the schema with named arguments and return its rows."""
        given = ", ".join(f"p_{name} => %s" for name in arguments)
        return self.rows(f"select * from pgqueue.{function}({given})", *arguments.values())

    def submit(self, task_type: str = "work", **options: object) -> int:
        """Submit a task and return its id; a dict becomes JSON."""
        given = {name: Jsonb(value) if isinstance(value, dict) else value for name, value in options.items()}
        [row] = self.call("submit", task_type=task_type, **given)
        return int(row["submit"])

    def worker(self, *queues: str, lease: float = 30) -> int:
        """Register a worker and return its id."""
        return int(
            self.value("select pgqueue.register_worker('here', 1, %s, '{}', %s)", list(queues or ("default",)), lease)
        )

    def claim_rows(
        self, worker: int, limit: int = 100, queue: str = "default", *, claim_no: int | None = None, **cursor: object
    ) -> list[dict[str, Any]]:
        """Claim and return what the worker would see."""
        if claim_no is None:
            self._claim_no += 1
            claim_no = self._claim_no
        return self.call("claim", worker_id=worker, queue_name=queue, limit=limit, claim_no=claim_no, **cursor)

    def claim(
        self, worker: int, limit: int = 100, queue: str = "default", *, claim_no: int | None = None, **cursor: object
    ) -> list[Lease]:
        """Claim and return the leases."""
        rows = self.claim_rows(worker, limit, queue, claim_no=claim_no, **cursor)
        return [Lease(row["id"], row["attempt"]) for row in rows]

    def finish(  # noqa: PLR0913 - those of the function
        self,
        leases: Sequence[tuple[int, int]],
        failure: Mapping[str, object] | None = None,
        *,
        failures: Sequence[Mapping[str, object] | None] | None = None,
        results: Sequence[object] | None = None,
        elapsed_us: Sequence[int] | None = None,
        wait: bool = False,
    ) -> list[int]:
        """End attempts; `failure` for all of them or `failures` one by one. Returns the unsettled ids."""
        each = [failure] * len(leases) if failures is None else failures
        unsettled: list[int] = self.value(
            "select pgqueue.finish(%s, %s, %s, %s, %s, %s)",
            [lease[0] for lease in leases],
            [lease[1] for lease in leases],
            None if elapsed_us is None else list(elapsed_us),
            None if results is None else [Jsonb(value) for value in results],
            None if not any(each) else [None if given is None else Jsonb(given) for given in each],
            wait,
        )
        return unsettled

    def task(self, task_id: int) -> dict[str, Any]:
        """The task, live or finished."""
        return self.row("select * from pgqueue.all_tasks where id = %s", task_id)

    def status(self, task_id: int) -> str:
        """The status of a task."""
        return str(self.task(task_id)["status"])

    def outcomes(self, task_id: int) -> list[str]:
        """The outcomes of the task's ended attempts, in order."""
        return self.column("select outcome from pgqueue.executions where task_id = %s order by attempt", task_id)

    def fold(self) -> None:
        """Let statistics count all that ended before now, a day at a time, while others may be at work."""
        now, deadline = self.now(), time.monotonic() + 20
        while not self.value("select pgqueue._fold_statistics() >= %s", now):
            assert time.monotonic() < deadline, "the mark does not come"

    def now(self) -> datetime:
        """The clock of the queue."""
        now: datetime = self.value("select pgqueue._now()")
        return now

    def notifications(self) -> list[tuple[str, str]]:
        """What this session was sent so far, as (channel, payload); a round trip fetches all that is due."""
        self.conn.execute("select 1")
        return [(notify.channel, notify.payload) for notify in self.conn.notifies(timeout=0)]


class Clock:
    """The clock of the queue, standing still where it is put."""

    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        sql.conn.execute(MOVABLE_CLOCK.encode())
        self.stop()

    def stop(self) -> None:
        """Stop it at the present moment."""
        self.sql.rows("update public.clock set moment = clock_timestamp()")

    def advance(self, seconds: float) -> None:
        """Move it by so many seconds, back where negative."""
        self.sql.rows("update public.clock set moment = moment + make_interval(secs => %s)", seconds)

    def set(self, moment: str) -> None:
        """Put it to a moment."""
        self.sql.rows("update public.clock set moment = %s", moment)


class Background:
    """A statement that runs in a thread, because it may have to wait for another session."""

    def __init__(self, session: Sql, watcher: Sql, work: Callable[[Sql], Any]) -> None:
        self.session = session
        self.watcher = watcher
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[Sql], Any]) -> None:
        try:
            self._result = work(self.session)
        except BaseException as exc:  # noqa: BLE001 - handed to the test by result()
            self._error = exc

    def waits_for(self) -> set[int]:
        """The pids that hold it up; empty once it has ended. Returns as soon as one of the two is sure."""
        deadline = time.monotonic() + DEADLINE_S
        while self._thread.is_alive():
            blockers = self.watcher.value("select pg_blocking_pids(%s)", self.session.pid)
            if blockers:
                return set(blockers)
            assert time.monotonic() < deadline, "it neither ended nor waited for a lock"
            self._thread.join(0.002)
        return set()

    def has_ended(self) -> bool:
        """Whether it returned or raised."""
        return not self._thread.is_alive()

    def give_up(self) -> None:
        """Cancel it where it still runs, and wait for its thread."""
        if not self.has_ended():
            self.session.conn.cancel_safe(timeout=DEADLINE_S)
            self._thread.join(DEADLINE_S)

    def result(self) -> Any:  # noqa: ANN401 - whatever the work returns
        """Wait for its end; return what it returned, or raise what it raised."""
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "it did not end"
        if self._error is not None:
            raise self._error
        return self._result


@pytest.fixture
def connect(dsn: str) -> Iterator[Callable[..., Sql]]:
    """Open further sessions on this test's database, or on another one."""
    opened: list[psycopg.Connection[dict[str, Any]]] = []

    def make(where: str = dsn) -> Sql:
        conn = psycopg.connect(where, autocommit=True, row_factory=dict_row, prepare_threshold=None)
        opened.append(conn)
        return Sql(conn)

    yield make
    for conn in opened:
        conn.close()


@pytest.fixture
def sql(connect: Callable[[], Sql]) -> Sql:
    """The test's first session."""
    return connect()


@pytest.fixture
def clock(sql: Sql) -> Clock:
    """The clock of the queue, stopped."""
    return Clock(sql)


@pytest.fixture
def background(connect: Callable[[], Sql]) -> Iterator[Callable[[Sql, Callable[[Sql], Any]], Background]]:
    """Start statements that may have to wait; a session of its own watches them."""
    watcher = connect()
    started: list[Background] = []

    def start(session: Sql, work: Callable[[Sql], Any]) -> Background:
        started.append(Background(session, watcher, work))
        return started[-1]

    yield start
    for work in started:
        work.give_up()
