"""Partitions come and go while a long reader is open, and no finishing task waits for that.

The finishing session has a lock_timeout of 500 ms: had a finish ever waited longer, it would have failed.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Background, Clock, Sql

NOT_YET = {"55P03", "55000"}
"""Lock not available; and, as only one day of a table can be on its way out, another day is."""
TABLES = """
select c.oid::regclass::text from pg_class c
where c.relnamespace = 'pgqueue'::regnamespace and c.relkind in ('r', 'p')
order by 1
"""


class Reader:
    """Like pg_dump: one REPEATABLE READ transaction that holds ACCESS SHARE on every table."""

    def __init__(self, session: Sql) -> None:
        self.session = session
        tables = session.column(TABLES)
        session.rows("begin isolation level repeatable read read only")
        session.rows(f"lock table {', '.join(tables)} in access share mode")
        session.rows("select count(*) from pgqueue.all_tasks")

    def close(self) -> None:
        self.session.rows("commit")


class Finisher:
    """Finishes tasks of every kind, one round after another, until it is told to stop."""

    def __init__(self, session: Sql, background: Callable[..., Background]) -> None:
        self._stop = threading.Event()
        self._rounds = threading.Semaphore(0)
        session.rows("set lock_timeout = '500ms'")
        self._work = background(session, self._loop)

    def _loop(self, sql: Sql) -> int:
        worker = sql.worker()
        rounds = 0
        while not self._stop.is_set():
            for _ in range(4):
                sql.submit()
            done, failed, again, cancelled = sql.claim(worker, 4)
            sql.finish([done, failed], failures=[None, {"outcome": "failed", "permanent": True}])
            sql.finish([again], {"outcome": "failed", "delay": 3600})
            sql.finish([cancelled], {"outcome": "cancelled"})
            sql.rows("select pgqueue.cancel_task(%s)", again.id)
            sql.rows("select * from pgqueue.get_task(%s)", done.id)
            rounds += 1
            self._rounds.release()
        return rounds

    def goes_on(self, rounds: int = 1) -> None:
        """Return when so many rounds were started and ended after this call; raise where the finisher failed."""
        while self._rounds.acquire(blocking=False):
            pass
        for _ in range(rounds + 1):
            while not self._rounds.acquire(timeout=0.05):
                if self._work.has_ended():
                    self._work.result()

    def stop(self) -> int:
        """Stop it; raise what it raised, return its rounds."""
        self._stop.set()
        rounds: int = self._work.result()
        return rounds


@pytest.fixture
def finisher(connect: Callable[[], Sql], background: Callable[..., Background]) -> Finisher:
    return Finisher(connect(), background)


def old_days(sql: Sql) -> None:
    """Make three days of long ago, which retention shall remove."""
    for day in ("2024-03-01", "2024-03-02", "2024-03-03"):
        for table, column in (
            ("finished_tasks", "finished_at"),
            ("attempts", "finished_at"),
            ("task_logs", "logged_at"),
        ):
            sql.rows("select pgqueue._make_partition(%s, %s, %s::date)", table, column, day)
    sql.rows(
        "insert into pgqueue.finished_tasks (id, task_type, queue_name, priority, payload, status, max_retries,"
        " run_at, attempt, failures, crashes, created_at, finished_at)"
        " values (1000000, 'a', 'default', 5, '{}', 'completed', 3,"
        " '2024-03-01', 1, 0, 0, '2024-03-01', '2024-03-01 12:00+00')"
    )
    sql.fold()


def succeeds(sql: Sql, statement: str, *params: object) -> bool:
    """Run a statement; false where it cannot be had at the moment."""
    try:
        sql.rows(statement, *params)
    except psycopg.Error as exc:
        if exc.sqlstate not in NOT_YET:
            raise
        return False
    return True


def remove_old_days(sql: Sql) -> int:
    """One round of retention: each statement by itself, under a short lock_timeout. Returns how many failed."""
    failed = 0
    sql.rows("set lock_timeout = '200ms'")
    for row in sql.rows("select * from pgqueue._partitions_before('2024-03-10')"):
        is_detached = row["detach"] is None or succeeds(sql, row["detach"])
        failed += not (is_detached and succeeds(sql, "select pgqueue._drop_days(array[%s])", row["partition_name"]))
    return failed


def remove_all_old_days(sql: Sql) -> None:
    """Retention until it is done: a finisher's own transactions may be in the way for a moment."""
    assert any(remove_old_days(sql) == 0 for _ in range(50))


