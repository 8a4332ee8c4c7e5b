"""What keeps the tables small and the operator informed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Clock, Lease, Sql

PARTITIONED = ("attempts", "finished_tasks", "task_logs")
ATTACHED = """
select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
where i.inhparent = format('pgqueue.%%I', %s::text)::regclass order by 1
"""


def start(sql: Sql, **options: object) -> Lease:
    sql.submit(**options)  # type: ignore[arg-type]
    [lease] = sql.claim(sql.worker())
    return lease


class TestPartitions:
    def days(self, sql: Sql, table: str) -> list[str]:
        return [name.removeprefix(f"{table}_") for name in sql.column(ATTACHED, table)]

    @pytest.mark.parametrize("table", PARTITIONED)
    def test_today_and_fourteen_days_ahead_are_there_from_the_start(self, sql: Sql, table: str) -> None:
        expected = sql.column(
            "select to_char((now() at time zone 'UTC')::date + n, 'YYYYMMDD') from generate_series(0, 14) n"
        )
        assert self.days(sql, table) == expected

    @pytest.mark.parametrize("table", PARTITIONED)
    def test_maintenance_keeps_them_ahead(self, sql: Sql, clock: Clock, table: str) -> None:
        before = self.days(sql, table)
        clock.advance(3 * 86_400)
        assert sql.value("select pgqueue.maintain()") is True
        assert len(self.days(sql, table)) == len(before) + 3
        assert sql.value("select pgqueue._make_partitions()") == 0

    def test_a_partition_has_what_its_table_has(self, sql: Sql) -> None:
        for table in PARTITIONED:
            part = sql.column(ATTACHED, table)[3]
            wrong = sql.rows(
                "select i.indexrelid::regclass::text from pg_index i"
                " where i.indrelid = format('pgqueue.%%I', %s::text)::regclass"
                " and not exists (select from pg_inherits h where h.inhrelid = i.indexrelid)",
                part,
            )
            assert wrong == []
            assert sql.value(
                "select count(*) from pg_index where indrelid = format('pgqueue.%%I', %s::text)::regclass", part
            ) == sql.value(
                "select count(*) from pg_index where indrelid = format('pgqueue.%%I', %s::text)::regclass", table
            )

    def test_there_is_no_default_partition(self, sql: Sql) -> None:
        """It would forbid to detach concurrently."""
        assert sql.column("select partdefid from pg_partitioned_table where partdefid <> 0") == []

    def test_days_that_ended_are_listed_oldest_first(self, sql: Sql, clock: Clock) -> None:
        clock.set("2020-01-01 12:00+00")
        sql.rows("select pgqueue._make_partitions(2)")
        clock.advance(2 * 86_400)
        sql.fold()
        rows = sql.rows("select * from pgqueue._partitions_before('2020-01-03 05:00+00')")
        assert [row["partition_name"] for row in rows] == [
            f"{table}_2020010{day}" for day in (1, 2) for table in ("attempts", "task_logs", "finished_tasks")
        ]
        assert {(row["is_attached"], row["is_detaching"]) for row in rows} == {(True, False)}

    def test_a_detached_day_is_still_listed(self, sql: Sql, clock: Clock) -> None:
        clock.set("2020-01-01 12:00+00")
        sql.rows("select pgqueue._make_partitions(0)")
        sql.rows("alter table pgqueue.attempts detach partition pgqueue.attempts_20200101 concurrently")
        clock.advance(86_400)
        sql.fold()
        rows = sql.rows("select * from pgqueue._partitions_before('2020-01-02 00:00+00')")
        assert {row["partition_name"]: row["is_attached"] for row in rows} == {
            "attempts_20200101": False,
            "task_logs_20200101": True,
            "finished_tasks_20200101": True,
        }


class TestMaintain:
    def test_one_at_a_time(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        other = connect()
        other.rows("begin")
        assert other.value("select pgqueue.maintain()") is True
        assert sql.value("select pgqueue.maintain()") is False
        other.rows("commit")
        assert sql.value("select pgqueue.maintain()") is True

    def test_doubles_among_the_lanes_go_and_one_of_each_stays(self, sql: Sql) -> None:
        for priority in (1, 5):
            sql.submit(priority=priority)
        sql.rows("insert into pgqueue.lanes select l.* from pgqueue.lanes l cross join generate_series(1, 3)")
        sql.rows("select pgqueue.maintain()")
        assert sql.column("select rank from pgqueue.lanes order by 1") == [-5, -1]

    def test_long_queues_are_counted(self, sql: Sql) -> None:
        sql.rows("insert into pgqueue.tasks (task_type) select 'a' from generate_series(1, 10001)")
        sql.rows("select pgqueue.maintain()")
        assert sql.value("select waiting from pgqueue.queue_counts") == 10001
        assert sql.value("select pgqueue._count_waiting('default')") == 10001

    def test_a_queue_that_became_short_is_counted_on_the_spot(self, sql: Sql) -> None:
        sql.rows("insert into pgqueue.queue_counts values ('default', 99999, now())")
        sql.submit()
        assert sql.value("select pgqueue._count_waiting('default')") == 1
        sql.rows("select pgqueue.maintain()")
        assert sql.value("select waiting from pgqueue.queue_counts") == 1

    def test_leftovers_go(self, sql: Sql, clock: Clock) -> None:
        lost, heard = sql.worker(), sql.worker(lease=3600)
        for worker in (lost, heard):
            sql.rows("select pgqueue.set_wait(%s, 'default', true)", worker)
        lease = start(sql)
        sql.rows("select pgqueue.update_progress(%s, 5)", lease.id)
        sql.rows("insert into pgqueue.task_progress (task_id, progress, updated_at) values (4711, 1, pgqueue._now())")
        hub = "00000000-0000-0000-0000-000000000001"
        sql.rows("select pgqueue.follow(%s, 'all', p_seconds => 30)", hub)
        clock.advance(61)
        sql.rows("select pgqueue.maintain()")
        assert sql.column("select worker_id from pgqueue.waits") == [heard]
        assert sql.column("select task_id from pgqueue.task_progress") == [lease.id]
        assert sql.rows("select * from pgqueue.listeners") == []


class TestCleanup:
    def test_what_finished_longer_ago_goes_with_its_attempts_and_logs(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        old, live = start(sql), start(sql)
        for lease in (old, live):
            sql.rows(
                "select pgqueue.write_logs(jsonb_build_array(jsonb_build_object("
                "'task_id', %s::bigint, 'attempt', 1, 'level', 'info', 'message', 'm')))",
                lease.id,
            )
        sql.finish([old])
        sql.finish([live], {"outcome": "released"})
        clock.advance(10)
        sql.submit(priority=99)
        [young] = sql.claim(sql.worker(), 1)
        sql.finish([young])
        clock.advance(5)
        assert sql.value("select pgqueue.cleanup('10 seconds')") == 1
        assert sql.column("select id from pgqueue.all_tasks order by 1") == [live.id, young.id]
        assert sql.column("select task_id from pgqueue.executions order by 1") == [live.id, young.id]
        assert sql.column("select task_id from pgqueue.task_logs") == [live.id]

    @pytest.mark.parametrize("age", ["-1 second", None])
    def test_an_age_is_not_negative(self, sql: Sql, age: str | None) -> None:
        sql.refuses("QU001", "select pgqueue.cleanup(%s)", age)


class TestViews:
    def test_queue_overview(self, sql: Sql, clock: Clock) -> None:
        start(sql)
        sql.submit()
        clock.advance(20)
        sql.submit()
        sql.rows("select pgqueue.create_queue('quiet', 9, 8)")
        sql.rows("select pgqueue.pause_queue('quiet', 'why')")
        first, second = sql.rows("select * from pgqueue.queue_overview")
        assert (first["name"], first["waiting"], first["running"], first["workers"]) == ("default", 2, 1, 1)
        assert first["oldest_wait"].total_seconds() == 20
        assert (second["name"], second["concurrency"], second["capacity"]) == ("quiet", 9, 8)
        assert (second["pause_reason"], second["oldest_wait"], second["running"]) == ("why", None, 0)

    def test_running_tasks(self, sql: Sql, clock: Clock) -> None:
        lease = start(sql, timeout=60)
        sql.finish([start(sql)])
        sql.rows("select pgqueue.update_progress(%s, 40, 'half way')", lease.id)
        clock.advance(7)
        row = sql.row("select * from pgqueue.running_tasks")
        assert (row["id"], row["attempt"], row["hostname"], row["pid"]) == (lease.id, 1, "here", 1)
        assert (row["progress"], row["message"], row["timeout"]) == (40, "half way", 60)
        assert row["running_for"].total_seconds() == 7

    def test_a_task_that_is_running_again_is_shown_once(self, sql: Sql) -> None:
        worker = sql.worker()
        sql.submit()
        sql.finish(sql.claim(worker), {"outcome": "released"})
        sql.claim(worker)
        assert len(sql.rows("select * from pgqueue.running_tasks")) == 1
        assert sql.row("select * from pgqueue.queue_overview")["running"] == 1
        assert sql.row("select * from pgqueue.worker_overview")["running"] == 1
        assert len(sql.rows("select * from pgqueue.list_tasks(p_status => 'running')")) == 1

    def test_failed_tasks_newest_first(self, sql: Sql, clock: Clock) -> None:
        ids = []
        for _ in range(2):
            lease = start(sql)
            ids.append(lease.id)
            clock.advance(1)
            sql.finish([lease], {"outcome": "failed", "permanent": True, "error_message": "no"})
        sql.finish([start(sql)])
        rows = sql.rows("select * from pgqueue.failed_tasks")
        assert [row["id"] for row in rows] == ids[::-1]
        assert {row["error"] for row in rows} == {"no"}

    @pytest.mark.usefixtures("clock")
    def test_retrying_tasks(self, sql: Sql) -> None:
        lease = start(sql)
        sql.submit()
        sql.finish([lease], {"outcome": "failed", "delay": 30})
        row = sql.row("select * from pgqueue.retrying_tasks")
        assert (row["id"], row["failures"], row["max_retries"]) == (lease.id, 1, 3)
        assert row["due_in"].total_seconds() == 30

    def test_stuck_tasks_say_why(self, sql: Sql, clock: Clock) -> None:
        def shown() -> dict[int, str]:
            return {row["id"]: row["reason"] for row in sql.rows("select * from pgqueue.stuck_tasks")}

        late = start(sql, timeout=10)
        sql.rows("update pgqueue.workers set lease = '1 day'")
        deaf = start(sql)
        sql.rows("update pgqueue.workers set lease = '1 day'")
        orphan = start(sql)
        sql.rows("select pgqueue.cancel_task(%s)", deaf.id)
        clock.advance(29)
        assert shown() == {}
        clock.advance(12)
        assert shown() == {
            late.id: "ran past its timeout",
            deaf.id: "its cancellation is not heeded",
            orphan.id: "its worker is not heard",
        }

    def test_worker_overview(self, sql: Sql, clock: Clock) -> None:
        lost, silent, stopping, alive = (sql.worker(lease=s) for s in (10, 20, 3600, 3600))
        sql.submit()
        sql.claim(alive)
        clock.advance(11)
        sql.rows("select * from pgqueue.rescue()")
        clock.advance(11)
        sql.rows("select pgqueue.request_stop(%s)", stopping)
        states = {row["id"]: row["state"] for row in sql.rows("select * from pgqueue.worker_overview")}
        assert states == {lost: "lost", silent: "silent", stopping: "stopping", alive: "alive"}
        assert sql.column("select running from pgqueue.worker_overview order by id") == [0, 0, 0, 1]

    def test_health_counts_what_is_in_the_way(self, sql: Sql, clock: Clock) -> None:
        row = sql.row("select * from pgqueue.health")
        assert (row["missing_partitions"], row["workers_alive"], row["workers_lost"], row["stuck_tasks"]) == (
            0,
            0,
            0,
            0,
        )
        sql.worker()
        quiet = sql.worker(lease=10)
        sql.submit()
        sql.claim(quiet)
        clock.advance(11)
        row = sql.row("select * from pgqueue.health")
        assert (row["workers_alive"], row["workers_lost"], row["stuck_tasks"]) == (1, 1, 1)
        clock.advance(13 * 86_400)
        assert sql.row("select * from pgqueue.health")["missing_partitions"] == 1

    def test_health_shows_the_oldest_transaction(self, sql: Sql, connect: Callable[[], Sql]) -> None:
        other = connect()
        other.rows("begin isolation level repeatable read")
        other.submit()
        row = sql.row("select * from pgqueue.health")
        age = sql.value("select pgqueue._now() - xact_start from pg_stat_activity where pid = %s", other.pid)
        assert row["oldest_transaction"] <= age
        assert row["oldest_snapshot_xids"] >= 1
        assert 0 <= row["notify_queue_usage"] < 1


class TestReads:
    def test_get_task_finds_live_and_finished(self, sql: Sql) -> None:
        lease = start(sql)
        assert sql.row("select status from pgqueue.get_task(%s)", lease.id) == {"status": "running"}
        sql.finish([lease])
        assert sql.row("select status from pgqueue.get_task(%s)", lease.id) == {"status": "completed"}
        sql.refuses("QU102", "select * from pgqueue.get_task(4711)")

    def test_list_tasks_newest_first_by_every_filter(self, sql: Sql, clock: Clock) -> None:
        clock.set("2030-01-01 12:00+00")
        sql.rows("select pgqueue.create_queue('other')")
        first = start(sql, user_id="u")
        sql.finish([first])
        clock.advance(60)
        second = sql.submit("b", project_id="p")
        third = sql.submit("c", queue_name="other")
        running = sql.claim(sql.worker(), 1)
        assert [lease.id for lease in running] == [second]

        def ids(**filters: object) -> list[int]:
            return [row["id"] for row in sql.call("list_tasks", **filters)]

        def count(**filters: object) -> int:
            return int(sql.call("count_tasks", **filters)[0]["total"])

        cases: list[tuple[dict[str, object], list[int]]] = [
            ({}, [third, second, first.id]),
            ({"queue_name": "other"}, [third]),
            ({"status": "completed"}, [first.id]),
            ({"status": "running"}, [second]),
            ({"status": "pending"}, [third]),
            ({"task_type": "b"}, [second]),
            ({"user_id": "u"}, [first.id]),
            ({"project_id": "p"}, [second]),
            ({"created_from": "2030-01-01 12:01+00"}, [third, second]),
            ({"created_to": "2030-01-01 12:01+00"}, [first.id]),
            ({"user_id": "u", "project_id": "p"}, []),
        ]
        for filters, expected in cases:
            assert ids(**filters) == expected, filters
            assert count(**filters) == len(expected), filters
        assert ids(limit=1, offset=1) == [second]
        assert ids(before_id=second) == [first.id]

    def test_a_count_stops_at_its_bound_and_says_so(self, sql: Sql) -> None:
        for _ in range(5):
            sql.submit()
        assert sql.call("count_tasks", most=3) == [{"total": 3, "is_capped": True}]
        assert sql.call("count_tasks", most=10) == [{"total": 5, "is_capped": False}]
        assert sql.call("count_tasks", most=5) == [{"total": 5, "is_capped": False}]

    @pytest.mark.parametrize("filters", [{"status": "done"}, {"limit": 0}, {"limit": -1}, {"offset": -1}])
    def test_filters_that_match_nothing_are_refused(self, sql: Sql, filters: dict[str, object]) -> None:
        [(name, value)] = filters.items()
        sql.refuses("QU001", f"select * from pgqueue.list_tasks(p_{name} => %s)", value)
