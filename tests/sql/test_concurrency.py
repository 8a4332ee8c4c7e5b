"""Everybody at once: several sessions call everything at random, and afterwards everything adds up."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Lease, Sql

SESSIONS = 6
LEASE_S = 2
REFUSALS = {"QU102", "QU201", "QU202", "QU301"}
KEYS = [None, None, *"klmnop"]
ENDS: list[dict[str, Any] | None] = [
    None,
    None,
    {"outcome": "failed", "delay": 0},
    {"outcome": "snoozed"},
    {"outcome": "cancelled"},
    {"outcome": "lost"},
]
ACTIONS = {
    "submit": 6,
    "submit_many": 2,
    "claim": 8,
    "finish": 8,
    "cancel": 2,
    "retry": 2,
    "heartbeat": 2,
    "rescue": 1,
    "progress": 2,
    "report": 2,
    "log": 2,
    "stop": 1,
    "maintain": 1,
}
NOT_ONCE = "select id from pgqueue.all_tasks group by id having count(*) > 1"
MISCOUNTED = """
select a.id
from pgqueue.all_tasks a
left join (
    select task_id, count(*) as n, count(distinct attempt) as d from pgqueue.executions group by 1
) e on e.task_id = a.id
where a.attempt - (a.status = 'running')::int <> coalesce(e.n, 0) or e.n <> e.d
"""
RUNS_NOWHERE = """
select t.id
from pgqueue.tasks t
where t.status = 'running'
and not exists (
    select from pgqueue.claims c join pgqueue.workers w on w.id = c.worker_id
    where t.id = any(c.ids) and c.worker_id = t.worker_id and c.claim_no = t.claim_no
)
"""
DOUBLE_KEYS = "select unique_key from pgqueue.tasks where unique_key is not null group by 1 having count(*) > 1"
LEFT_BEHIND = """
select p.task_id from pgqueue.task_progress p
where not exists (select from pgqueue.tasks t where t.id = p.task_id)
"""


class Actor:
    """One session, a worker among others, that does whatever its dice say."""

    def __init__(self, sql: Sql, seed: int) -> None:
        self.sql = sql
        self.dice = random.Random(seed)  # noqa: S311 - a seeded test
        self.done: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self.start_over()

    def start_over(self) -> None:
        self.worker = self.sql.worker(lease=LEASE_S)
        self.claim_no = 0
        self.leases: list[Lease] = []

    def act(self, times: int) -> None:
        for name in self.dice.choices(list(ACTIONS), list(ACTIONS.values()), k=times):
            try:
                getattr(self, name)()
            except psycopg.Error as exc:
                if exc.sqlstate not in REFUSALS:
                    self.errors.append(exc)
            else:
                self.done[name] += 1

    def some(self, most: int) -> list[Lease]:
        return self.dice.sample(self.leases, min(len(self.leases), most))

    def any_id(self) -> int:
        return int(self.sql.value("select coalesce(max(id), 1) from pgqueue.all_tasks")) - self.dice.randint(0, 30)

    def submit(self) -> None:
        self.sql.submit(unique_key=self.dice.choice(KEYS), priority=self.dice.choice([1, 5, 9]))

    def submit_many(self) -> None:
        tasks = [{"task_type": "work", "unique_key": self.dice.choice(KEYS)} for _ in range(6)]
        self.sql.rows("select * from pgqueue.submit_many(%s)", Jsonb(tasks))

    def claim(self) -> None:
        self.claim_no += 1
        try:
            self.leases += self.sql.claim(self.worker, self.dice.randint(1, 8), claim_no=self.claim_no)
        except psycopg.Error:
            self.start_over()
            raise

    def finish(self) -> None:
        chosen = self.some(10)
        self.leases = [lease for lease in self.leases if lease not in chosen]
        ends = [self.dice.choice(ENDS) for _ in chosen]
        self.sql.finish(chosen, failures=ends, wait=self.dice.choice([True, False]))

    def cancel(self) -> None:
        self.sql.rows("select pgqueue.cancel_task(%s)", self.any_id())

    def retry(self) -> None:
        self.sql.rows("select pgqueue.retry_task(%s)", self.any_id())

    def heartbeat(self) -> None:
        known = [number for number in range(1, self.claim_no + 1) if self.dice.random() < 0.9]
        [beat] = self.sql.call("heartbeat", worker_id=self.worker, last_claim=self.claim_no, open_claims=known)
        if beat["is_lost"]:
            self.start_over()

    def rescue(self) -> None:
        self.sql.rows("select * from pgqueue.rescue()")

    def progress(self) -> None:
        for lease in self.some(1):
            self.sql.rows("select pgqueue.update_progress(%s, 1, p_attempt => %s)", *lease)

    def report(self) -> None:
        reports = [{"task_id": id_, "attempt": attempt, "progress": 3} for id_, attempt in self.some(5)]
        self.sql.rows("select pgqueue.report_progress(%s)", Jsonb(reports))

    def log(self) -> None:
        line = {"level": "info", "message": "m"}
        lines = [{"task_id": id_, "attempt": attempt, **line} for id_, attempt in self.some(5)]
        self.sql.rows("select pgqueue.write_logs(%s)", Jsonb(lines))

    def stop(self) -> None:
        self.sql.rows("select pgqueue.stop_worker(%s)", self.worker)
        self.start_over()

    def maintain(self) -> None:
        self.sql.rows("select pgqueue.maintain()")


def play(connect: Callable[[], Sql], times: int) -> list[Actor]:
    actors = [Actor(connect(), seed) for seed in range(SESSIONS)]
    threads = [threading.Thread(target=actor.act, args=(times,)) for actor in actors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return actors


def test_everything_adds_up(sql: Sql, connect: Callable[[], Sql], *, long: bool) -> None:
    actors = play(connect, 20_000 if long else 400)
    assert [error for actor in actors for error in actor.errors] == []
    done = sum((actor.done for actor in actors), Counter[str]())
    assert min(done[name] for name in ACTIONS) > 0
    for query in (NOT_ONCE, MISCOUNTED, RUNS_NOWHERE, DOUBLE_KEYS, LEFT_BEHIND):
        assert sql.rows(query) == [], query


@pytest.mark.parametrize("query", [NOT_ONCE, MISCOUNTED, RUNS_NOWHERE, LEFT_BEHIND])
def test_each_check_sees_what_it_is_for(sql: Sql, query: str) -> None:
    for _ in range(2):
        sql.submit()
    first, _ = sql.claim(sql.worker())
    sql.finish([first])
    assert sql.rows(query) == []
    sql.rows("update pgqueue.tasks set attempt = 9, claim_no = 77")
    sql.rows("insert into pgqueue.task_progress (task_id, progress, updated_at) values (4711, 1, now())")
    sql.rows("set session_replication_role = replica")
    sql.rows(
        "insert into pgqueue.tasks (id, task_type) overriding system value"
        " select id, task_type from pgqueue.finished_tasks"
    )
    assert sql.rows(query) != []
