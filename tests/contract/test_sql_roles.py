"""Who may do what: every role against every statement, and nothing for PUBLIC."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

DENIED = "42501"
ROLES = {"s": "pgqueue_submitter", "w": "pgqueue_worker", "r": "pgqueue_reader", "a": "pgqueue_admin"}
HUB = "'00000000-0000-0000-0000-000000000001'"

# Statement: the roles that may run it (s submitter, w worker, r reader, a admin). 1 is a running task, 2 a pending one.
MATRIX = {
    "insert into pgqueue.tasks (task_type) values ('a')": "swa",
    "insert into pgqueue.tasks (task_type, payload) values ('a', '{}') returning id": "swa",
    "insert into pgqueue.tasks (task_type, unique_key) values ('a', 'k') on conflict do nothing": "swa",
    "insert into pgqueue.tasks (task_type) values ('a') returning payload": "wa",
    "insert into pgqueue.tasks (task_type, status) values ('a', 'pending')": "",
    "insert into pgqueue.tasks (task_type, attempt) values ('a', 7)": "",
    "insert into pgqueue.tasks (task_type, worker_id) values ('a', 1)": "",
    "select pgqueue.submit('a', '{}')": "swa",
    "select * from pgqueue.submit_task('a')": "swa",
    "select * from pgqueue.submit_or_get('a', p_unique_key => 'k')": "swa",
    'select * from pgqueue.submit_many(\'[{"task_type": "a"}]\')': "swa",
    "select id from pgqueue.tasks": "swra",
    "select payload from pgqueue.tasks": "wra",
    "select status from pgqueue.tasks where id = 2": "wra",
    "select * from pgqueue.all_tasks": "wra",
    "select result from pgqueue.finished_tasks": "wra",
    "select * from pgqueue.executions": "wra",
    "select * from pgqueue.task_logs": "wra",
    "select * from pgqueue.task_progress": "wra",
    "select * from pgqueue.queues": "wra",
    "select * from pgqueue.workers": "wra",
    "select * from pgqueue.claims": "wra",
    "select * from pgqueue.queue_overview": "wra",
    "select * from pgqueue.running_tasks": "wra",
    "select * from pgqueue.failed_tasks": "wra",
    "select * from pgqueue.retrying_tasks": "wra",
    "select * from pgqueue.stuck_tasks": "wra",
    "select * from pgqueue.worker_overview": "wra",
    "select * from pgqueue.health": "wra",
    "select * from pgqueue.get_progress(1)": "swra",
    "select * from pgqueue.get_task(1)": "wra",
    "select * from pgqueue.get_executions(1)": "wra",
    "select * from pgqueue.get_logs(1)": "wra",
    "select * from pgqueue.list_tasks()": "wra",
    "select * from pgqueue.count_tasks()": "wra",
    "select * from pgqueue.get_retryable_tasks()": "wra",
    "select * from pgqueue.queue_stats('default')": "wra",
    "select * from pgqueue.task_statistics(now(), now())": "wra",
    "select * from pgqueue.task_series(now(), now(), 'hour')": "wra",
    "select pgqueue.list_cursor()": "wra",
    "select pgqueue.list_cursor_in('{default}')": "wra",
    "select pgqueue.why_waiting(2)": "wra",
    f"select pgqueue.follow({HUB}, 'task', 1)": "wra",
    f"select pgqueue.keep_following({HUB})": "wra",
    f"select pgqueue.unfollow({HUB})": "wra",
    "select pgqueue.is_clear(pgqueue.fence())": "wra",
    "select * from pgqueue.idle('default', '1')": "wra",
    "select pgqueue.register_worker('h', 1, '{default}')": "wa",
    "select * from pgqueue.heartbeat(1)": "wa",
    "select pgqueue.stop_worker(1)": "wa",
    "select * from pgqueue.rescue()": "wa",
    "select pgqueue.maintain()": "wa",
    "select pgqueue._fold_statistics()": "wa",
    "select * from pgqueue._partitions_before(now())": "wa",
    "select pgqueue._drop_days('{finished_tasks_20200101}')": "wa",
    "select * from pgqueue.begin_retention('1 day', '1 day', '1 day')": "wa",
    "select pgqueue.end_retention(now())": "wa",
    "select * from pgqueue.expire('2020-01-01', 0, '1 day', '1 day', '1 day')": "wa",
    "select pgqueue.set_wait(1, 'default', true)": "wa",
    "select pgqueue.hand_over('default')": "wa",
    "select * from pgqueue.claim(1, 'default', 1, 2)": "wa",
    "select pgqueue.finish('{1}', '{1}')": "wa",
    "select pgqueue.finish('{1}', '{1}', null, null, array['{\"outcome\": \"failed\"}'::jsonb])": "wa",
    "select pgqueue.update_progress(1, 5)": "wa",
    'select pgqueue.report_progress(\'[{"task_id": 1, "attempt": 1, "progress": 3}]\')': "wa",
    "select pgqueue.set_task_result(1, '1')": "wa",
    'select pgqueue.write_logs(\'[{"task_id": 1, "attempt": 1, "level": "info", "message": "m"}]\')': "wa",
    "select pgqueue.create_queue('q')": "wa",
    "insert into pgqueue.schedules (name, task_type, cron_expr) values ('n', 'a', '* * * * *')": "a",
    "insert into pgqueue.schedules (name, task_type, cron_expr, revision) values ('n', 'a', '* * * * *', 3)": "",
    "update pgqueue.schedules set cron_expr = '@daily'": "a",
    "update pgqueue.schedules set next_run_at = now()": "",
    "delete from pgqueue.schedules": "a",
    "select * from pgqueue.schedules": "wra",
    "select * from pgqueue.schedule_ticks": "wra",
    "insert into pgqueue.schedule_ticks (schedule_id, tick, state, decided_at) values (1, now(), 'queued', now())": "",
    "delete from pgqueue.schedule_ticks": "",
    "select * from pgqueue.schedule_overview": "wra",
    "select * from pgqueue.get_schedule('n')": "wra",
    "select * from pgqueue.list_schedules()": "wra",
    "select * from pgqueue.get_schedule_ticks('n')": "wra",
    "select * from pgqueue.scheduler_stats()": "wra",
    "select * from pgqueue.schedules_due_in()": "wra",
    "select * from pgqueue.due_schedules()": "wa",
    "select pgqueue.fire_schedules('[]')": "wa",
    "select pgqueue.release_ticks()": "wa",
    "select pgqueue._skip_tick(1, now(), 'x')": "",
    "select pgqueue.create_schedule('n', 'a', '* * * * *')": "a",
    "select pgqueue.update_schedule('n', '{}')": "a",
    "select pgqueue.pause_schedule('n')": "a",
    "select pgqueue.resume_schedule('n')": "a",
    "select pgqueue.delete_schedule('n')": "a",
    "select pgqueue.run_schedule_now('n')": "a",
    "select * from pgqueue.backfill_schedule('n', '{}')": "a",
    "select * from pgqueue.operations": "wra",
    "insert into pgqueue.operations (kind, filter, until_id, requested_by, created_at, updated_at) "
    "values ('retry', '{}', 1, 'x', now(), now())": "",
    "select * from pgqueue.preview_operation('retry', '{\"all\": true}')": "wra",
    "select * from pgqueue.list_operations()": "wra",
    "select * from pgqueue.step_abandoned()": "wa",
    "select pgqueue.start_operation('retry', '{\"all\": true}')": "a",
    "select * from pgqueue.step_operation(1)": "a",
    "select pgqueue.cancel_operation(1)": "a",
    "select pgqueue._retry_some('{1}')": "",
    "select pgqueue.cancel_task(1)": "a",
    "select pgqueue.cancel_task(2)": "a",
    "select pgqueue.retry_task(2)": "a",
    "select pgqueue.pause_queue('default')": "a",
    "select pgqueue.resume_queue('default')": "a",
    "select pgqueue.delete_queue('default')": "a",
    "select pgqueue.request_stop(1)": "a",
    "select pgqueue.delete_task(1)": "a",
    "select pgqueue.pause_worker(1)": "a",
    "select pgqueue.resume_worker(1)": "a",
    "select pgqueue.cleanup('1 day')": "a",
    "select pgqueue.task_queue(1)": "wra",
    "select * from pgqueue.list_tasks_in('{default}')": "wra",
    "select * from pgqueue.count_tasks_in('{default}')": "wra",
    "select pgqueue.create_api_key('k', '0123456789ab', sha256('k'), '{read}')": "a",
    "select pgqueue.revoke_api_key('k')": "a",
    "select * from pgqueue.list_api_keys()": "a",
    "select pgqueue.has_api_keys()": "a",
    "select * from pgqueue.authenticate(null, null, 'read', true)": "a",
    "select * from pgqueue.authenticate_session('0', 0, '', 'read')": "a",
    "select * from pgqueue.search_tasks()": "wra",
    "select * from pgqueue.ended_by_type(now() - interval '1 day', now())": "wra",
    "select * from pgqueue.relation_sizes()": "wra",
    "select * from pgqueue.server_facts()": "wra",
    "select pgqueue.audit('task.cancel', '1')": "a",
    "select * from pgqueue.list_audit()": "a",
    "select * from pgqueue.begin_idempotent(0, 'k', sha256('k'))": "a",
    "select pgqueue.keep_answer(0, 'k', 201, null, '{}')": "a",
    "select pgqueue.forget_access()": "a",
    "select pgqueue.metrics()": "a",
    "select * from pgqueue.api_keys": "",
    "select secret_hash from pgqueue.api_keys": "",
    "select * from pgqueue.idempotency_keys": "",
    "select * from pgqueue.audit_log": "",
    "insert into pgqueue.audit_log (actor, action, outcome) values ('me', 'x', 'done')": "",
    "delete from pgqueue.audit_log": "",
    "update pgqueue.api_keys set revoked_at = null": "",
    "delete from pgqueue.api_keys": "",
    "select pgqueue.count_older('1 day')": "wra",
    "select * from pgqueue.plan_cleanup('1 day')": "wra",
    "select * from pgqueue.retention": "wra",
    "update pgqueue.retention set completed_at = null": "",
    "update pgqueue.tasks set priority = 9": "",
    "delete from pgqueue.tasks": "",
    "truncate pgqueue.tasks": "",
    "insert into pgqueue.finished_tasks select * from pgqueue.finished_tasks": "",
    "delete from pgqueue.finished_tasks": "",
    "delete from pgqueue.attempts": "",
    "update pgqueue.queues set concurrency = 9": "",
    "insert into pgqueue.queues (name) values ('q')": "",
    "update pgqueue.workers set lost_at = null": "",
    "delete from pgqueue.claims": "",
    "insert into pgqueue.lanes values ('default', 1)": "",
    "insert into pgqueue.waits values ('default', 1, true)": "",
    "select pgqueue._wake('default')": "",
    "select pgqueue._notify('pgqueue_control', '{}')": "",
    "select pgqueue._end_claims(1, '{1}', '{}', false)": "",
    "select pgqueue._cancel_waiting('{2}', 'x')": "",
    "select pgqueue._make_partition('attempts', 'finished_at', '2000-01-01')": "",
    "select nextval('pgqueue.task_logs_id_seq')": "",
    "create table pgqueue.mine (id int)": "",
    "create or replace function pgqueue._now() returns timestamptz language sql as 'select now()'": "",
    "drop table pgqueue.tasks": "",
    "alter table pgqueue.tasks disable trigger all": "",
}


@pytest.fixture
def scene(conn: Connection) -> Connection:
    """One worker with a running task, and a pending task with a key."""
    conn.execute("select pgqueue.submit('a')")
    conn.execute("select pgqueue.register_worker('h', 1, '{default}')")
    conn.execute("select * from pgqueue.claim(1, 'default', 1, 1)")
    conn.execute("select pgqueue.submit('a', p_unique_key => 'k')")
    return conn


def is_allowed(conn: Connection, role: str, statement: str) -> bool:
    """Whether PostgreSQL lets the role run it; what the queue itself says of it is another matter."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"set local role {role}".encode())
            conn.execute(statement.encode())
    except psycopg.Error as exc:
        if exc.sqlstate == DENIED:
            return False
        if not (exc.sqlstate or "").startswith("QU"):
            raise
    return True


