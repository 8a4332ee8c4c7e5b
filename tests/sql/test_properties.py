"""Whatever is called in whatever order, the engine and a small model of it agree.

The model is a dict. Each example runs in one transaction that is rolled back; the clock is a setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from tests.sql.conftest import Sql

QUEUES = ("default", "other")
LEASE_S = 30
MAX_CRASHES = 3
START_S = 2_000_000_000
CLOCK = """
create or replace function pgqueue._now() returns timestamptz language plpgsql stable as $$
begin
    return to_timestamp(current_setting('test.now')::double precision);
end $$
"""
STATE = """
select a.id, a.status, a.attempt, a.failures, a.crashes, extract(epoch from a.run_at)::float as run_at, a.result,
    coalesce(e.outcomes, '{}') as outcomes, coalesce(e.attempts, '{}') as attempts
from pgqueue.all_tasks a
left join (
    select task_id, array_agg(outcome order by attempt) as outcomes, array_agg(attempt order by attempt) as attempts
    from pgqueue.executions
    group by task_id
) e on e.task_id = a.id
"""
ONE_DAY = """
do $$
declare
    v_table regclass;
begin
    for v_table in select inhrelid from pg_inherits where inhparent in (
        'pgqueue.finished_tasks'::regclass, 'pgqueue.attempts'::regclass, 'pgqueue.task_logs'::regclass
    ) loop
        execute format('drop table %s', v_table);
    end loop;
    perform pgqueue._make_partitions(0);
end $$
"""
"""One day of history is enough, and makes every question to it quicker."""
COUNTS = """
select s.*, pgqueue._count_waiting(%s) as waiting,
    array(select array[r.id, r.worker_id] from pgqueue.running_tasks r order by 1) as run
