"""Plans that stay good: no sequential scans, one plan for good, HOT claims, and cursors that skip the dead."""

from __future__ import annotations

import itertools
import json
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest
from psycopg.types.json import Jsonb

from tests.polling import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import psycopg

    from tests.sql.conftest import Sql

SMALL = {"lanes", "queues", "listeners", "waits", "workers", "queue_counts", "statistics_state", "task_departures"}
"""Caches of a few pages; a sequential scan of one of them costs what an index scan does."""

PERIPHERAL = {"pg_class", "pg_inherits", "clock"}


class Plans:
    """Every plan that a session runs, nested ones as well, as auto_explain reports them."""

    SETTINGS = (
        "load 'auto_explain'",
        "set auto_explain.log_min_duration = 0",
        "set auto_explain.log_nested_statements = on",
        "set auto_explain.log_format = json",
        "set auto_explain.log_level = notice",
        "set client_min_messages = notice",
    )

    def __init__(self, sql: Sql) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        sql.conn.add_notice_handler(self._note)
        for setting in self.SETTINGS:
            sql.rows(setting)

    def _note(self, diag: psycopg.errors.Diagnostic) -> None:
        _, found, plan = (diag.message_primary or "").partition("plan:\n")
        if found:
            read = json.loads(plan)
            self.seen.append((read["Query Text"], read["Plan"]))

    def clear(self) -> None:
        self.seen.clear()

    def sequential(self) -> set[str]:
        """The tables that were read from end to end."""
        return {
            node["Relation Name"] for _, plan in self.seen for node in walk(plan) if node["Node Type"] == "Seq Scan"
        }

    def tables(self) -> set[str]:
        """The tables that were read or written at all."""
        return {node["Relation Name"] for _, plan in self.seen for node in walk(plan) if "Relation Name" in node}

    def shapes(self) -> dict[str, set[str]]:
        """The different plans of each statement, without their estimates."""
        shapes: dict[str, set[str]] = defaultdict(set)
        for text, plan in self.seen:
            shapes[text].add(shape(plan))
        return shapes


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from walk(child)


def shape(plan: dict[str, Any]) -> str:
    names = " ".join(str(plan[key]) for key in ("Node Type", "Index Name", "Relation Name") if key in plan)
    return f"({names}{''.join(shape(child) for child in plan.get('Plans', ()))})"


def buffers(sql: Sql, query: str, *params: object) -> int:
    """How many pages a statement touches, with all that its functions do."""
    [explained] = sql.value(f"explain (analyze, buffers, timing off, summary off, format json) {query}", *params)
    plan = explained["Plan"]
    return int(plan["Shared Hit Blocks"]) + int(plan["Shared Read Blocks"])


def load(sql: Sql, count: int, due: str = "clock_timestamp()") -> None:
    sql.rows(f"insert into pgqueue.tasks (task_type, run_at) select 'a', {due} from generate_series(1, %s)", count)


def no_autovacuum(sql: Sql) -> None:
    for table in ("tasks", "claims", "task_progress", "lanes", "queues", "workers", "waits"):
        sql.rows(f"alter table pgqueue.{table} set (autovacuum_enabled = off)")


def cursor_of(row: dict[str, Any]) -> dict[str, Any]:
    return {"ranks": [row["rank"]], "run_ats": [row["run_at"]], "ids": [row["id"]]}


def drain(sql: Sql, worker: int, batch: int) -> tuple[int, dict[str, Any]]:
    """Claim and finish until nothing is due, as a worker does; return how many, and the last cursor."""
    done = 0
    cursor: dict[str, Any] = {}
    while rows := sql.claim_rows(worker, batch, behind="0" if cursor else None, **cursor):
        cursor = cursor_of(rows[-1])
        sql.finish([(row["id"], row["attempt"]) for row in rows], elapsed_us=[5] * len(rows))
        done += len(rows)
    return done, cursor


