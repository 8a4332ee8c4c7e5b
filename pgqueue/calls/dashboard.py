"""What the dashboard asks: who comes with a session, what a search finds, how large the tables are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from pgqueue.calls.call import Call, nothing, task_key
from pgqueue.models import (
    EndedOfType,
    Migration,
    Principal,
    RelationSize,
    SearchPage,
    ServerFacts,
    TaskRow,
    TaskSearch,
    check_number,
    check_text,
    check_time,
)

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "authenticate_session",
    "ended_by_type",
    "limit_statements",
    "list_migrations",
    "relation_sizes",
    "search_tasks",
    "server_facts",
]


def authenticate_session(selector: str, expires_at: int, mac: bytes, scope: str) -> Call[Principal]:
    """pgqueue.authenticate_session. Raises Unauthenticated, Forbidden, RateLimited."""
    sql = "select key_id, name, scopes, queues from pgqueue.authenticate_session(%s, %s::bigint, %s, %s)"
    return Call(sql, (selector, expires_at, mac, scope), lambda rows: Principal(*rows[0]))


def limit_statements(seconds: float) -> Call[None]:
    """Let each statement of this transaction take at most so many seconds."""
    sql = "select set_config('statement_timeout', %s, true), set_config('transaction_read_only', 'on', true)"
    return Call(sql, (str(round(seconds * 1000)),), nothing)


def search_tasks(wanted: TaskSearch) -> Call[SearchPage]:
    """pgqueue.search_tasks: one page, newest id first. Raises InvalidInput."""
    for name in ("task_type", "user_id", "project_id", "value", "error"):
        check_text(getattr(wanted, name), name, optional=True)
    for text in (*(wanted.queue_names or ()), *(wanted.path or ())):
        check_text(text, "search")
    check_time(wanted.created_from, "created_from")
    check_time(wanted.created_to, "created_to")
    check_number(wanted.limit, "limit", 1, 500)
    before_id = None if wanted.before_id is None else task_key(wanted.before_id)
    fields = ("queue_names", "status", "task_type", "user_id", "project_id", "created_from", "created_to", "path")
    parent_id = None if wanted.parent_id is None else task_key(wanted.parent_id)
    parameters = (
        *(getattr(wanted, name) for name in fields),
        *(wanted.value, wanted.error, before_id, wanted.limit, parent_id),
    )
    sql = (
        "select tasks::text, next_before_id from pgqueue.search_tasks(%s::text[], %s, %s, %s, %s, %s::timestamptz, "
        "%s::timestamptz, %s::text[], %s, %s, %s::bigint, %s::int, p_parent_id => %s::bigint)"
    )
    return Call(sql, parameters, lambda rows: SearchPage(_rows(rows[0][0]), rows[0][1]))


def _rows(text: str) -> list[TaskRow]:
    return msgspec.json.decode(text, type=list[TaskRow])


def ended_by_type(start: datetime, end: datetime, queue_names: list[str] | None) -> Call[list[EndedOfType]]:
    """pgqueue.ended_by_type: of these queues, None: of all. Those with most failures first."""
    check_time(start, "start")
    check_time(end, "end")
    sql = (
        "select task_type, completed, failed, cancelled "
        "from pgqueue.ended_by_type(%s::timestamptz, %s::timestamptz, %s::text[])"
    )
    return Call(sql, (start, end, queue_names), lambda rows: [EndedOfType(*row) for row in rows])


def relation_sizes() -> Call[list[RelationSize]]:
    """pgqueue.relation_sizes: the largest first."""
    sql = "select name, partitions, total_bytes, live_rows, dead_rows, last_vacuum from pgqueue.relation_sizes()"
    return Call(sql, (), lambda rows: [RelationSize(*row) for row in rows])


def server_facts() -> Call[ServerFacts]:
    """pgqueue.server_facts."""
    return Call(f"select {', '.join(ServerFacts.__struct_fields__)} from pgqueue.server_facts()", (), _facts)


def _facts(rows: list[tuple[object, ...]]) -> ServerFacts:
    return msgspec.convert(dict(zip(ServerFacts.__struct_fields__, rows[0], strict=True)), ServerFacts)


def list_migrations() -> Call[list[Migration]]:
    """The rows of pgqueue.migrations, newest first."""
    sql = "select name, kind, applied_at from pgqueue.migrations order by applied_at desc, kind, name limit 200"
    return Call(sql, (), lambda rows: [Migration(*row) for row in rows])