def test_the_matrix_is_worth_its_name() -> None:
    assert len(MATRIX) * len(ROLES) >= 300


def test_each_role_may_do_what_the_matrix_says_and_nothing_else(scene: Connection) -> None:
    wrong = [
        f"{role} {'may' if is_allowed(scene, role, statement) else 'may not'}: {statement}"
        for statement, allowed in MATRIX.items()
        for letter, role in ROLES.items()
        if is_allowed(scene, role, statement) != (letter in allowed)
    ]
    assert wrong == []


def test_somebody_without_a_role_may_do_nothing(scene: Connection) -> None:
    scene.execute("create role pgqueue_test_nobody")
    try:
        assert [s for s in MATRIX if is_allowed(scene, "pgqueue_test_nobody", s)] == []
    finally:
        scene.execute("drop role pgqueue_test_nobody")


PUBLIC_MAY = {
    "functions": """
        select p.oid::regprocedure::text
        from pg_proc p cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        where p.pronamespace = 'pgqueue'::regnamespace and a.grantee = 0
    """,
    "tables, views and sequences": """
        select c.relname
        from pg_class c cross join aclexplode(c.relacl) a
        where c.relnamespace = 'pgqueue'::regnamespace and a.grantee = 0
    """,
    "columns": """
        select c.relname
        from pg_class c join pg_attribute t on t.attrelid = c.oid cross join aclexplode(t.attacl) a
        where c.relnamespace = 'pgqueue'::regnamespace and a.grantee = 0
    """,
    "schema": """
        select n.nspname
        from pg_namespace n cross join aclexplode(n.nspacl) a
        where n.nspname = 'pgqueue' and a.grantee = 0
    """,
}


