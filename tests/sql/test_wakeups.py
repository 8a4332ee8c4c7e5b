"""No wake-up gets lost, step by step: a worker goes to sleep while others insert, fill up or roll back.

Each interleaving is played twice: by the protocol, which must find the task, and by the protocol without
the step that guards against it, which must miss it. Otherwise the test would prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import schema

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.embedded import Server
    from tests.sql.conftest import Clock, Sql

QUEUE = "default"
LEASE = 30
XMAX = "select pg_snapshot_xmax(pg_current_snapshot())::text"


class Fence(StrEnum):
    """How the sleeper finds out that everybody has ended who could have looked before it said that it sleeps."""

    OWN_XID = "an xid of its own, taken in a new transaction"
    SAME_TRANSACTION = "an xid of its own, taken in the transaction that says so"
    SNAPSHOT_XMAX = "pg_snapshot_xmax, taken in a new transaction"
    NONE = "not at all"


@dataclass
class Sleeper:
    """One worker on its way to sleep, one step a call. Which steps it leaves out is for the test to say."""

    sql: Sql
    fence_by: Fence = Fence.OWN_XID
    looks_once_more: bool = True

    def __post_init__(self) -> None:
        self.worker = self.sql.worker(QUEUE)
        self.found: list[int] = []
        self.fence: str | None = None

    def listen(self) -> None:
        """(1) From here on notifications reach this session."""
        self.sql.rows("listen pgqueue_wake")

    def announce(self) -> None:
        """(2) Say that it waits, in a transaction that stays open until `commit`."""
        self.sql.rows("begin")
        self.sql.rows("select pgqueue.set_wait(%s, %s, false)", self.worker, QUEUE)
        if self.fence_by is Fence.SAME_TRANSACTION:
            self.fence = self.sql.value("select pgqueue.fence()")

    def commit(self) -> None:
        self.sql.rows("commit")

    def take_fence(self) -> None:
        """(3) In a new transaction."""
        if self.fence_by is Fence.OWN_XID:
            self.fence = self.sql.value("select pgqueue.fence()")
        elif self.fence_by is Fence.SNAPSHOT_XMAX:
            self.fence = self.sql.value(XMAX)

    def look(self) -> None:
        """Claim whatever is due."""
        self.found += [lease.id for lease in self.sql.claim(self.worker)]

    def is_clear(self) -> bool:
        """(4) Whether it may stop looking."""
        if self.fence is None:
            return True
        return bool(self.sql.row("select * from pgqueue.idle(%s, %s)", QUEUE, self.fence)["is_clear"])

    def try_to_sleep(self) -> bool:
        """(4) and (5): look until the fence is clear, once more after that, then sleep. True once it sleeps."""
        self.look()
        if not self.is_clear():
            return False
        if self.looks_once_more:
            self.look()
        return True

    def is_woken(self) -> bool:
        """(6) Asleep: whether a notification came for its queue."""
        return ("pgqueue_wake", QUEUE) in self.sql.notifications()

    def fall_asleep(self) -> None:
        """All of it, undisturbed."""
        self.listen()
        self.announce()
        self.commit()
        self.take_fence()
        self.wake_up_to_look()

    def wake_up_to_look(self) -> None:
        """Look until it may sleep, while nobody else does anything."""
        while not self.try_to_sleep():
            pass

    def beat(self) -> None:
        """It is heard."""
        self.sql.rows("select * from pgqueue.heartbeat(%s)", self.worker)

    def learns_of_it(self) -> bool:
        """Whether it gets anything to do without its safety poll; a woken worker starts over."""
        if self.is_woken():
            self.take_fence()
            self.wake_up_to_look()
        return bool(self.found)


def insert(sql: Sql) -> int:
    return int(sql.value("insert into pgqueue.tasks (task_type) values ('work') returning id"))


def insert_many(sql: Sql) -> None:
    """Submit two tasks by one call."""
    sql.rows("select * from pgqueue.submit_many(%s)", Jsonb([{"task_type": "a"}] * 2))


def attend(sql: Sql) -> int:
    worker = sql.worker(QUEUE)
    sql.rows("select pgqueue.set_wait(%s, %s, true)", worker, QUEUE)
    return worker


def leave(sql: Sql, worker: int) -> None:
    sql.rows("select pgqueue.set_wait(%s, %s, null)", worker, QUEUE)


def goes_to_sleep(sleeper: Sleeper, other: Sql, end: str) -> bool:
    """The sleeper, which has announced it, goes to sleep; the other's transaction ends after it has tried."""
    sleeper.commit()
    sleeper.take_fence()
    asleep = sleeper.try_to_sleep()
    other.rows(end)
    if not asleep:
        sleeper.wake_up_to_look()
    return sleeper.learns_of_it()


