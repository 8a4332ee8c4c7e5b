"""Schedules: what is due is proposed, and decided once, by the policy of the schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from psycopg.types.json import Jsonb

from pgqueue.models import DueSchedule
from pgqueue.scheduler import plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sql.conftest import Background, Clock, Sql

START = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def at(minutes: float) -> datetime:
    return START + minutes * MINUTE


class Schedules:
    """A session that makes schedules, moves the clock, and is a scheduler when it is asked."""

    def __init__(self, sql: Sql, clock: Clock) -> None:
        self.sql = sql
        self.clock = clock
        clock.set(START.isoformat())

    def create(self, cron_expr: str = "* * * * *", name: str = "s", **options: object) -> None:
        self.sql.call("create_schedule", name=name, task_type="t", cron_expr=cron_expr, **options)
        self.pass_once()

    def proposals(self, sql: Sql | None = None) -> list[dict[str, Any]]:
        return [plan(DueSchedule(**row)) for row in (sql or self.sql).rows("select * from pgqueue.due_schedules(100)")]

    def fire(self, plans: list[dict[str, Any]], sql: Sql | None = None) -> int:
        fired: int = (sql or self.sql).value("select pgqueue.fire_schedules(%s)", msgspec.json.encode(plans).decode())
        return fired

    def pass_once(self) -> int:
        """What a scheduler does until nothing is due."""
        self.sql.value("select pgqueue.release_ticks()")
        fired = 0
        while plans := self.proposals():
            fired += self.fire(plans)
        return fired

    def go(self, minutes: float) -> int:
        """Put the clock so many minutes after the start, with a scheduler at hand; return what it fired."""
        self.clock.set(at(minutes).isoformat())
        return self.pass_once()

    def fired(self, name: str = "s") -> list[float]:
        """The ticks that were fired, in minutes after the start."""
        return self.ticks("fired", name)

    def ticks(self, state: str, name: str = "s") -> list[float]:
        found = self.sql.column(
            "select k.tick from pgqueue.schedule_ticks k join pgqueue.schedules s on s.id = k.schedule_id"
            " where s.name = %s and k.state = %s order by 1",
            name,
            state,
        )
        return [(tick - START) / MINUTE for tick in found]

    def row(self, name: str = "s") -> dict[str, Any]:
        return self.sql.row("select * from pgqueue.schedules where name = %s", name)

    def end(self, task_id: int) -> None:
        """Run a task to its end."""
        worker = self.sql.worker()
        [lease] = [each for each in self.sql.claim(worker, 1000) if each.id == task_id]
        assert self.sql.finish([lease]) == []


@pytest.fixture
def schedules(sql: Sql, clock: Clock) -> Schedules:
    return Schedules(sql, clock)


class TestTicks:
    def test_each_tick_submits_a_task_with_what_the_schedule_says(self, schedules: Schedules, sql: Sql) -> None:
        sql.value("select pgqueue.create_queue('q')")
        schedules.create(
            payload=Jsonb({"a": 1}),
            queue_name="q",
            priority=10,
            max_retries=7,
            timeout=30,
            user_id="u",
            project_id="p",
            metadata=Jsonb({"m": 2}),
        )
        assert schedules.go(1.01) == 1
        row = schedules.row()
        task = sql.task(row["last_task_id"])
        expected = {"task_type": "t", "queue_name": "q", "priority": 10, "payload": {"a": 1}, "max_retries": 7,
                    "timeout": 30, "user_id": "u", "project_id": "p", "status": "pending"}  # fmt: skip
        assert {name: task[name] for name in expected} == expected
        assert task["metadata"] == {"m": 2, "schedule": "s", "tick": "2026-05-04T12:01:00Z"}
        assert (row["last_run_at"], row["next_run_at"], row["run_count"]) == (at(1), at(2), 1)

    def test_a_tick_is_fired_once_however_often_it_is_proposed(self, schedules: Schedules) -> None:
        schedules.create()
        schedules.clock.set(at(1).isoformat())
        plans = schedules.proposals()
        assert schedules.fire(plans) == 1
        assert schedules.fire(plans) == 0
        assert schedules.fired() == [1]

    def test_two_schedulers_share_what_is_due(
        self, schedules: Schedules, connect: Callable[[], Sql], background: Callable[..., Background]
    ) -> None:
        for number in range(4):
            schedules.create(name=f"s{number}")
        schedules.clock.set(at(1).isoformat())
        first, second = connect(), connect()
        with first.conn.transaction():
            taken = first.rows("select * from pgqueue.due_schedules(3)")
            assert len(taken) == 3
            rest = background(second, lambda session: session.rows("select * from pgqueue.due_schedules(100)"))
            assert {row["id"] for row in rest.result()} == {4}
            schedules.fire([plan(DueSchedule(**row)) for row in taken], first)

    def test_a_schedule_that_was_changed_meanwhile_is_planned_anew(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        schedules.clock.set(at(1).isoformat())
        plans = schedules.proposals()
        sql.value("select pgqueue.update_schedule('s', '{\"cron_expr\": \"30 * * * *\"}')")
        assert schedules.fire(plans) == 0
        schedules.pass_once()
        assert (schedules.fired(), schedules.row()["next_run_at"]) == ([], at(30))

    def test_an_update_waits_for_a_firing_and_nothing_is_fired_twice(
        self, schedules: Schedules, sql: Sql, connect: Callable[[], Sql], background: Callable[..., Background]
    ) -> None:
        schedules.create()
        schedules.clock.set(at(1).isoformat())
        scheduler = connect()
        with scheduler.conn.transaction():
            plans = schedules.proposals(scheduler)
            update = background(
                connect(), lambda session: session.value("select pgqueue.update_schedule('s', '{\"payload\": 7}')")
            )
            assert update.waits_for() == {scheduler.pid}
            assert schedules.fire(plans, scheduler) == 1
        update.result()
        assert schedules.go(2) == 1
        assert schedules.fired() == [1, 2]
        assert sql.column("select payload from pgqueue.tasks order by id") == [{}, 7]

    def test_a_plan_for_a_moment_to_come_is_not_heeded(self, schedules: Schedules) -> None:
        schedules.create()
        schedules.clock.set(at(1).isoformat())
        plans = schedules.proposals()
        schedules.clock.set(at(0.5).isoformat())
        assert schedules.fire(plans) == 0
        assert schedules.go(1) == 1

    def test_jitter_moves_the_task_not_the_tick(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(jitter=3600)
        schedules.go(1)
        schedules.go(2)
        first, second = sql.column("select run_at from pgqueue.tasks order by id")
        assert schedules.fired() == [1, 2]
        assert at(1) <= first < at(61)
        assert at(2) <= second < at(62)
        assert second - first != MINUTE

    def test_start_end_and_most_runs_bound_it(self, schedules: Schedules) -> None:
        schedules.create(starts_at=at(3), ends_at=at(5), name="between")
        schedules.create(max_runs=2, name="twice")
        for minute in range(1, 9):
            schedules.go(minute)
        assert schedules.fired("between") == [3, 4, 5]
        assert schedules.fired("twice") == [1, 2]
        assert schedules.sql.column("select state from pgqueue.schedule_overview") == ["ended", "ended"]


class TestMissed:
    @pytest.mark.parametrize(
        ("missed", "fired"), [("skip", [1, 60]), ("once", [1, 60]), ("all", [1, *range(51, 61)])]
    )  # fmt: skip
    def test_after_a_pause_with_a_tick_due_now(self, schedules: Schedules, missed: str, fired: list[float]) -> None:
        schedules.create(missed=missed, catch_up_window=570)
        schedules.go(1)
        schedules.go(60.2)
        assert schedules.fired() == fired

    @pytest.mark.parametrize(("missed", "fired"), [("skip", []), ("once", [30]), ("all", [10, 20, 30])])
    def test_after_a_pause_with_nothing_due_now(self, schedules: Schedules, missed: str, fired: list[float]) -> None:
        schedules.create("*/10 * * * *", missed=missed, catch_up_window=1800)
        schedules.go(35)
        assert schedules.fired() == fired
        assert schedules.row()["next_run_at"] == at(40)
        kinds = set(schedules.sql.column("select kind from pgqueue.schedule_ticks where state = 'fired'"))
        assert kinds <= {"catch_up"}

    @pytest.mark.parametrize("missed", ["skip", "once", "all"])
    def test_what_is_older_than_the_window_is_skipped(self, schedules: Schedules, missed: str) -> None:
        schedules.create("0 * * * *", missed=missed, catch_up_window=600)
        schedules.go(5 * 60 + 30)
        assert schedules.fired() == []
        [skipped] = schedules.sql.rows("select * from pgqueue.schedule_ticks")
        assert (skipped["state"], skipped["tick"], skipped["until"]) == ("skipped", at(60), at(330))
        assert "missed" in skipped["reason"]

    def test_a_tick_within_a_minute_is_not_missed(self, schedules: Schedules) -> None:
        schedules.create("* * * * * */20", missed="skip")
        schedules.go(0.9)
        assert schedules.fired() == [1 / 3, 2 / 3]

    def test_thousands_of_missed_ticks_are_all_caught_up(self, schedules: Schedules) -> None:
        schedules.create("* * * * * *", missed="all")
        assert schedules.go(25) == 1500
        assert schedules.row()["next_run_at"] == at(25) + timedelta(seconds=1)

    def test_one_that_was_never_planned_misses_from_its_making_on(self, schedules: Schedules) -> None:
        schedules.sql.rows(
            "insert into pgqueue.schedules (name, task_type, cron_expr) values ('s', 't', '*/5 * * * *')"
        )
        schedules.go(12)
        assert schedules.fired() == [10]


class TestOverlap:
    def test_allow_starts_another(self, schedules: Schedules) -> None:
        schedules.create(overlap="allow")
        schedules.go(1)
        schedules.go(2)
        assert schedules.fired() == [1, 2]

    def test_skip_passes_over_while_an_earlier_one_is_live(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(overlap="skip")
        schedules.go(1)
        task_id = schedules.row()["last_task_id"]
        schedules.go(2)
        assert (schedules.fired(), schedules.ticks("skipped")) == ([1], [2])
        assert sql.value("select reason from pgqueue.schedule_ticks where state = 'skipped'") == (
            f"task {task_id} of an earlier tick was live"
        )
        schedules.end(task_id)
        schedules.go(3)
        assert schedules.fired() == [1, 3]

    def test_queue_runs_one_after_the_other_in_their_order(self, schedules: Schedules) -> None:
        schedules.create(overlap="queue")
        for minute in (1, 2, 3):
            schedules.go(minute)
        assert (schedules.fired(), schedules.ticks("queued")) == ([1], [2, 3])
        for expected in ([1, 2], [1, 2, 3]):
            schedules.end(schedules.row()["last_task_id"])
            schedules.pass_once()
            assert schedules.fired() == expected
        schedules.go(4)
        assert schedules.ticks("queued") == [4]

    def test_a_new_tick_waits_behind_those_that_wait(self, schedules: Schedules) -> None:
        schedules.create(overlap="queue")
        schedules.go(1)
        schedules.go(2)
        schedules.end(schedules.row()["last_task_id"])
        schedules.clock.set(at(3).isoformat())
        schedules.fire(schedules.proposals())
        assert (schedules.fired(), schedules.ticks("queued")) == ([1], [2, 3])

    def test_cancel_previous_ends_a_waiting_task_and_runs(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(overlap="cancel_previous")
        schedules.go(1)
        first = schedules.row()["last_task_id"]
        schedules.go(2)
        assert schedules.fired() == [1, 2]
        assert sql.status(first) == "cancelled"
        assert "later tick" in sql.task(first)["error"]

    def test_cancel_previous_waits_for_a_running_task_to_heed_it(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(overlap="cancel_previous")
        schedules.go(1)
        first = schedules.row()["last_task_id"]
        [lease] = sql.claim(sql.worker())
        schedules.go(2)
        schedules.go(3)
        assert (schedules.fired(), schedules.ticks("queued"), schedules.ticks("skipped")) == ([1], [3], [2])
        assert sql.task(first)["cancel_requested_at"] is not None
        sql.finish([lease], {"outcome": "cancelled"})
        schedules.pass_once()
        assert schedules.fired() == [1, 3]

    def test_no_more_than_a_thousand_ticks_wait(self, schedules: Schedules) -> None:
        schedules.create("* * * * * *", overlap="queue", missed="all")
        schedules.go(20)
        assert len(schedules.ticks("queued")) == 1000
        assert len(schedules.ticks("skipped")) == 199

    def test_a_full_queue_skips_the_tick_and_says_so(self, schedules: Schedules, sql: Sql) -> None:
        sql.call("create_queue", name="small", capacity=1)
        schedules.create(queue_name="small")
        schedules.go(1)
        schedules.go(2)
        assert (schedules.fired(), schedules.ticks("skipped")) == ([1], [2])
        assert (
            sql.value("select reason from pgqueue.schedule_ticks where state = 'skipped'") == "queue 'small' was full"
        )


class TestPause:
    def test_nothing_is_fired_until_it_is_resumed_and_the_pause_is_on_record(
        self, schedules: Schedules, sql: Sql
    ) -> None:
        schedules.create()
        schedules.go(1)
        sql.value("select pgqueue.pause_schedule('s', 'holiday')")
        schedules.go(10.5)
        assert sql.row("select state, reason from pgqueue.schedule_overview") == {
            "state": "paused",
            "reason": "holiday",
        }
        sql.value("select pgqueue.resume_schedule('s')")
        schedules.pass_once()
        schedules.go(11)
        assert schedules.fired() == [1, 11]
        [skipped] = sql.rows("select * from pgqueue.schedule_ticks where state = 'skipped'")
        assert (skipped["tick"], skipped["until"], skipped["reason"]) == (at(2), at(10.5), "paused: holiday")

    def test_what_a_change_during_the_pause_finds_skipped_is_on_record_too(
        self, schedules: Schedules, sql: Sql
    ) -> None:
        schedules.create()
        schedules.go(1)
        sql.value("select pgqueue.pause_schedule('s', 'holiday')")
        schedules.go(10.5)
        sql.value("""select pgqueue.update_schedule('s', '{"cron_expr": "*/5 * * * *"}')""")
        schedules.go(22)
        sql.value("select pgqueue.resume_schedule('s')")
        schedules.pass_once()
        schedules.go(25)
        assert schedules.fired() == [1, 25]
        skipped = sql.rows("select * from pgqueue.schedule_ticks where state = 'skipped' order by tick")
        assert [(row["tick"], row["until"]) for row in skipped] == [(at(2), at(10.5)), (at(15), at(22))]
        assert {row["reason"] for row in skipped} == {"paused: holiday"}

    def test_a_late_plan_of_a_paused_schedule_starts_where_it_was_made(self, schedules: Schedules, sql: Sql) -> None:
        sql.call("create_schedule", name="s", task_type="t", cron_expr="* * * * *", is_active=False)
        schedules.go(5)
        assert (schedules.row()["next_run_at"], schedules.ticks("skipped")) == (at(1), [])
        sql.value("select pgqueue.resume_schedule('s')")
        schedules.go(6)
        [skipped] = sql.rows("select * from pgqueue.schedule_ticks where state = 'skipped'")
        assert (skipped["tick"], skipped["until"], schedules.fired()) == (at(1), at(5), [6])

    def test_a_plan_that_fires_is_refused_while_it_is_paused(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        sql.value("select pgqueue.pause_schedule('s')")
        schedules.clock.set(at(3).isoformat())
        row = schedules.row()
        proposal = {"id": row["id"], "revision": row["revision"], "next_run_at": row["next_run_at"].isoformat()}
        assert schedules.fire([proposal | {"ticks": [at(1).isoformat()], "next": at(4).isoformat()}]) == 0
        assert (schedules.fired(), schedules.row()["next_run_at"]) == ([], at(1))

    def test_a_bad_expression_is_marked_while_it_is_paused(self, schedules: Schedules, sql: Sql) -> None:
        sql.rows(
            "insert into pgqueue.schedules (name, task_type, cron_expr, is_active) values ('s', 't', 'nonsense', false)"
        )
        schedules.pass_once()
        assert "cannot be read" in schedules.row()["error"]
        assert sql.value("select due_in from pgqueue.schedules_due_in()") is None

    def test_pausing_twice_keeps_the_first_moment(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        sql.value("select pgqueue.pause_schedule('s', 'one')")
        schedules.go(5)
        sql.value("select pgqueue.pause_schedule('s')")
        assert (schedules.row()["paused_at"], schedules.row()["pause_reason"]) == (START, "one")

    def test_it_can_be_made_paused(self, schedules: Schedules) -> None:
        schedules.create(is_active=False)
        schedules.go(5)
        assert schedules.fired() == []


class TestByHand:
    def test_run_now_ignores_pause_and_overlap(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(overlap="skip", max_runs=1)
        schedules.go(1)
        sql.value("select pgqueue.pause_schedule('s')")
        ids = {sql.value("select pgqueue.run_schedule_now('s')") for _ in range(3)}
        assert len(ids) == 3
        assert schedules.row()["run_count"] == 1
        assert sql.column("select kind from pgqueue.schedule_ticks order by tick") == ["scheduled", *["manual"] * 3]

    def test_a_backfill_fires_what_was_not_and_says_of_each_what_became_of_it(
        self, schedules: Schedules, sql: Sql
    ) -> None:
        schedules.create(missed="skip")
        schedules.go(1)
        schedules.go(5)
        ticks = [at(minute) for minute in (1, 2, 3)]
        states = sql.column("select state from pgqueue.backfill_schedule('s', %s)", ticks)
        assert states == ["known", "fired", "fired"]
        assert sql.column("select state from pgqueue.backfill_schedule('s', %s)", ticks) == ["known"] * 3
        assert schedules.fired() == [1, 2, 3, 5]
        assert schedules.row()["last_run_at"] == at(5)

    @pytest.mark.parametrize(("begin", "following"), [(2, 5), (2, None), (4, 6), (4, None), (7, 10)])
    def test_a_backfill_takes_its_ticks_out_of_a_run_that_was_skipped(
        self, schedules: Schedules, sql: Sql, begin: int, following: int | None
    ) -> None:
        schedules.create(missed="skip")
        schedules.go(1)
        schedules.go(12)
        assert schedules.ticks("skipped") == [2]
        end = following or begin + 3
        ticks = [at(minute) for minute in range(begin, end)]
        known = sql.column(
            "select state from pgqueue.backfill_schedule('s', %s, %s)", ticks, following and at(following)
        )
        assert known == ["fired"] * len(ticks)
        left = sql.rows("select tick, until from pgqueue.schedule_ticks where state = 'skipped' order by tick")
        covered = {minute for minute in range(13) if any(row["tick"] <= at(minute) < row["until"] for row in left)}
        assert covered == set(range(2, 12)) - set(range(begin, end))

    def test_a_dry_run_says_what_is_due_and_changes_nothing(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(missed="skip")
        schedules.go(1)
        schedules.go(5)
        before = sql.rows("select * from pgqueue.schedule_ticks order by tick")
        ticks = [at(minute) for minute in (1, 2, 3)]
        rows = sql.rows("select * from pgqueue.backfill_schedule('s', %s, %s, true)", ticks, at(4))
        assert [row["state"] for row in rows] == ["known", "due", "due"]
        assert sql.rows("select * from pgqueue.schedule_ticks order by tick") == before

    @pytest.mark.parametrize("overlap", ["skip", "queue", "cancel_previous"])
    def test_a_backfill_waits_where_others_would_be_skipped_or_cancel(
        self, schedules: Schedules, sql: Sql, overlap: str
    ) -> None:
        schedules.create("0 0 1 1 *", overlap=overlap)
        ticks = [at(minute) for minute in (-3, -2, -1)]
        assert sql.column("select state from pgqueue.backfill_schedule('s', %s)", ticks) == [
            "fired",
            "queued",
            "queued",
        ]
        for count in (2, 3):
            schedules.end(schedules.sql.value("select max(task_id) from pgqueue.schedule_ticks"))
            schedules.pass_once()
            assert len(schedules.fired()) == count

    def test_what_is_to_come_cannot_be_filled_in(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        sql.refuses("QU001", "select * from pgqueue.backfill_schedule('s', %s)", [at(1)])


class TestByPsql:
    def test_a_bad_row_is_marked_and_does_not_stop_the_others(self, schedules: Schedules, sql: Sql) -> None:
        sql.rows(
            "insert into pgqueue.schedules (name, task_type, cron_expr, time_zone) values"
            " ('nonsense', 't', 'every day', 'UTC'), ('never', 't', '0 0 31 2 *', 'UTC'),"
            " ('nowhere', 't', '* * * * *', 'Mars/Phobos'), ('good/✓ 名', 't', '* * * * *', 'UTC')"
        )
        schedules.go(1)
        errors = {row["name"]: row["error"] for row in sql.rows("select name, error from pgqueue.schedules")}
        assert errors["good/✓ 名"] is None
        assert "cannot be read: it has 2 fields" in errors["nonsense"]
        assert "no moment that ever comes" in errors["never"]
        assert "no time zone 'Mars/Phobos'" in errors["nowhere"]
        assert schedules.fired("good/✓ 名") == [1]
        sql.rows("update pgqueue.schedules set cron_expr = '* * * * *' where name = 'nonsense'")
        schedules.go(2)
        assert (schedules.fired("nonsense"), schedules.row("nonsense")["error"]) == ([2], None)

    def test_any_change_lets_a_marked_row_be_tried_again(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        sql.rows("update pgqueue.schedules set error = 'it could not be fired', next_run_at = null")
        schedules.go(5)
        assert schedules.fired() == []
        sql.value("select pgqueue.update_schedule('s', '{\"payload\": 1}')")
        schedules.go(6)
        assert (schedules.fired(), schedules.row()["error"]) == ([6], None)

    def test_a_change_wakes_the_schedulers_and_a_firing_does_not(self, schedules: Schedules, sql: Sql) -> None:
        sql.rows("listen pgqueue_control")
        schedules.create()
        assert ("pgqueue_control", '{"kind": "schedules"}') in sql.notifications()
        schedules.go(1)
        assert sql.notifications() == []

    @pytest.mark.parametrize(
        ("sqlstate", "columns"),
        [
            ("QU101", {"queue_name": "nowhere"}),
            ("23514", {"name": ""}),
            ("23514", {"name": "x" * 201}),
            ("23514", {"name": "a\nb"}),
            ("23514", {"cron_expr": ""}),
            ("23514", {"missed": "maybe"}),
            ("23514", {"overlap": "x"}),
            ("23514", {"catch_up_window": -1}),
            ("23514", {"jitter": -1}),
            ("23514", {"max_runs": 0}),
            ("23514", {"timeout": -5}),
            ("23514", {"metadata": Jsonb([1])}),
            ("23514", {"payload": Jsonb("x" * 1_100_000)}),
            ("23514", {"starts_at": "2026-02-01", "ends_at": "2026-01-01"}),
        ],
    )
    def test_a_row_that_makes_no_sense_is_refused(self, sql: Sql, sqlstate: str, columns: dict[str, object]) -> None:
        row = {"name": "n", "task_type": "t", "cron_expr": "* * * * *"} | columns
        places = ", ".join(["%s"] * len(row))
        sql.refuses(
            sqlstate, f"insert into pgqueue.schedules ({', '.join(row)}) values ({places})", *row.values()
        )  # fmt: skip

    def test_names_are_unique_and_the_conflict_is_for_the_caller_to_settle(
        self, schedules: Schedules, sql: Sql
    ) -> None:
        schedules.create()
        sql.refuses("QU202", "select pgqueue.create_schedule('s', 't', '@daily')")
        same = sql.value("select pgqueue.create_schedule('s', 't', '@daily', p_on_conflict => 'return')")
        assert (same, schedules.row()["cron_expr"]) == (1, "* * * * *")
        sql.value("select pgqueue.create_schedule('s', 'u', '@daily', p_on_conflict => 'replace')")
        schedules.pass_once()
        assert (schedules.row()["task_type"], schedules.row()["next_run_at"]) == ("u", at(12 * 60))

    def test_replacing_by_the_same_keeps_what_is_planned(self, schedules: Schedules) -> None:
        schedules.create()
        schedules.clock.set(at(0.5).isoformat())
        schedules.sql.value("select pgqueue.create_schedule('s', 't', '* * * * *', p_on_conflict => 'replace')")
        assert schedules.row()["next_run_at"] == at(1)

    def test_unknown_names_and_fields_are_refused(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        for call in ("pause_schedule('x')", "resume_schedule('x')", "delete_schedule('x')", "run_schedule_now('x')",
                     "get_schedule('x')", "get_schedule_ticks('x')", "backfill_schedule('x', '{}')",
                     "update_schedule('x', '{}')"):  # fmt: skip
            sql.refuses("QU103", f"select pgqueue.{call}")
        for changes in ('{"is_active": false}', '{"next_run_at": null}', '{"x": 1}', "[]", "null"):
            sql.refuses("QU001", "select pgqueue.update_schedule('s', %s)", changes)

    def test_a_payload_may_be_null(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create(payload=Jsonb({"a": 1}))
        sql.value("select pgqueue.update_schedule('s', '{\"priority\": 7}')")
        assert sql.column("select payload from pgqueue.schedules") == [{"a": 1}]
        sql.value("select pgqueue.update_schedule('s', '{\"payload\": null}')")
        assert sql.column("select payload::text from pgqueue.schedules") == ["null"]

    def test_a_queue_that_schedules_submit_to_is_not_deleted(self, schedules: Schedules, sql: Sql) -> None:
        sql.call("create_queue", name="q")
        schedules.create(queue_name="q")
        error = sql.refuses("QU201", "select pgqueue.delete_queue('q')")
        assert "schedules submit" in str(error)
        sql.value("select pgqueue.delete_schedule('s')")
        sql.value("select pgqueue.delete_queue('q')")


class TestKeeping:
    def test_history_goes_after_thirty_days_and_what_waits_stays(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create("0 * * * *", overlap="queue")
        schedules.go(60)
        schedules.go(120)
        schedules.clock.advance(31 * 86_400)
        sql.value("select pgqueue.maintain()")
        assert (schedules.fired(), schedules.ticks("queued")) == ([], [120])

    def test_deleting_a_schedule_leaves_its_tasks(self, schedules: Schedules, sql: Sql) -> None:
        schedules.create()
        schedules.go(1)
        sql.value("select pgqueue.delete_schedule('s')")
        assert sql.value("select count(*) from pgqueue.tasks") == 1
        assert sql.value("select count(*) from pgqueue.schedule_ticks") == 0

    def test_a_hundred_thousand_are_watched_by_index(self, sql: Sql) -> None:
        sql.rows(
            "insert into pgqueue.schedules (name, task_type, cron_expr)"
            " select 's' || n, 't', '@daily' from generate_series(1, 100000) n"
        )
        sql.rows("update pgqueue.schedules set planned_at = now(), next_run_at = now() + id * interval '1 second'")
        sql.rows("vacuum analyze pgqueue.schedules")
        schedule = "from pgqueue.schedules s where s.is_active and s.planned_at"
        for query in (
            f"select s.next_run_at {schedule} is not null and s.next_run_at is not null order by s.next_run_at limit 1",
            f"select s.id {schedule} is not null and s.next_run_at <= now() order by s.next_run_at limit 100",
            f"select s.id {schedule} is null order by s.id limit 100",
        ):
            [explained] = sql.column(f"explain (analyze, buffers, format json) {query}")
            found = explained[0]["Plan"]
            assert found["Shared Hit Blocks"] + found["Shared Read Blocks"] < 10, explained
