"""The queries that the operations guide shows run, and no view or function for operators is left out."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    Connection = psycopg.Connection[Any]

TEXT = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"^pgqueue=# (.+)$", TEXT, re.MULTILINE)
ROLES = ("pgqueue_reader", "pgqueue_submitter", "pgqueue_admin")
OF_PROGRAMS = {
    *("claim", "create_queue", "fence", "finish", "follow", "hand_over", "heartbeat", "idle", "is_clear"),
    *("keep_following", "maintain", "register_worker", "report_progress", "rescue", "set_wait", "stop_worker"),
    *("submit_task", "unfollow", "write_logs"),
    *("due_schedules", "fire_schedules", "release_ticks", "schedules_due_in"),
    *("audit", "authenticate", "begin_idempotent", "count_tasks_in", "create_api_key", "forget_access", "has_api_keys"),
    *("keep_answer", "list_cursor_in", "list_tasks_in", "metrics", "task_queue"),
    *("begin_retention", "end_retention", "expire", "plan_cleanup", "step_abandoned"),
    *("authenticate_session", "ended_by_type", "relation_sizes", "search_tasks", "server_facts"),
}
"""What workers, followers and schedulers call; create_queue is documented all the same."""


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_runs(conn: Connection, query: str) -> None:
    """On an empty database: what asks for a task, worker or schedule is told that it is not there."""
    try:
        conn.execute("select pgqueue.create_queue('slow'), pgqueue.create_queue('nightly')")
        conn.execute(query.encode())
    except psycopg.Error as error:
        assert error.sqlstate in {"QU001", "QU102", "QU103", "QU104", "QU106"}, error  # noqa: PT017 - most queries raise nothing


def test_every_view_is_shown(conn: Connection) -> None:
    views = {
        name
        for (name,) in conn.execute("select viewname from pg_views where schemaname = 'pgqueue'")
        if not name.startswith("_")
    }
    assert {name for name in views if f"### {name}" not in TEXT and name != "health"} == set()


def test_every_function_for_people_is_named(conn: Connection) -> None:
    functions = {
        name
        for (name,) in conn.execute("select proname from pg_proc where pronamespace = 'pgqueue'::regnamespace")
        if not name.startswith("_")
    }
    assert {name for name in functions - OF_PROGRAMS if name not in TEXT} == set()