def learns_of_what_was_let_go(rival: Sql, sleeper: Sleeper) -> bool:
    """The sleeper goes to sleep while the rival's transaction holds a task, and then rolls back."""
    sleeper.listen()
    sleeper.announce()
    return goes_to_sleep(sleeper, rival, "rollback")


def replace_in_function(sql: Sql, name: str, old: str, new: str) -> None:
    """Break a function on purpose."""
    source = str(sql.value("select pg_get_functiondef(%s::regproc)", name))
    assert old in source
    sql.conn.execute(source.replace(old, new).encode())


class TestAnInserterThatLookedBeforeTheSleeperCommitted:
    """Its xid may be lower or higher than that of the sleeper's announcement."""

    def play(self, sleeper: Sleeper, inserter: Sql, *, inserter_first: bool) -> bool:
        sleeper.listen()
        if inserter_first:
            inserter.rows("begin")
            insert(inserter)
            sleeper.announce()
        else:
            sleeper.announce()
            inserter.rows("begin")
            insert(inserter)
        return goes_to_sleep(sleeper, inserter, "commit")

    @pytest.mark.parametrize("inserter_first", [True, False])
    def test_the_protocol_finds_its_task(self, connect: Callable[[], Sql], *, inserter_first: bool) -> None:
        assert self.play(Sleeper(connect()), connect(), inserter_first=inserter_first)

    @pytest.mark.parametrize("fence_by", [Fence.SNAPSHOT_XMAX, Fence.SAME_TRANSACTION, Fence.NONE])
    def test_any_other_fence_misses_one_with_a_later_xid(self, connect: Callable[[], Sql], fence_by: Fence) -> None:
        """Other transactions of the server may help a weak fence by chance: a few tries, one of which must miss."""
        tries = (self.play(Sleeper(connect(), fence_by), connect(), inserter_first=False) for _ in range(5))
        assert not all(tries)

    def test_no_fence_misses_one_with_an_earlier_xid_too(self, connect: Callable[[], Sql]) -> None:
        assert not self.play(Sleeper(connect(), Fence.NONE), connect(), inserter_first=True)

    def play_commit_before_clear(self, sleeper: Sleeper, inserter: Sql) -> bool:
        """The inserter commits between the sleeper's look and its question whether the fence is clear."""
        sleeper.listen()
        sleeper.announce()
        inserter.rows("begin")
        insert(inserter)
        sleeper.commit()
        sleeper.take_fence()
        sleeper.look()
        inserter.rows("commit")
        assert sleeper.is_clear()
        if sleeper.looks_once_more:
            sleeper.look()
        return sleeper.learns_of_it()

    def test_a_clear_fence_is_followed_by_one_more_look(self, connect: Callable[[], Sql]) -> None:
        assert self.play_commit_before_clear(Sleeper(connect()), connect())

    def test_without_that_look_the_task_is_missed(self, connect: Callable[[], Sql]) -> None:
        assert not self.play_commit_before_clear(Sleeper(connect(), looks_once_more=False), connect())


