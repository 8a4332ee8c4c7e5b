"""Keys of the HTTP interface, the audit log, and answers that are kept for repeated requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from pgqueue.calls.call import Call, Row, json_of, nothing, task_key, utc, value
from pgqueue.models import ApiKey, AuditEntry, KeptAnswer, Metrics, Principal, check_number, check_text, check_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

__all__ = [
    "audit",
    "authenticate",
    "begin_idempotent",
    "create_api_key",
    "forget_access",
    "has_api_keys",
    "keep_answer",
    "list_api_keys",
    "list_audit",
    "metrics",
    "revoke_api_key",
    "task_queue",
]

MOST_ROWS = 10_000


def create_api_key(  # noqa: PLR0913 - as in SQL
    name: str,
    selector: str,
    secret_hash: bytes,
    scopes: Sequence[str],
    *,
    queues: Sequence[str] | None = None,
    rate_limit: int | None = None,
    expires_at: datetime | None = None,
) -> Call[int]:
    """pgqueue.create_api_key. Raises InvalidInput."""
    check_text(name, "name")
    for queue in queues or ():
        check_text(queue, "queues")
    if rate_limit is not None:
        check_number(rate_limit, "rate_limit", 1, 1_000_000)
    check_time(expires_at, "expires_at")
    parameters = (name, selector, secret_hash, list(scopes), None if queues is None else list(queues))
    sql = "select pgqueue.create_api_key(%s, %s, %s, %s, %s::text[], %s::int, %s::timestamptz)"
    return Call(sql, (*parameters, rate_limit, expires_at), value)


def revoke_api_key(which: str) -> Call[int]:
    """pgqueue.revoke_api_key: by name, selector or number. Raises KeyNotFound."""
    check_text(which, "key")
    return Call("select pgqueue.revoke_api_key(%s)", (which,), value)


def list_api_keys() -> Call[list[ApiKey]]:
    """pgqueue.list_api_keys."""
    sql = (
        "select id, name, selector, scopes, queues, rate_limit, created_at, expires_at, revoked_at, last_used_at "
        "from pgqueue.list_api_keys()"
    )
    return Call(sql, (), lambda rows: [_key(row) for row in rows])


def _key(row: Row) -> ApiKey:
    created_at, expires_at, revoked_at, last_used_at = (utc(moment) for moment in row[6:])
    return ApiKey(
        id=row[0],
        name=row[1],
        selector=row[2],
        scopes=row[3],
        queues=row[4],
        rate_limit=row[5],
        created_at=created_at or row[6],
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=last_used_at,
    )


def has_api_keys() -> Call[bool]:
    """pgqueue.has_api_keys: whether there is a key that would be let in."""
    return Call("select pgqueue.has_api_keys()", (), value)


def authenticate(
    selector: str | None, secret_hash: bytes | None, scope: str, *, is_open: bool = False
) -> Call[Principal]:
    """pgqueue.authenticate. Raises Unauthenticated, Forbidden, RateLimited."""
    sql = "select key_id, name, scopes, queues from pgqueue.authenticate(%s, %s, %s, %s)"
    return Call(sql, (selector, secret_hash, scope, is_open), lambda rows: Principal(*rows[0]))


def audit(
    action: str,
    target: str | None = None,
    outcome: str = "done",
    *,
    principal: Principal,
    detail: Mapping[str, Any] | None = None,
) -> Call[None]:
    """pgqueue.audit."""
    encoded = msgspec.json.encode(detail or {}).decode()
    parameters = (action, target, outcome, principal.name, principal.key_id, encoded)
    return Call("select pgqueue.audit(%s, %s, %s, %s, %s::bigint, %s::jsonb)", parameters, nothing)


def list_audit(limit: int = 100, before_id: int | None = None) -> Call[list[AuditEntry]]:
    """pgqueue.list_audit: newest first."""
    check_number(limit, "limit", 1, MOST_ROWS)
    sql = (
        "select id, happened_at, actor, key_id, database_user::text, action, target, outcome, detail::text "
        "from pgqueue.list_audit(%s::int, %s::bigint)"
    )
    parameters = (limit, None if before_id is None else task_key(before_id))
    return Call(sql, parameters, lambda rows: [_entry(row) for row in rows])


def _entry(row: Row) -> AuditEntry:
    number, happened_at, actor, key_id, database_user, action, target, outcome, detail = row
    moment = utc(happened_at) or happened_at
    return AuditEntry(number, moment, actor, key_id, database_user, action, target, outcome, json_of(detail))


def begin_idempotent(actor_id: int, idempotency_key: str, request_hash: bytes) -> Call[KeptAnswer | None]:
    """pgqueue.begin_idempotent: what the request was answered before. Raises IdempotencyConflict, InvalidInput."""
    check_text(idempotency_key, "Idempotency-Key")
    sql = "select status, location, body from pgqueue.begin_idempotent(%s::bigint, %s, %s)"
    parameters = (actor_id, idempotency_key, request_hash)
    return Call(sql, parameters, lambda rows: KeptAnswer(*rows[0]) if rows else None)


def keep_answer(actor_id: int, idempotency_key: str, answer: KeptAnswer) -> Call[None]:
    """pgqueue.keep_answer."""
    parameters = (actor_id, idempotency_key, answer.status, answer.location, answer.body)
    return Call("select pgqueue.keep_answer(%s::bigint, %s, %s::int, %s, %s)", parameters, nothing)


def forget_access(audit_age: timedelta) -> Call[int]:
    """pgqueue.forget_access."""
    return Call("select pgqueue.forget_access(%s::interval)", (audit_age,), value)


def metrics() -> Call[Metrics]:
    """pgqueue.metrics."""
    return Call("select pgqueue.metrics()::text", (), lambda rows: msgspec.json.decode(rows[0][0], type=Metrics))


def task_queue(task_id: int) -> Call[str]:
    """pgqueue.task_queue. Raises TaskNotFound."""
    return Call("select pgqueue.task_queue(%s::bigint)", (task_key(task_id),), value)
