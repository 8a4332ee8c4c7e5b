"""Who waits for whom: every operation against every other, in two sessions, with the waits observed.

Lock order: the worker's row, then tasks by id, then their progress. Claims, settling, heartbeats and rescue
pass over tasks that somebody holds, so that no application can make a worker wait.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Lease, Sql

REFUSALS = {"QU201", "QU301"}
GOES = "goes on"
SKIPS = "passes over it"
DOES = "waits, then does it"
NOTHING = "waits, then finds nothing to do"
REFUSED = "waits, then is refused"

_numbers = itertools.count(1)


class Scene:
    """A queue of its own: a silent worker with two running tasks, one pending task, one failed task."""

    def __init__(self, sql: Sql) -> None:
        self.queue = f"q{next(_numbers)}"
        sql.rows("select pgqueue.create_queue(%s)", self.queue)
        self.failed = sql.submit(queue_name=self.queue)
        self.worker = sql.worker(self.queue)
        self.other_worker = sql.worker(self.queue)
        sql.finish(sql.claim(self.other_worker, queue=self.queue), {"outcome": "failed", "permanent": True})
        first, second = (sql.submit(queue_name=self.queue, max_retries=99) for _ in range(2))
        self.leases: list[Lease] = sql.claim(self.worker, queue=self.queue, claim_no=1)
        assert [lease.id for lease in self.leases] == [first, second]
        self.task = first
        self.pending = sql.submit(queue_name=self.queue)
        sql.rows("update pgqueue.workers set heartbeat_at = now() - interval '1 hour' where id = %s", self.worker)

    # Each operation says whether it had its effect on the scene's own rows.

    def claim(self, sql: Sql) -> bool:
        return bool(sql.claim(self.worker, queue=self.queue, claim_no=next(_numbers) + 1000))

    def claim_elsewhere(self, sql: Sql) -> bool:
        return bool(sql.claim(self.other_worker, queue=self.queue, claim_no=next(_numbers) + 1000))

    def finish(self, sql: Sql) -> bool:
        return sql.finish(self.leases[::-1]) == []

    def settle_singly(self, sql: Sql) -> bool:
        return sql.finish(self.leases[::-1], {"outcome": "failed"}, wait=True) == []

    def cancel(self, sql: Sql) -> bool:
        return bool(sql.value("select pgqueue.cancel_task(%s)", self.task) == "running")

    def cancel_pending(self, sql: Sql) -> bool:
        return bool(sql.value("select pgqueue.cancel_task(%s)", self.pending) == "cancelled")

    def retry(self, sql: Sql) -> bool:
        return bool(sql.value("select pgqueue.retry_task(%s)", self.failed) == self.failed)

    def rescue(self, sql: Sql) -> bool:
        rows = {row["worker_id"]: row["rescued"] for row in sql.rows("select * from pgqueue.rescue()")}
        return rows.get(self.worker) == len(self.leases)

    def progress(self, sql: Sql) -> bool:
        sql.rows("select pgqueue.update_progress(%s, 5, p_attempt => 1)", self.task)
        return True

    def report(self, sql: Sql) -> bool:
        reports = [{"task_id": id_, "attempt": attempt, "progress": 9} for id_, attempt in self.leases[::-1]]
        return bool(sql.value("select pgqueue.report_progress(%s)", Jsonb(reports)) == [])

    def heartbeat(self, sql: Sql) -> bool:
        [beat] = sql.call("heartbeat", worker_id=self.worker, last_claim=1, open_claims=[])
        released = (
            sql.value("select count(*) from pgqueue.claims where worker_id = %s and claim_no = 1", self.worker) == 0
        )
        return not beat["is_lost"] and released

    def stop(self, sql: Sql) -> bool:
        return bool(sql.value("select pgqueue.stop_worker(%s)", self.worker) >= len(self.leases))

    def clear(self, sql: Sql) -> None:
        for worker in (self.worker, self.other_worker):
            sql.rows("select pgqueue.stop_worker(%s)", worker)


OPERATIONS = [
    "claim",
    "claim_elsewhere",
    "finish",
    "settle_singly",
    "cancel",
    "cancel_pending",
    "retry",
    "rescue",
    "progress",
    "report",
    "heartbeat",
    "stop",
]


def run(scene: Scene, name: str) -> Callable[[Sql], str]:
    """The operation as work for a session: "done", "nothing" or "refused"."""

    def work(session: Sql) -> str:
        try:
            return "done" if getattr(scene, name)(session) else "nothing"
        except psycopg.Error as exc:
            if exc.sqlstate in REFUSALS:
                return "refused"
            raise

    return work


# What a second session meets while the first one's transaction is open; what is not named goes on.
PASSES_RUNNING = {"finish": SKIPS, "rescue": SKIPS, "heartbeat": SKIPS}
MEETS: dict[str, dict[str, str]] = {
    "claim": {
        "claim": SKIPS,
        "claim_elsewhere": SKIPS,
        "cancel_pending": NOTHING,
        "rescue": SKIPS,
        "stop": DOES,
    },
    "claim_elsewhere": {"claim": SKIPS, "claim_elsewhere": SKIPS, "cancel_pending": NOTHING},
    "finish": {
        **PASSES_RUNNING,
        "settle_singly": NOTHING,
        "cancel": REFUSED,
        "progress": REFUSED,
        "report": NOTHING,
        "stop": NOTHING,
    },
    "settle_singly": {
        **PASSES_RUNNING,
        "settle_singly": NOTHING,
        "cancel": NOTHING,
        "progress": REFUSED,
        "report": NOTHING,
        "stop": NOTHING,
    },
    "cancel": {**PASSES_RUNNING, "settle_singly": DOES, "cancel": DOES, "stop": DOES},
    "cancel_pending": {"claim": SKIPS, "claim_elsewhere": SKIPS, "cancel_pending": DOES},
    "retry": {"retry": REFUSED},
    "rescue": {
        "claim": REFUSED,
        "finish": SKIPS,
        "settle_singly": NOTHING,
        "cancel": NOTHING,
        "rescue": SKIPS,
        "progress": REFUSED,
        "report": NOTHING,
        "heartbeat": NOTHING,
        "stop": NOTHING,
    },
    "progress": {**PASSES_RUNNING, "settle_singly": DOES, "progress": DOES, "report": DOES, "stop": DOES},
    "report": {**PASSES_RUNNING, "settle_singly": DOES, "progress": DOES, "report": DOES, "stop": DOES},
    "heartbeat": {
        "finish": SKIPS,
        "settle_singly": NOTHING,
        "cancel": NOTHING,
        "rescue": SKIPS,
        "progress": REFUSED,
        "report": NOTHING,
        "heartbeat": DOES,
        "stop": NOTHING,
    },
    "stop": {
        "claim": REFUSED,
        "finish": SKIPS,
        "settle_singly": NOTHING,
        "cancel": NOTHING,
        "rescue": SKIPS,
        "progress": REFUSED,
        "report": NOTHING,
        "heartbeat": NOTHING,
        "stop": NOTHING,
    },
}


@pytest.mark.parametrize("holder", OPERATIONS)
def test_an_open_operation_meets_every_other(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any], holder: str
) -> None:
    one, two = connect(), connect()
    seen = {}
    for name in OPERATIONS:
        scene = Scene(sql)
        one.rows("begin")
        assert run(scene, holder)(one) == "done"
        other = background(two, run(scene, name))
        blockers = other.waits_for()
        assert blockers <= {one.pid}
        one.rows("commit")
        outcome = other.result()
        if blockers:
            seen[name] = {"done": DOES, "nothing": NOTHING, "refused": REFUSED}[outcome]
        else:
            seen[name] = {"done": GOES, "nothing": SKIPS, "refused": "is refused"}[outcome]
        scene.clear(sql)
    assert {name: what for name, what in seen.items() if what != GOES} == MEETS[holder]


def test_nothing_that_a_worker_does_for_its_life_waits_for_a_task() -> None:
    """Claims, settling, heartbeats and rescue wait at most for the worker's own row, never for an application."""
    for application in ("cancel", "cancel_pending", "progress", "retry"):
        for name in ("claim", "claim_elsewhere", "finish", "heartbeat", "rescue"):
            assert MEETS[application].get(name, GOES) in {GOES, SKIPS}