@pytest.mark.parametrize("what", PUBLIC_MAY)
def test_nothing_is_for_public(conn: Connection, what: str) -> None:
    assert conn.execute(PUBLIC_MAY[what].encode()).fetchall() == []


def test_an_admin_may_call_every_function_that_is_not_for_insiders(conn: Connection) -> None:
    forbidden = conn.execute(
        "select p.oid::regprocedure::text from pg_proc p where p.pronamespace = 'pgqueue'::regnamespace"
        " and p.proname !~ '^_' and p.prorettype <> 'trigger'::regtype"
        " and not has_function_privilege('pgqueue_admin', p.oid, 'execute')"
    ).fetchall()
    assert forbidden == []


def test_every_function_that_is_not_for_insiders_is_in_the_matrix(conn: Connection) -> None:
    names = [
        row[0]
        for row in conn.execute(
            "select distinct proname from pg_proc where pronamespace = 'pgqueue'::regnamespace and proname !~ '^_'"
        )
    ]
    assert [name for name in names if not any(f"pgqueue.{name}(" in statement for statement in MATRIX)] == []


def test_the_roles_cannot_log_in_or_rule(conn: Connection) -> None:
    rows = conn.execute(
        "select rolname from pg_roles where rolname like 'pgqueue\\_%'"
        " and (rolcanlogin or rolsuper or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication)"
    ).fetchall()
    assert rows == []


def test_a_days_partition_that_was_made_later_is_as_closed_as_the_others(scene: Connection) -> None:
    scene.execute("select pgqueue._make_partitions(20)")
    newest = scene.execute("select max(relname) from pg_class where relname ~ '^finished_tasks_[0-9]+$'").fetchone()
    assert newest is not None
    assert [role for role in ROLES.values() if is_allowed(scene, role, f"select * from pgqueue.{newest[0]}")] == []
    assert is_allowed(scene, "pgqueue_reader", "select * from pgqueue.finished_tasks")