def work(sql: Sql) -> None:
    """Everything that a queue does all day, each thing at least once."""
    worker = sql.worker()
    sql.submit()
    rows = sql.claim_rows(worker, 20, claim_no=1)
    leases = [(row["id"], row["attempt"]) for row in rows]
    more = sql.claim(worker, 20, claim_no=2, behind="0", **cursor_of(rows[-1]))
    sql.claim(worker, 5, claim_no=3, behind="250 milliseconds", done=[99], **cursor_of(rows[-1]))
    first = leases[0]
    sql.rows("select pgqueue.update_progress(%s, 10, p_attempt => %s)", *first)
    sql.rows("select pgqueue.set_task_result(%s, '1', %s)", *first)
    reports = [{"task_id": id_, "attempt": attempt, "progress": 5} for id_, attempt in leases]
    sql.rows("select pgqueue.report_progress(%s)", Jsonb(reports))
    lines = [{"task_id": id_, "attempt": attempt, "level": "info", "message": "m"} for id_, attempt in leases]
    sql.rows("select pgqueue.write_logs(%s)", Jsonb(lines))
    kinds: list[dict[str, object] | None] = [
        None,
        {"outcome": "failed"},
        {"outcome": "snoozed"},
        {"outcome": "cancelled"},
    ]
    sql.finish(leases, failures=list(itertools.islice(itertools.cycle(kinds), len(leases))))
    if more:
        sql.rows("select pgqueue.cancel_task(%s)", more[0].id)
        sql.finish(more[:1], {"outcome": "failed", "permanent": True}, wait=True)
    waiting = sql.submit(run_at="2099-01-01 00:00+00")
    sql.rows("select pgqueue.cancel_task(%s)", waiting)
    sql.rows("select pgqueue.retry_task(%s)", waiting)
    sql.rows("select * from pgqueue.heartbeat(%s, 2, '{}')", worker)
    sql.rows("select * from pgqueue.idle('default', pgqueue.fence())")
    sql.rows("update pgqueue.workers set heartbeat_at = now() - interval '1 hour' where id = %s", worker)
    sql.rows("select * from pgqueue.rescue()")
    sql.rows("select * from pgqueue.stop_worker(%s)", worker)
    sql.rows("select * from pgqueue.get_task(%s)", waiting)
    sql.rows("select * from pgqueue.get_progress(%s)", first[0])
    sql.rows("select * from pgqueue.get_executions(%s)", first[0])
    sql.rows("select pgqueue.why_waiting(%s)", waiting)
    sql.rows("select pgqueue._count_waiting('default')")