class Gate:
    """A third session that holds the second task, so that others stop half way, holding the first."""

    def __init__(self, session: Sql) -> None:
        self.session = session

    def close(self, scene: Scene, what: str) -> None:
        self.session.rows("begin")
        if what == "task":
            self.session.rows("select from pgqueue.tasks where id = %s for update", scene.leases[1].id)
        else:
            self.session.rows("select pgqueue.update_progress(%s, 1)", scene.leases[1].id)

    def open(self) -> None:
        self.session.rows("commit")


@pytest.mark.parametrize("gate_holds", ["task", "progress"])
def test_no_two_operations_deadlock_when_both_stop_half_way(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any], gate_holds: str
) -> None:
    gate, one, two = Gate(connect()), connect(), connect()
    names = ["claim", "finish", "settle_singly", "cancel", "rescue", "progress", "report", "heartbeat", "stop"]
    waits = 0
    for first, second in itertools.combinations_with_replacement(names, 2):
        scene = Scene(sql)
        gate.close(scene, gate_holds)
        works = [background(session, run(scene, name)) for session, name in ((one, first), (two, second))]
        waits += sum(bool(work.waits_for()) for work in works)
        gate.open()
        outcomes = [work.result() for work in works]
        assert set(outcomes) <= {"done", "nothing", "refused"}, (first, second, outcomes)
        scene.clear(sql)
    assert waits >= 15