class TestAnInserterWithAnOlderSnapshot:
    """It began to read before the sleeper committed and writes when the sleeper sleeps soundly."""

    WAKE_ALWAYS = "current_setting('transaction_isolation')"

    def play_isolated(
        self, sleeper: Sleeper, inserter: Sql, level: str, submit: Callable[[Sql], object] = insert
    ) -> bool:
        inserter.rows(f"begin isolation level {level}")
        inserter.rows("select 1")
        sleeper.fall_asleep()
        submit(inserter)
        inserter.rows("commit")
        return sleeper.learns_of_it()

    @pytest.mark.parametrize("submit", [insert, insert_many])
    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    def test_under_stricter_isolation_it_always_notifies(
        self, connect: Callable[[], Sql], level: str, submit: Callable[[Sql], object]
    ) -> None:
        assert self.play_isolated(Sleeper(connect()), connect(), level, submit)

    @pytest.mark.parametrize("level", ["repeatable read", "serializable"])
    def test_even_when_nobody_waits(self, sql: Sql, connect: Callable[[], Sql], level: str) -> None:
        ear = connect()
        ear.rows("listen pgqueue_wake")
        sql.rows(f"begin isolation level {level}")
        insert(sql)
        sql.rows("commit")
        assert ear.notifications() == [("pgqueue_wake", QUEUE)]

    @pytest.mark.parametrize("way", ["many", "keys", "retry", "resume"])
    def test_every_way_in_does(self, sql: Sql, connect: Callable[[], Sql], way: str) -> None:
        ear = connect()
        ear.rows("listen pgqueue_wake")
        task_id = insert(sql)
        sql.rows("select pgqueue.cancel_task(%s)", task_id)
        sql.rows("begin isolation level repeatable read")
        if way == "retry":
            sql.rows("select pgqueue.retry_task(%s)", task_id)
        elif way == "resume":
            sql.rows("select pgqueue.resume_queue('default')")
        else:
            keys = {"unique_key": "k"} if way == "keys" else {}
            sql.rows("select * from pgqueue.submit_many(%s)", Jsonb([{"task_type": "a", **keys}]))
        sql.rows("commit")
        assert ear.notifications() == [("pgqueue_wake", QUEUE)]

    @pytest.mark.parametrize(("function", "submit"), [("_task_inserted", insert), ("_wake", insert_many)])
    def test_without_that_the_wake_up_is_lost(
        self, sql: Sql, connect: Callable[[], Sql], function: str, submit: Callable[[Sql], object]
    ) -> None:
        replace_in_function(sql, f"pgqueue.{function}", self.WAKE_ALWAYS, "'read committed'")
        assert not self.play_isolated(Sleeper(connect()), connect(), "repeatable read", submit)

    def play_slow_statement(
        self, gate: Sql, sleeper: Sleeper, inserter: Sql, background: Callable[..., object]
    ) -> bool:
        """One statement whose snapshot is taken long before it writes its first row and gets its xid."""
        gate.rows("begin")
        gate.rows("select pg_advisory_xact_lock(1)")
        slow = background(
            inserter,
            lambda s: s.rows(
                "insert into pgqueue.tasks (task_type)"
                " select 'work' from (select pg_advisory_xact_lock_shared(1) offset 0) waited"
            ),
        )
        assert slow.waits_for() == {gate.pid}  # type: ignore[attr-defined]
        sleeper.fall_asleep()
        gate.rows("commit")
        slow.result()  # type: ignore[attr-defined]
        return sleeper.learns_of_it()

    def test_a_slow_statement_looks_with_a_new_snapshot(
        self, connect: Callable[[], Sql], background: Callable[..., object]
    ) -> None:
        assert self.play_slow_statement(connect(), Sleeper(connect()), connect(), background)

    def test_functions_that_look_with_the_statements_snapshot_lose_it(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., object]
    ) -> None:
        sql.rows("alter function pgqueue._wake(text) stable")
        sql.rows("alter function pgqueue._task_inserted() stable")
        sql.rows("insert into pgqueue.lanes values ('default', -5)")
        assert not self.play_slow_statement(connect(), Sleeper(connect()), connect(), background)