class TestNoSequentialScans:
    def assert_none(self, sql: Sql) -> None:
        plans = Plans(sql)
        work(sql)
        assert {"tasks", "claims", "task_progress"} <= plans.tables()
        assert plans.sequential() <= SMALL | PERIPHERAL

    def test_on_empty_tables(self, sql: Sql) -> None:
        self.assert_none(sql)

    def test_on_freshly_loaded_tables(self, sql: Sql) -> None:
        no_autovacuum(sql)
        load(sql, 3000)
        self.assert_none(sql)

    def test_on_tables_analysed_when_they_were_empty(self, sql: Sql) -> None:
        no_autovacuum(sql)
        for table in ("tasks", "claims", "task_progress"):
            sql.rows(f"analyze pgqueue.{table}")
        load(sql, 3000)
        load(sql, 3000, "clock_timestamp() + interval '1 day'")
        self.assert_none(sql)

    def test_on_analysed_tables(self, sql: Sql) -> None:
        load(sql, 3000)
        sql.rows("vacuum analyze pgqueue.tasks")
        self.assert_none(sql)

    def test_on_a_tiny_table_that_statistics_call_tiny(self, sql: Sql) -> None:
        load(sql, 3)
        sql.rows("vacuum analyze pgqueue.tasks")
        self.assert_none(sql)

    def test_with_a_pinned_snapshot_and_many_dead_rows(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        pin = connect()
        pin.rows("begin isolation level repeatable read")
        pin.rows("select count(*) from pgqueue.tasks")
        load(sql, 3000)
        drain(sql, sql.worker(), 200)
        load(sql, 100)
        self.assert_none(sql)

    def test_the_collector_would_see_one(self, sql: Sql) -> None:
        plans = Plans(sql)
        sql.rows("select count(*) from pgqueue.tasks where error is null")
        assert "tasks" in plans.sequential()

    def test_a_submit_to_a_queue_with_a_capacity_counts_by_index(self, sql: Sql) -> None:
        load(sql, 3000)
        sql.rows("select pgqueue.create_queue('other', p_capacity => 100)")
        sql.rows("vacuum analyze pgqueue.tasks")
        plans = Plans(sql)
        sql.submit(queue_name="other")
        assert "tasks" in plans.tables()
        assert plans.sequential() <= SMALL


class TestOnePlan:
    """The sixth call of a session is where PostgreSQL may change its mind."""

    def test_fifty_claims_and_finishes_keep_their_plans_and_their_costs(self, sql: Sql) -> None:
        no_autovacuum(sql)
        load(sql, 1000)
        load(sql, 10_000, "clock_timestamp() + interval '1 day'")
        plans = Plans(sql)
        worker = sql.worker()
        claimed: list[int] = []
        finished: list[int] = []
        [row] = sql.claim_rows(worker, 1)
        claim = "select * from pgqueue.claim(%s, 'default', 10, %s, %s, %s, %s, '0', %s)"
        for claim_no in range(2, 52):
            last = [[row["rank"]], [row["run_at"]], [row["id"]]]
            claimed.append(buffers(sql, claim, worker, claim_no, *last, [claim_no - 1]))
            ids = sql.value("select ids from pgqueue.claims where claim_no = %s", claim_no)
            assert len(ids) == 10
            row = sql.row("select rank, run_at::text, id from pgqueue.tasks where id = %s", ids[-1])
            finished.append(buffers(sql, "select pgqueue.finish(%s, %s)", ids, [1] * 10))
        changed = {text: shapes for text, shapes in plans.shapes().items() if len(shapes) > 1}
        assert changed == {}
        for costs in (claimed, finished):
            assert max(costs[1:]) <= min(costs[1:]) + 60, costs

    def test_failures_keep_theirs(self, sql: Sql) -> None:
        no_autovacuum(sql)
        load(sql, 400)
        plans = Plans(sql)
        worker = sql.worker()
        for _ in range(20):
            leases = sql.claim(worker, 10)
            sql.finish(leases, failures=[{"outcome": "failed", "delay": 999}, None] * 5)
        assert {text: shapes for text, shapes in plans.shapes().items() if len(shapes) > 1} == {}


class TestHotClaims:
    def share(self, sql: Sql, count: int, batch: int) -> float:
        """Claim and finish so many tasks; return which share of the updates of tasks was HOT."""
        before = self.updates(sql)
        done, _ = drain(sql, sql.worker(), batch)
        assert done == count
        deadline = time.monotonic() + DEADLINE_S
        while (after := self.updates(sql))[0] - before[0] < count:
            assert time.monotonic() < deadline, "the updates were never counted"
        assert after[0] - before[0] == count
        return (after[1] - before[1]) / count

    def updates(self, sql: Sql) -> tuple[int, int]:
        """PostgreSQL 14 counts by a process of its own, which is told twice a second."""
        if sql.conn.info.server_version >= 150_000:
            sql.rows("select pg_stat_force_next_flush()")
        row = sql.row(
            "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relid = 'pgqueue.tasks'::regclass"
        )
        return row["n_tup_upd"], row["n_tup_hot_upd"]

    @pytest.mark.parametrize("batch", [1, 7, 200])
    def test_claims_are_hot(self, sql: Sql, batch: int) -> None:
        count = 400 if batch == 1 else 4000
        load(sql, count)
        assert self.share(sql, count, batch) >= 0.99

    def test_even_with_a_pinned_snapshot(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        pin = connect()
        pin.rows("begin isolation level repeatable read")
        pin.rows("select count(*) from pgqueue.tasks")
        load(sql, 4000)
        assert self.share(sql, 4000, 100) >= 0.99

    def test_with_payloads_keys_and_filters(self, sql: Sql) -> None:
        sql.rows(
            "insert into pgqueue.tasks (task_type, payload, unique_key, user_id, project_id)"
            " select 'a', jsonb_build_object('t', repeat(md5(n::text), n % 40)), n, 'u', 'p'"
            " from generate_series(1, 2000) n"
        )
        assert self.share(sql, 2000, 50) >= 0.99

    def test_an_index_on_the_status_would_end_that(self, sql: Sql) -> None:
        sql.rows("create index too_clever on pgqueue.tasks (id) where status = 'running'")
        load(sql, 1000)
        assert self.share(sql, 1000, 50) < 0.5

    def test_no_index_mentions_what_a_claim_changes(self, sql: Sql) -> None:
        mentioned = sql.column(
            "select a.attname from pg_index i"
            " join pg_depend d on d.classid = 'pg_class'::regclass and d.objid = i.indexrelid"
            " and d.refclassid = 'pg_class'::regclass and d.refobjid = i.indrelid and d.refobjsubid > 0"
            " join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid"
            " where i.indrelid = 'pgqueue.tasks'::regclass"
        )
        assert "run_at" in mentioned
        changed = {"status", "attempt", "worker_id", "claim_no", "started_at", "cancel_requested_at", "result"}
        assert set(mentioned) & changed == set()


class TestTheLimit:
    """LIMIT with row locks in a subquery is known to be run again by a nested loop and to lock too much."""

    METHODS = ("nestloop", "hashjoin", "mergejoin", "indexscan", "material", "sort", "hashagg")
    OTHERS = (
        "bitmapscan",
        "seqscan",
        "indexonlyscan",
        "memoize",
        "incremental_sort",
        "gathermerge",
        "parallel_append",
        "parallel_hash",
        "partition_pruning",
        "async_append",
    )

    def settings(self) -> Iterator[dict[str, str]]:
        for values in itertools.product(("on", "off"), repeat=len(self.METHODS)):
            yield dict(zip(self.METHODS, values, strict=True))
        for name in self.OTHERS:
            yield {name: "off"}
        yield dict.fromkeys((*self.METHODS, *self.OTHERS), "off")

    def test_it_holds_whatever_the_planner_may_not_use(self, sql: Sql) -> None:
        for priority in (1, 5, 10, 20):
            for _ in range(3):
                sql.submit(priority=priority)
        worker = sql.worker()
        expected = sql.column("select id from pgqueue.tasks order by rank, run_at, id limit 5")
        tried = 0
        for settings in self.settings():
            with sql.conn.transaction(force_rollback=True):
                for name, value in settings.items():
                    sql.rows(f"set local enable_{name} = {value}")
                sql.rows("discard plans")
                assert [lease.id for lease in sql.claim(worker, 5)] == expected, settings
                assert sql.value("select count(*) from pgqueue.tasks where status = 'running'") == 5
                tried += 1
        assert tried == 2 ** len(self.METHODS) + len(self.OTHERS) + 1

    def test_and_so_does_a_finish(self, sql: Sql) -> None:
        for _ in range(6):
            sql.submit()
        leases = sql.claim(sql.worker())
        failures: list[dict[str, object] | None] = [None, {"outcome": "failed"}] * 3
        for settings in itertools.islice(self.settings(), 0, None, 5):
            with sql.conn.transaction(force_rollback=True):
                for name, value in settings.items():
                    sql.rows(f"set local enable_{name} = {value}")
                sql.rows("discard plans")
                assert sql.finish(leases, failures=failures) == []
                assert sql.value("select count(*) from pgqueue.executions") == 6
                assert sql.value("select count(*) from pgqueue.finished_tasks") == 3

    def test_rows_beyond_the_limit_are_not_even_locked(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        """Other workers must get them while this claim is open."""
        for priority in (1, 5, 10):
            for _ in range(2):
                sql.submit(priority=priority)
        other = connect()
        sql.rows("begin")
        assert len(sql.claim(sql.worker(), 3)) == 3
        assert len(other.claim(other.worker(), 10)) == 3
        sql.rows("commit")


class TestThePinnedHorizon:
    def test_a_cursor_steps_over_the_dead(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        no_autovacuum(sql)
        pin = connect()
        pin.rows("begin isolation level repeatable read")
        pin.rows("select count(*) from pgqueue.tasks")
        worker = sql.worker()
        load(sql, 5000)
        done, cursor = drain(sql, worker, 250)
        assert done == 5000
        claim = "select * from pgqueue.claim(%s, 'default', 1, %s, %s, %s, %s, %s)"
        touched: dict[str | None, int] = {}
        for behind in ("0", "0", "250 milliseconds", None):
            sql.submit()
            sql._claim_no += 1
            touched[behind] = buffers(sql, claim, worker, sql._claim_no, *cursor.values(), behind)
        sweep = touched.pop(None)
        assert touched["0"] <= 100
        assert touched["0"] * 4 < sweep

    def test_without_a_pin_vacuum_takes_the_dead_away(self, sql: Sql) -> None:
        worker = sql.worker()
        load(sql, 5000)
        drain(sql, worker, 250)
        sql.rows("vacuum pgqueue.tasks")
        sql.submit()
        sql.claim(worker)
        sql.submit()
        assert buffers(sql, "select * from pgqueue.claim(%s, 'default', 1, 9999)", worker) <= 150