class TestBatchesInOppositeOrders:
    ORDERED = "order by t.id for update;"

    def play(self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]) -> list[int]:
        """One batch stops at the third task, which the gate holds; another comes from the other end."""
        gate, one, two = connect(), connect(), connect()
        for _ in range(3):
            sql.submit()
        a, b, c = sql.claim(sql.worker())
        gate.rows("begin")
        gate.rows("select from pgqueue.tasks where id = %s for update", c.id)
        first = background(one, lambda s: s.finish([a, c, b], wait=True))
        assert first.waits_for() == {gate.pid}
        second = background(two, lambda s: s.finish([b, a], wait=True))
        assert second.waits_for() == {one.pid}
        gate.rows("commit")
        left: list[int] = first.result() + second.result()
        return left

    def test_they_lock_in_the_order_of_ids(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        assert sorted(self.play(sql, connect, background)) == [1, 2]

    def test_in_the_order_given_they_deadlock(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        source = str(sql.value("select pg_get_functiondef('pgqueue._lock_running'::regproc)"))
        assert self.ORDERED in source
        unordered = source.replace(self.ORDERED, "order by array_position(p_ids, t.id) for update;")
        sql.conn.execute(unordered.encode())
        with pytest.raises(psycopg.errors.DeadlockDetected):
            self.play(sql, connect, background)


def test_new_lanes_in_opposite_orders_do_not_deadlock(
    sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
) -> None:
    one, two = connect(), connect()
    for session, priority in ((one, 700), (two, 800)):
        session.rows("begin")
        session.submit(priority=priority)
    for session, priority in ((one, 800), (two, 700)):
        assert background(session, lambda s, p=priority: s.submit(priority=p)).waits_for() == set()
    for session in (one, two):
        session.rows("commit")
    assert len(sql.claim(sql.worker())) == 4


class TestKeysInOppositeOrders:
    def play(self, connect: Callable[[], Sql], background: Callable[..., Any]) -> set[int]:
        """One bulk submit stops half way, at a key that the gate holds; another has the same keys in another order."""
        gate, one, two = connect(), connect(), connect()
        gate.rows("begin")
        gate.submit(unique_key="c")
        many = "select task_id from pgqueue.submit_many(%s)"
        batches = [Jsonb([{"task_type": "work", "unique_key": key} for key in keys]) for keys in ("acb", "ba")]
        first = background(one, lambda s: s.column(many, batches[0]))
        assert first.waits_for() == {gate.pid}
        second = background(two, lambda s: s.column(many, batches[1]))
        assert second.waits_for() == {one.pid}
        gate.rows("rollback")
        return {*first.result(), *second.result()}

    def test_bulk_submits_take_them_in_one_order(
        self, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        assert len(self.play(connect, background)) == 3

    def test_in_the_order_given_they_deadlock(
        self, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Any]
    ) -> None:
        ordered = 'order by t.unique_key collate "C" nulls first, t.task_type collate "C", t.position_no'
        source = str(sql.value("select pg_get_functiondef('pgqueue.submit_many'::regproc)"))
        assert ordered in source
        sql.conn.execute(source.replace(ordered, "order by t.position_no").encode())
        with pytest.raises(psycopg.errors.DeadlockDetected):
            self.play(connect, background)