class TestAnAttendantThatFillsUp:
    """While it attended nobody was notified; when it leaves, whoever sleeps must look."""

    def play(self, sql: Sql, sleeper: Sleeper, *, hands_over: bool) -> bool:
        sleeper.fall_asleep()
        attendant = attend(sql)
        insert(sql)
        leave(sql, attendant)
        if hands_over:
            sql.rows("select pgqueue.hand_over(%s)", QUEUE)
        return sleeper.learns_of_it()

    def test_it_hands_over(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        assert self.play(sql, Sleeper(connect()), hands_over=True)

    def test_without_that_the_task_waits(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        assert not self.play(sql, Sleeper(connect()), hands_over=False)

    def play_two(self, one: Sql, two: Sql, sleeper: Sleeper, *, later: bool) -> bool:
        """Two attendants fill up at the same time: each still sees the other attend."""
        sleeper.fall_asleep()
        pairs = [(one, attend(one)), (two, attend(two))]
        insert(one)
        for session, worker in pairs:
            session.rows("begin")
            leave(session, worker)
            if not later:
                session.rows("select pgqueue.hand_over(%s)", QUEUE)
        for session, _ in pairs:
            session.rows("commit")
            if later:
                session.rows("select pgqueue.hand_over(%s)", QUEUE)
        return sleeper.learns_of_it()

    def test_two_at_once_hand_over_after_they_left(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        assert self.play_two(sql, connect(), Sleeper(connect()), later=True)

    def test_in_the_same_transaction_each_relies_on_the_other(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        assert not self.play_two(sql, connect(), Sleeper(connect()), later=False)

    def test_an_inserter_that_saw_it_attend_is_waited_for(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        """Woken by the hand-over, the sleeper starts over and does not sleep before that inserter has ended."""
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        attendant = attend(sql)
        inserter = connect()
        inserter.rows("begin")
        insert(inserter)
        leave(sql, attendant)
        sql.rows("select pgqueue.hand_over(%s)", QUEUE)
        assert sleeper.is_woken()
        sleeper.take_fence()
        assert not sleeper.try_to_sleep()
        inserter.rows("commit")
        sleeper.wake_up_to_look()
        assert sleeper.found

    def test_an_attendant_whose_heartbeat_is_old_attends_nothing(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        attend(sql)
        clock.advance(LEASE - 1)
        sleeper.beat()
        clock.advance(2)
        insert(sql)
        assert sleeper.learns_of_it()

    def test_one_that_is_heard_attends_after_its_first_lease_too(
        self, sql: Sql, connect: Callable[[], Sql], clock: Clock
    ) -> None:
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        attendant = attend(sql)
        clock.advance(LEASE - 1)
        sleeper.beat()
        sql.rows("select * from pgqueue.heartbeat(%s)", attendant)
        clock.advance(2)
        insert(sql)
        assert not sleeper.learns_of_it()


class TestAClaimThatRollsBack:
    """While it was open others skipped its tasks; no notification tells of a rollback."""

    def play(self, rival: Sql, sleeper: Sleeper) -> bool:
        insert(rival)
        rival.rows("begin")
        assert rival.claim(rival.worker(QUEUE))
        return learns_of_what_was_let_go(rival, sleeper)

    def test_the_protocol_outlasts_it(self, connect: Callable[[], Sql]) -> None:
        assert self.play(connect(), Sleeper(connect()))

    def test_without_the_fence_its_task_is_missed(self, connect: Callable[[], Sql]) -> None:
        assert not self.play(connect(), Sleeper(connect(), Fence.NONE))

    def test_one_that_dies_later_is_found_by_rescue(self, sql: Sql, connect: Callable[[], Sql], clock: Clock) -> None:
        """An attendant that took the task into a transaction and died: rescue wakes whoever sleeps."""
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        attendant = attend(sql)
        insert(sql)
        sql.rows("begin")
        sql.claim(attendant)
        sql.rows("rollback")
        assert not sleeper.learns_of_it()
        clock.advance(LEASE - 1)
        sleeper.beat()
        clock.advance(2)
        assert sql.column("select worker_id from pgqueue.rescue()") == [attendant]
        assert sleeper.learns_of_it()


class TestAnOldTransaction:
    """One with an id below the fence is waited for if it may have looked, or holds what others skip."""

    def is_clear_beside(self, other: Sql, sleeper: Sleeper, work: str) -> bool:
        other.rows("begin")
        other.rows(work)
        sleeper.take_fence()
        return sleeper.is_clear()

    @pytest.mark.parametrize(
        "work",
        [
            "select pg_current_xact_id()",
            "select count(*), pg_current_xact_id() from pgqueue.tasks",
            "create table mine as select 1",
        ],
    )
    def test_one_that_only_reads_or_writes_elsewhere_is_not(self, connect: Callable[[], Sql], work: str) -> None:
        other, sleeper = connect(), Sleeper(connect())
        assert self.is_clear_beside(other, sleeper, work)
        sleeper.fall_asleep()
        insert(other)
        other.rows("commit")
        assert sleeper.learns_of_it()

    @pytest.mark.parametrize(
        "work",
        [
            "insert into pgqueue.tasks (task_type) values ('work')",
            "select pgqueue.resume_queue('default')",
            "select pgqueue.cancel_task(min(id)) from pgqueue.tasks",
            "select from pgqueue.tasks for update",
        ],
    )
    def test_one_that_writes_or_locks_a_row_is(self, sql: Sql, connect: Callable[[], Sql], work: str) -> None:
        insert(sql)
        other, sleeper = connect(), Sleeper(connect())
        assert not self.is_clear_beside(other, sleeper, work)
        other.rows("commit")
        assert sleeper.is_clear()

    def play(self, rival: Sql, sleeper: Sleeper) -> bool:
        """It locks a task, which the sleeper skips, and lets go of it without a word."""
        insert(rival)
        rival.rows("begin")
        rival.rows("select from pgqueue.tasks for update")
        return learns_of_what_was_let_go(rival, sleeper)

    def test_the_protocol_outlasts_a_lock(self, connect: Callable[[], Sql]) -> None:
        assert self.play(connect(), Sleeper(connect()))

    def test_if_only_writers_were_waited_for_its_task_would_be_missed(
        self, sql: Sql, connect: Callable[[], Sql]
    ) -> None:
        replace_in_function(
            sql, "pgqueue._is_past", "<> 'AccessShareLock'", "not in ('AccessShareLock', 'RowShareLock')"
        )
        assert not self.play(connect(), Sleeper(connect()))


class TestWhoSpeaks:
    @pytest.fixture
    def ear(self, connect: Callable[[], Sql]) -> Sql:
        session = connect()
        session.rows("listen pgqueue_wake")
        return session

    def test_a_busy_queue_says_nothing(self, sql: Sql, connect: Callable[[], Sql], ear: Sql) -> None:
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        worker = attend(sql)
        for _ in range(200):
            insert(sql)
            sql.finish(sql.claim(worker))
        sql.rows("select * from pgqueue.submit_many(%s)", Jsonb([{"task_type": "a"}] * 50))
        assert ear.notifications() == []

    def test_a_full_worker_is_not_woken(self, sql: Sql, ear: Sql) -> None:
        sql.worker(QUEUE)
        insert(sql)
        assert ear.notifications() == []

    def test_a_sleeper_is(self, sql: Sql, connect: Callable[[], Sql], ear: Sql) -> None:
        Sleeper(connect()).fall_asleep()
        insert(sql)
        assert ear.notifications() == [("pgqueue_wake", QUEUE)]

    @pytest.mark.parametrize("is_rescued", [False, True])
    def test_a_lost_sleeper_is_not(
        self, sql: Sql, connect: Callable[[], Sql], ear: Sql, clock: Clock, *, is_rescued: bool
    ) -> None:
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        clock.advance(LEASE + 1)
        if is_rescued:
            assert sql.column("select worker_id from pgqueue.rescue()") == [sleeper.worker]
        insert(sql)
        assert ear.notifications() == []

    def test_a_worker_that_was_lost_may_say_what_it_likes(
        self, sql: Sql, connect: Callable[[], Sql], ear: Sql, clock: Clock
    ) -> None:
        sleeper = Sleeper(connect())
        clock.advance(LEASE + 1)
        sql.rows("select * from pgqueue.rescue()")
        sleeper.announce()
        sleeper.commit()
        insert(sql)
        assert ear.notifications() == []

    def test_a_sleeper_on_another_queue_is_not(self, sql: Sql, connect: Callable[[], Sql], ear: Sql) -> None:
        Sleeper(connect()).fall_asleep()
        sql.rows("select pgqueue.create_queue('other')")
        ear.notifications()
        sql.submit(queue_name="other")
        assert ear.notifications() == []

    def test_a_rolled_back_submit_wakes_nobody(self, sql: Sql, connect: Callable[[], Sql], ear: Sql) -> None:
        Sleeper(connect()).fall_asleep()
        with sql.conn.transaction(force_rollback=True):
            insert(sql)
        assert ear.notifications() == []

    def test_a_trigger_of_another_table_wakes_as_well(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        sql.rows("create table public.orders (id int)")
        sql.rows(
            "create function public.ordered() returns trigger language plpgsql as $$"
            " begin perform pgqueue.submit('ship', jsonb_build_object('id', new.id)); return null; end $$"
        )
        sql.rows("create trigger ordered after insert on public.orders for each row execute function public.ordered()")
        sleeper = Sleeper(connect())
        sleeper.fall_asleep()
        sql.rows("insert into public.orders values (1)")
        assert sleeper.learns_of_it()


class TestTheAlarm:
    """A sleeper is told when the next task falls due."""

    def due_in(self, sql: Sql) -> float | None:
        due: float | None = sql.row("select * from pgqueue.idle(%s, pgqueue.fence())", QUEUE)["due_in"]
        return due

    def test_nothing_is_scheduled(self, sql: Sql) -> None:
        insert(sql)
        assert self.due_in(sql) is None

    def test_the_earliest_of_all_lanes_counts(self, sql: Sql) -> None:
        for priority, seconds in ((1, 50), (20, 90), (5, 70)):
            run_at = sql.value("select clock_timestamp() + make_interval(secs => %s)", seconds)
            sql.submit(priority=priority, run_at=run_at)
        due = self.due_in(sql)
        assert due is not None
        assert 40 < due <= 50


class TestAFullNotificationQueue:
    """PostgreSQL fails the commit of whoever notifies into a full queue; a submit must not be among them."""

    def fill(self, sql: Sql, until: float) -> None:
        while sql.value("select pg_notification_queue_usage()") < until:
            sql.rows("select pg_notify('noise', repeat('x', 7900))")

    def test_submits_go_on_in_silence(
        self, new_server: Callable[..., Server], sql: Sql, connect: Callable[..., Sql]
    ) -> None:
        """The size of that queue can be set since PostgreSQL 17; before that only the rule itself is looked at."""
        if sql.conn.info.server_version < 170_000:
            source = sql.value("select prosrc from pg_proc where oid = 'pgqueue._notify'::regproc")
            assert "pg_notification_queue_usage() < 0.5" in source
            return
        small = new_server(max_notify_queue_pages=64)
        small.start()
        schema.migrate(small.dsn())
        deaf, one = connect(small.dsn()), connect(small.dsn())
        deaf.rows("listen noise")
        deaf.rows("begin")
        one.rows("select pgqueue.set_wait(%s, 'default', false)", one.worker(QUEUE))
        self.fill(one, 0.5)
        before = one.value("select pg_notification_queue_usage()")
        for _ in range(50):
            insert(one)
        assert one.value("select pg_notification_queue_usage()") == before
        with pytest.raises(psycopg.Error, match="too many notifications"):
            self.fill(one, 1.1)
        insert(one)