def old_partitions(sql: Sql) -> list[str]:
    return sql.column("select relname from pg_class where relname ~ '_202403[0-9]{2}$'")


def test_days_are_made_while_a_reader_is_open(sql: Sql, connect: Callable[[], Sql], finisher: Finisher) -> None:
    reader = Reader(connect())
    finisher.goes_on()
    for days in range(15, 20):
        assert sql.value("select pgqueue._make_partitions(%s)", days) == 3
        finisher.goes_on()
    assert sql.value("select pgqueue.maintain(25)") is True
    finisher.goes_on()
    reader.close()
    assert finisher.stop() >= 10


def test_days_are_removed_after_a_reader_without_holding_up_anybody(
    sql: Sql, connect: Callable[[], Sql], finisher: Finisher
) -> None:
    old_days(sql)
    reader = Reader(connect())
    assert remove_old_days(sql) == 9
    finisher.goes_on()
    assert remove_old_days(sql) == 9
    finisher.goes_on()
    assert sql.value("select pgqueue._make_partitions(15)") == 3
    finisher.goes_on()
    reader.close()
    remove_all_old_days(sql)
    finisher.goes_on()
    assert old_partitions(sql) == []
    assert sql.rows("select * from pgqueue._partitions_before('2024-03-10')") == []
    assert finisher.stop() >= 6


def test_without_a_reader_they_go_at_once(sql: Sql, finisher: Finisher) -> None:
    old_days(sql)
    remove_all_old_days(sql)
    finisher.goes_on()
    assert old_partitions(sql) == []
    finisher.stop()


def test_a_reader_keeps_seeing_what_it_saw(sql: Sql, connect: Callable[[], Sql], finisher: Finisher) -> None:
    old_days(sql)
    reader = Reader(connect())
    remove_old_days(sql)
    assert reader.session.value("select count(*) from pgqueue.all_tasks where id = 1000000") == 1
    finisher.goes_on()
    assert sql.value("select count(*) from pgqueue.all_tasks where id = 1000000") == 0
    reader.close()
    finisher.stop()


@pytest.mark.parametrize(
    "statement",
    [
        "drop table pgqueue.finished_tasks_20240301",
        "alter table pgqueue.attempts detach partition pgqueue.attempts_20240301",
        "create table pgqueue.x partition of pgqueue.finished_tasks for values from ('2023-01-01') to ('2023-01-02')",
    ],
)
def test_the_plain_statements_would_hold_up_every_finish(
    sql: Sql,
    connect: Callable[[], Sql],
    background: Callable[..., Any],
    finisher: Finisher,
    statement: str,
) -> None:
    """What the rules are there for: dropping or detaching at once, with a reader open and no lock_timeout."""
    old_days(sql)
    reader = Reader(connect())
    ddl = connect()
    waiting = background(ddl, lambda s: s.rows(statement))
    assert reader.session.pid in waiting.waits_for()
    with pytest.raises(psycopg.errors.LockNotAvailable):
        finisher.goes_on(1000)
    reader.close()
    waiting.result()


def test_two_that_miss_the_day_at_once_make_it_once(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any], clock: Clock
) -> None:
    clock.set("2035-06-01 12:00+00")
    for _ in range(2):
        sql.submit()
    first, second = sql.claim(sql.worker())
    one, two = connect(), connect()
    one.rows("begin")
    assert one.finish([first]) == []
    late = background(two, lambda s: s.finish([second]))
    if late.waits_for():
        with pytest.raises(psycopg.errors.LockNotAvailable):
            late.result()
        one.rows("commit")
        assert two.finish([second]) == []
    else:
        pytest.fail("the second maker did not wait for the first")
    assert sql.value("select count(*) from pgqueue.finished_tasks_20350601") == 2