from pgqueue.queue_stats(%s) s
"""
LIVE = {"pending", "running"}

keys = st.sampled_from([None, None, "k", "l"])
priorities = st.sampled_from([1, 5, 5, 20])
queues = st.sampled_from(["default", "default", "default", "other"])
delays = st.sampled_from([0, 0, 1, 40])
outcomes = st.sampled_from([None, None, "failed", "failed", "timed_out", "lost", "released", "snoozed", "cancelled"])


@dataclass
class Task:
    """What the model knows of a task."""

    id: int
    queue: str
    key: str | None
    priority: int
    run_at: float
    max_retries: int
    status: str = "pending"
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    worker: int | None = None
    claim_no: int | None = None
    cancel: bool = False
    result: int | None = None
    outcomes: list[str] = field(default_factory=list)

    def end(self, failure: dict[str, Any] | None, now: float, result: int | None = None) -> None:
        """The running attempt ends this way."""
        outcome = "completed" if failure is None else failure["outcome"]
        self.outcomes.append(outcome)
        spent = self.failures >= self.max_retries or bool(failure and failure.get("permanent"))
        counts = outcome in {"failed", "timed_out"}
        self.failures += counts
        self.crashes += outcome == "lost"
        if failure is None or outcome == "cancelled":
            self.status = outcome
        elif (counts and spent) or (outcome == "lost" and self.crashes >= MAX_CRASHES):
            self.status = "failed"
        elif self.cancel:
            self.status = "cancelled"
        else:
            self.status = "pending"
            self._move(outcome, failure, now)
        if self.status != "pending" and result is not None:
            self.result = result
        self.worker = self.claim_no = None
        self.cancel = False

    def _move(self, outcome: str, failure: dict[str, Any], now: float) -> None:
        if outcome in {"released", "lost"}:
            return
        default = 0 if outcome == "snoozed" else self.failures**2
        self.run_at = now + failure.get("delay", default)


class Engine(RuleBasedStateMachine):
    """The rules: what anybody may call at any time."""

    session: Sql

    def __init__(self) -> None:
        super().__init__()
        self.sql = self.session
        self.tasks: dict[int, Task] = {}
        self.leases: list[tuple[int, int]] = []
        self.workers: dict[int, float] = {}
        self.lost: set[int] = set()
        self.claims: dict[int, list[int]] = {}
        self.paused: set[str] = set()
        self.now = float(START_S)
        self.claim_no = 0
        self.looked = 0
        self.sql.rows("begin")

    def teardown(self) -> None:
        self.sql.rows("rollback")

    @initialize()
    def prepare(self) -> None:
        self.advance(0)
        self.sql.rows("select pgqueue.create_queue('other')")
        self.register()

    # Calls that may be refused

    def refused(self, query: str, *params: object) -> str | None:
        """Run a statement; the SQLSTATE if it was refused."""
        try:
            with self.sql.conn.transaction():
                self.sql.rows(query, *params)
        except psycopg.Error as exc:
            return exc.sqlstate
        return None

    def holder(self, key: str | None) -> Task | None:
        """The live task that has the key."""
        live = (task for task in self.tasks.values() if task.status in LIVE)
        return next((task for task in live if key is not None and task.key == key), None)

    def pick(self, data: st.DataObject, status: str) -> int:
        """Any task, rather one with this status; or one that never was."""
        likely = [task.id for task in self.tasks.values() if task.status == status]
        return int(data.draw(st.sampled_from([*likely, *likely, *self.tasks, 999_999])))

    # Rules

    @rule(seconds=st.sampled_from([0.5, 1, 5, 31, 100]))
    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.sql.rows("select set_config('test.now', %s, true)", str(self.now))

    @rule(queue=queues, key=keys, priority=priorities, delay=delays, retries=st.integers(0, 2))
    def submit(self, queue: str, key: str | None, priority: int, delay: float, retries: int) -> None:
        [row] = self.sql.rows(
            "select * from pgqueue.submit_or_get('t', '{}', %s, %s, %s, null, to_timestamp(%s), %s)",
            queue,
            priority,
            retries,
            self.now + delay,
            key,
        )
        holder = self.holder(key)
        assert row["created"] == (holder is None)
        if holder:
            assert row["task_id"] == holder.id
        else:
            self.add(Task(row["task_id"], queue, key, priority, self.now + delay, retries))

    @rule(queue=queues, some=st.lists(st.tuples(keys, priorities), max_size=4))
    def submit_many(self, queue: str, some: list[tuple[str | None, int]]) -> None:
        given = [{"task_type": "t", "queue_name": queue, "unique_key": key, "priority": p} for key, p in some]
        rows = self.sql.rows("select * from pgqueue.submit_many(%s)", Jsonb(given))
        assert len(rows) == len(some)
        for (key, priority), row in zip(some, rows, strict=True):
            holder = self.holder(key)
            assert row["created"] == (holder is None)
            if holder is None:
                self.add(Task(row["task_id"], queue, key, priority, self.now, 3))

    @rule(key=keys)
    def insert(self, key: str | None) -> None:
        rows = self.sql.rows(
            "insert into pgqueue.tasks (task_type, unique_key, run_at) values ('t', %s, to_timestamp(%s))"
            " on conflict do nothing returning id",
            key,
            self.now,
        )
        assert bool(rows) == (self.holder(key) is None)
        for row in rows:
            self.add(Task(row["id"], "default", key, 5, self.now, 3))

    def add(self, task: Task) -> None:
        assert task.id not in self.tasks
        self.tasks[task.id] = task

    @rule()
    def register(self) -> None:
        worker = self.sql.worker(*QUEUES, lease=LEASE_S)
        assert worker not in self.workers
        self.workers[worker] = self.now

    @rule(data=st.data(), queue=queues, limit=st.integers(0, 4))
    @precondition(lambda self: self.workers)
    def claim(self, data: st.DataObject, queue: str, limit: int) -> None:
        self.claim_by(data.draw(st.sampled_from(sorted(self.workers))), queue, limit)

    def claim_what_is_due(self) -> None:
        """By a worker that can: most rules need something that runs."""
        if not self.workers.keys() - self.lost:
            self.register()
        for queue in QUEUES:
            self.claim_by(max(self.workers.keys() - self.lost), queue, 2)

    def claim_by(self, worker: int, queue: str, limit: int) -> None:
        self.claim_no += 1
        if worker in self.lost:
            assert self.refused("select pgqueue.claim(%s, %s, 1, %s)", worker, queue, self.claim_no) == "QU301"
            return
        due = [t for t in self.tasks.values() if (t.status, t.queue) == ("pending", queue) and t.run_at <= self.now]
        expected = [] if queue in self.paused else sorted(due, key=lambda t: (-t.priority, t.run_at, t.id))[:limit]
        leases = self.sql.claim(worker, limit, queue, claim_no=self.claim_no)
        assert leases == [(task.id, task.attempt + 1) for task in expected]
        for task in expected:
            task.status, task.attempt, task.worker, task.claim_no = "running", task.attempt + 1, worker, self.claim_no
        self.leases += leases
        if leases:
            self.claims[self.claim_no] = [worker, *(lease.id for lease in leases)]

    @rule(data=st.data(), wait=st.booleans())
    @precondition(lambda self: self.leases)
    def finish_any(self, data: st.DataObject, *, wait: bool) -> None:
        """Any leases that were ever given, the old ones too, in any order and as often as they like."""
        self.finish(data, data.draw(st.lists(st.sampled_from(self.leases[-12:]), min_size=1, max_size=5)), wait=wait)

    @rule(data=st.data())
    @precondition(lambda self: any(task.status in LIVE for task in self.tasks.values()))
    def work(self, data: st.DataObject) -> None:
        """What happens most: some of what runs ends, and what is due starts."""
        running = [(task.id, task.attempt) for task in self.tasks.values() if task.status == "running"]
        if running:
            self.finish(data, data.draw(st.lists(st.sampled_from(running), min_size=1, max_size=3)), wait=False)
        self.claim_what_is_due()

    def finish(self, data: st.DataObject, leases: list[tuple[int, int]], *, wait: bool) -> None:
        failures = [self.failure(data) for _ in leases]
        results = list(range(len(leases)))
        unsettled = self.sql.finish(leases, failures=failures, results=results, wait=wait)
        settled = set()
        for (task_id, attempt), failure, result in zip(leases, failures, results, strict=True):
            task = self.tasks[task_id]
            if (task.status, task.attempt) == ("running", attempt):
                task.end(failure, self.now, result)
                settled.add(task_id)
        assert set(unsettled) == {task_id for task_id, _ in leases} - settled

    def failure(self, data: st.DataObject) -> dict[str, Any] | None:
        outcome = data.draw(outcomes)
        if outcome is None:
            return None
        more: dict[str, Any] = data.draw(
            st.fixed_dictionaries({}, optional={"delay": delays, "permanent": st.booleans()})
        )
        return {"outcome": outcome, **more}

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task_id = self.pick(data, "running")
        task = self.tasks.get(task_id)
        refused = self.refused("select pgqueue.cancel_task(%s)", task_id)
        if task is None:
            assert refused == "QU102"
        elif task.status in {"completed", "failed"}:
            assert refused == "QU201"
        else:
            assert refused is None
            if task.status == "running":
                task.cancel = True
            else:
                task.status = "cancelled"

    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        task_id = self.pick(data, "failed")
        task = self.tasks.get(task_id)
        refused = self.refused("select pgqueue.retry_task(%s)", task_id)
        if task is None:
            assert refused == "QU102"
        elif task.status not in {"failed", "cancelled"}:
            assert refused == "QU201"
        elif self.holder(task.key):
            assert refused == "QU202"
        else:
            assert refused is None
            task.status, task.failures, task.crashes, task.run_at, task.result = "pending", 0, 0, self.now, None

    @rule(data=st.data())
    @precondition(lambda self: self.workers)
    def heartbeat(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        known = [number for number, claim in self.claims.items() if claim[0] == worker]
        open_claims = [number for number in known if data.draw(st.integers(0, 3))]
        [beat] = self.sql.call("heartbeat", worker_id=worker, last_claim=self.claim_no, open_claims=open_claims)
        assert beat["is_lost"] == (worker in self.lost)
        if worker not in self.lost:
            self.workers[worker] = self.now
            self.end_claims(worker, {"outcome": "released"}, set(known) - set(open_claims))
        expected = {t.id for t in self.tasks.values() if t.worker == worker and t.cancel}
        assert set(beat["cancel_ids"]) == expected

    def end_claims(self, worker: int, failure: dict[str, Any], numbers: set[int] | None = None) -> int:
        held = [t for t in self.tasks.values() if t.worker == worker and (numbers is None or t.claim_no in numbers)]
        for task in held:
            task.end(failure, self.now)
        self.claims = {
            number: claim
            for number, claim in self.claims.items()
            if claim[0] != worker or (numbers is not None and number not in numbers)
        }
        return len(held)

    @rule()
    def rescue(self) -> None:
        silent = {w for w, heard in self.workers.items() if w not in self.lost and heard + LEASE_S < self.now}
        rescued = {row["worker_id"]: row["rescued"] for row in self.sql.rows("select * from pgqueue.rescue()")}
        assert rescued == {worker: self.end_claims(worker, {"outcome": "lost"}) for worker in sorted(silent)}
        self.lost |= silent

    @rule(data=st.data())
    @precondition(lambda self: len(self.workers) > 1)
    def stop_worker(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.workers)))
        released = self.sql.value("select pgqueue.stop_worker(%s)", worker)
        assert released == self.end_claims(worker, {"outcome": "released"})
        del self.workers[worker]
        self.lost.discard(worker)

    @rule(queue=queues, pause=st.booleans())
    def pause_or_resume(self, queue: str, *, pause: bool) -> None:
        self.sql.rows(f"select pgqueue.{'pause' if pause else 'resume'}_queue(%s)", queue)
        self.paused = self.paused | {queue} if pause else self.paused - {queue}

    @rule(data=st.data(), percent=st.integers(0, 100))
    @precondition(lambda self: self.leases)
    def progress(self, data: st.DataObject, percent: int) -> None:
        task_id, attempt = data.draw(st.sampled_from(self.leases))
        task = self.tasks[task_id]
        refused = self.refused("select pgqueue.update_progress(%s, %s, p_attempt => %s)", task_id, percent, attempt)
        assert refused == (None if (task.status, task.attempt) == ("running", attempt) else "QU301")

    @rule(data=st.data(), result=st.integers(100, 200))
    @precondition(lambda self: self.leases)
    def set_result(self, data: st.DataObject, result: int) -> None:
        task_id, attempt = data.draw(st.sampled_from(self.leases))
        task = self.tasks[task_id]
        refused = self.refused("select pgqueue.set_task_result(%s, %s, %s)", task_id, Jsonb(result), attempt)
        assert refused == (None if (task.status, task.attempt) == ("running", attempt) else "QU301")
        if refused is None:
            task.result = result

    @rule()
    def maintain(self) -> None:
        assert self.sql.value("select pgqueue.maintain(0)") is True

    @rule(data=st.data())
    @precondition(lambda self: self.tasks)
    def ask_why(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.tasks)))
        assert self.sql.value("select pgqueue.why_waiting(%s)", task_id)

    # What holds after each step

    @invariant()
    def every_task_is_where_the_model_has_it(self) -> None:
        rows = self.sql.rows(STATE)
        assert len(rows) == len({row["id"] for row in rows}), "a task is both live and finished"
        seen = {row["id"]: row for row in rows}
        assert seen.keys() == self.tasks.keys()
        for task in self.tasks.values():
            row = seen[task.id]
            assert (row["status"], row["attempt"]) == (task.status, task.attempt), task
            assert (row["failures"], row["crashes"], row["result"]) == (task.failures, task.crashes, task.result), task
            assert row["outcomes"] == task.outcomes, task
            assert row["run_at"] == pytest.approx(task.run_at), task
            assert row["attempts"] == list(range(1, task.attempt + 1 - (task.status == "running"))), task

    @invariant()
    def counts_and_what_runs_agree(self) -> None:
        self.looked += 1
        queue = QUEUES[self.looked % 2]
        stats = self.sql.row(COUNTS, queue, queue)
        running = [[task.id, task.worker] for task in self.tasks.values() if task.status == "running"]
        assert stats["run"] == sorted(running)
        mine = [task for task in self.tasks.values() if task.queue == queue]
        due = [task for task in mine if task.status == "pending" and task.run_at <= self.now]
        assert stats["pending"] == len(due)
        assert stats["scheduled"] == sum(task.status == "pending" for task in mine) - len(due)
        assert stats["waiting"] == stats["queue_size"] == stats["pending"] + stats["scheduled"]
        for status in ("running", "completed", "failed", "cancelled"):
            assert stats[status] == sum(task.status == status for task in mine)


def explore(sql: Sql, examples: int, steps: int, *, derandomize: bool) -> None:
    class Here(Engine):
        session = sql

    sql.conn.execute(CLOCK.encode())
    sql.rows("select set_config('test.now', %s, false)", str(START_S))
    sql.conn.execute(ONE_DAY.encode())
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=derandomize,
            database=None,
            phases=[Phase.generate] if derandomize else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_engine_agrees_with_its_model(sql: Sql) -> None:
    explore(sql, 30, 50, derandomize=True)


@pytest.mark.long
def test_the_engine_agrees_with_its_model_for_long(sql: Sql) -> None:
    explore(sql, 500, 50, derandomize=False)


BROKEN = [
    ("_hold_lease", "and t.status = 'running' and", "and"),
    ("_lock_running", "and t.status = 'running'", "and true"),
    ("claim", "attempt = t.attempt + 1", "attempt = greatest(t.attempt, 1)"),
]
BROKEN_AND_RARELY_SEEN = [
    ("_end_claims", "and t.claim_no = c.claim_no", "and true"),
    ("_verdict", "p_task.cancel_requested_at is not null", "false"),
    ("_verdict", "p_task.failures >= p_task.max_retries", "p_task.failures > p_task.max_retries"),
    ("retry_task", "v_task.attempt, v_task.created_at", "0, v_task.created_at"),
]


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [*BROKEN, *(pytest.param(*case, marks=pytest.mark.long) for case in BROKEN_AND_RARELY_SEEN)],
)
def test_a_broken_engine_does_not(sql: Sql, function: str, old: str, new: str) -> None:
    """Each guard, taken out, is missed."""
    source: str = sql.value("select pg_get_functiondef(('pgqueue.' || %s)::regproc)", function)
    assert old in source
    sql.conn.execute(source.replace(old, new).encode())
    with pytest.raises((AssertionError, psycopg.Error, ExceptionGroup)):
        explore(sql, 100, 50, derandomize=True)
