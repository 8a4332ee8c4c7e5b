"""What the dashboard needs beyond the other services: sessions, and bounded reads for its pages."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from typing import TYPE_CHECKING, TypeVar

from pgqueue import calls
from pgqueue.errors import Unauthenticated
from pgqueue.services.access import AccessService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pgqueue.calls import Call
    from pgqueue.database import Database
    from pgqueue.models import Principal, Scope

__all__ = ["PageService"]

T = TypeVar("T")
SESSION = re.compile(r"([0-9a-f]{12})\.([0-9]{1,12})\.([0-9a-f]{64})", re.ASCII)
"""Selector of the key, end in seconds since 1970, mac."""


class PageService:
    """Sessions instead of keys, and reads that take no longer than a page may."""

    def __init__(self, db: Database) -> None:
        """Opens nothing."""
        self.db = db
        self._access = AccessService(db)

    async def begin_session(self, key: str, seconds: int) -> str:
        """Return a session in place of a key, for so many seconds. Raises Unauthenticated, Forbidden, RateLimited."""
        await self._access.authenticate(key, "read")
        selector, expires_at = key.split("_", 2)[1], int(time.time()) + seconds
        secret = hashlib.sha256(key.encode()).digest()
        inner = hashlib.sha256(secret + f"pgqueue session {selector} {expires_at}".encode()).digest()
        return f"{selector}.{expires_at}.{hashlib.sha256(secret + inner).hexdigest()}"

    async def authenticate(self, session: str | None, scope: Scope, *, is_open: bool = False) -> Principal:
        """Tell who holds a session, as AccessService.authenticate for its key; None is somebody without one.

        Raises Unauthenticated, Forbidden, RateLimited.
        """
        form = SESSION.fullmatch(session or "")
        if form is not None:
            call = calls.authenticate_session(form[1], int(form[2]), bytes.fromhex(form[3]), scope)
            with contextlib.suppress(Unauthenticated) if is_open else contextlib.nullcontext():
                return await self.db.run(call)
        return await self._access.authenticate(None, scope, is_open=is_open)

    @contextlib.asynccontextmanager
    async def reading(self, seconds: float) -> AsyncIterator[Callable[[Call[T]], Awaitable[T]]]:
        """Lend a way to run calls that only read, each for at most so many seconds, on one connection."""
        async with self.db.connection() as conn, conn.transaction():
            await self.db.run(calls.limit_statements(seconds), conn=conn)

            async def read(call: Call[T]) -> T:
                return await self.db.run(call, conn=conn)

            yield read
