"""Keys of the HTTP interface: made, checked and revoked; what is done with them; answers kept for repetitions."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import TYPE_CHECKING, NamedTuple

from pgqueue import calls
from pgqueue.errors import Unauthenticated
from pgqueue.services.operations import async_method

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from pgqueue.database import Database
    from pgqueue.models import KeptAnswer, Principal, Scope

__all__ = ["AccessService", "NewKey"]

KEY = re.compile(r"pgq_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
"""What may be seen of a key, then 256 random bits."""


class NewKey(NamedTuple):
    """A key that was just made: nobody can read it again."""

    id: int
    key: str


class AccessService:
    """Keys, the audit log and kept answers."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db

    async def create_api_key(
        self,
        name: str,
        scopes: Sequence[Scope],
        *,
        queues: Sequence[str] | None = None,
        rate_limit: int | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key, limited to some queues and to so many requests a minute where that is given.

        Only its hash is kept. Raises InvalidInput.
        """
        selector = secrets.token_hex(6)
        key = f"pgq_{selector}_{secrets.token_urlsafe(32)}"
        call = calls.create_api_key(
            name, selector, _hash(key), scopes, queues=queues, rate_limit=rate_limit, expires_at=expires_at
        )
        return NewKey(await self.db.run(call), key)

    async def authenticate(self, key: str | None, scope: Scope, *, is_open: bool = False) -> Principal:
        """Tell who holds a key, if it may be used for `scope` now; None is somebody without a key.

        `is_open` lets in whoever has none, as long as no key was ever made.
        Raises Unauthenticated, Forbidden, RateLimited.
        """
        if key is None:
            return await self.db.run(calls.authenticate(None, None, scope, is_open=is_open))
        form = KEY.fullmatch(key)
        if form is None:
            hint = "a key looks like pgq_ and 56 more characters; pgqueue key create makes one"
            raise Unauthenticated("this is no key of pgqueue", hint=hint)
        return await self.db.run(calls.authenticate(form[1], _hash(key), scope))

    async def audit(  # noqa: PLR0913 - the columns of the log
        self,
        principal: Principal,
        action: str,
        target: str | None = None,
        outcome: str = "done",
        *,
        detail: Mapping[str, object] | None = None,
        conn: object = None,
    ) -> None:
        """Write down who did what, in the transaction that does it where `conn` is given."""
        await self.db.run(calls.audit(action, target, outcome, principal=principal, detail=detail), conn=conn)

    async def begin_idempotent(
        self, principal: Principal, idempotency_key: str, request: bytes, *, conn: object
    ) -> KeptAnswer | None:
        """Return what this very request was answered before; None: it is the first, and must keep its answer.

        Waits for the end of another transaction with this key. Raises IdempotencyConflict, InvalidInput.
        """
        digest = hashlib.sha256(request).digest()
        return await self.db.run(calls.begin_idempotent(principal.key_id or 0, idempotency_key, digest), conn=conn)

    async def keep_answer(
        self, principal: Principal, idempotency_key: str, answer: KeptAnswer, *, conn: object
    ) -> None:
        """Keep an answer in the transaction of begin_idempotent."""
        await self.db.run(calls.keep_answer(principal.key_id or 0, idempotency_key, answer), conn=conn)

    async def task_queue(self, task_id: int, *, conn: object = None) -> str:
        """Return the queue of a task, live or finished. Raises TaskNotFound."""
        return await self.db.run(calls.task_queue(task_id), conn=conn)

    revoke_api_key = async_method(calls.revoke_api_key)
    list_api_keys = async_method(calls.list_api_keys)
    has_api_keys = async_method(calls.has_api_keys)
    list_audit = async_method(calls.list_audit)
    metrics = async_method(calls.metrics)
    forget_access = async_method(calls.forget_access)


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
