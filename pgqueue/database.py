"""Connections: a pool for operations, dedicated ones for workers and listeners.

This is the one place where PostgreSQL's errors become pgqueue's.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import threading
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
from psycopg.rows import tuple_row
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from pgqueue import settings as _settings
from pgqueue import telemetry
from pgqueue.callers import unwrap, unwrap_async
from pgqueue.embedded import resolve_dsn
from pgqueue.errors import DatabaseUnavailable, InvalidInput, PgqueueError, from_postgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from pgqueue.calls import Call
    from pgqueue.settings import Settings

__all__ = ["Database", "SyncDatabase", "time_limit", "translated"]

T = TypeVar("T")
Row = tuple[Any, ...]
CONNECT_TIMEOUT_S = 5
CANCELLED = "57014"


@contextlib.contextmanager
def translated(but: tuple[type[psycopg.Error], ...] = ()) -> Iterator[None]:
    """Raise pgqueue's errors for PostgreSQL's, keeping the cause; those of `but` pass as they are."""
    try:
        yield
    except but:
        raise
    except PoolTimeout as error:
        msg = f"no connection to the database within {CONNECT_TIMEOUT_S} s: {error}"
        hint = "check that the server runs and that the DSN names it; where it does, raise pool_max or lend less"
        raise DatabaseUnavailable(msg, hint=hint) from error
    except psycopg.DataError as error:
        if error.sqlstate is None:
            msg = f"a value cannot be sent to PostgreSQL: {error}"
            raise InvalidInput(msg, hint="text must not contain NUL characters") from error
        raise from_postgres(error) from error
    except psycopg.Error as error:
        raise from_postgres(error) from error
    except UnicodeEncodeError as error:
        msg = f"a text cannot be sent to PostgreSQL: {error}"
        raise InvalidInput(msg, hint="lone surrogates are no characters; decode bytes with errors='replace'") from error


_time_limit: ContextVar[float | None] = ContextVar("pgqueue_time_limit", default=None)


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Let each call that a Database runs within the block take at most so many seconds.

    One that takes longer is cancelled in the database and raises PgqueueError with SQLSTATE 57014. Unlike
    statement_timeout this costs no round trip, works through a transaction pooler, and leaves others who share the
    pool alone.
    """
    token = _time_limit.set(seconds)
    try:
        yield
    finally:
        _time_limit.reset(token)


class _Common:
    """What the async and the blocking database share: the DSN and how connections are made."""

    def __init__(self, dsn: str | None = None, *, settings: Settings | None = None) -> None:
        """No DSN: PGQUEUE_DSN, DATABASE_URL, libpq's variables, or else an embedded server. Opens nothing."""
        self.settings = settings or _settings.load()
        telemetry.apply(self.settings.otel)
        self.given_dsn = dsn or self.settings.dsn
        self._dsn: str | None = None

    @property
    def dsn(self) -> str:
        """The connection string; resolving it may start the embedded server."""
        if self._dsn is None:
            self._dsn = resolve_dsn(self.given_dsn).dsn
        return self._dsn

    @property
    def listen_dsn(self) -> str | None:
        """Where to LISTEN; None behind a transaction pooler without a direct way."""
        return self.settings.listen_dsn or (None if self.settings.pooler else self.dsn)

    def _arguments(self, dsn: str | None = None) -> dict[str, Any]:
        """Connections notice a vanished server within seconds, and say who they are."""
        arguments: dict[str, Any] = {
            "autocommit": True,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "keepalives_idle": 2,
            "keepalives_interval": 1,
            "keepalives_count": 3,
            "tcp_user_timeout": 5000,
            "application_name": "pgqueue",
            "prepare_threshold": 0,
        }
        given = psycopg.conninfo.conninfo_to_dict(dsn or self.dsn)
        if self.settings.pooler:
            arguments["prepare_threshold"] = None
        else:
            arguments["options"] = str(given.pop("options", "")) or "-c timezone=UTC"
        return {name: value for name, value in arguments.items() if name not in given}

    def _pool_arguments(self) -> dict[str, Any]:
        """A pool that gave up reconnecting begins anew with the next operation, not after a long backoff."""
        return {
            "conninfo": self.dsn,
            "kwargs": self._arguments(),
            "min_size": self.settings.pool_min,
            "max_size": self.settings.pool_max,
            "timeout": CONNECT_TIMEOUT_S,
            "reconnect_timeout": CONNECT_TIMEOUT_S,
            "open": False,
            "name": "pgqueue",
        }


class Database(_Common):
    """An asynchronous pool. `async with db:` opens and closes it; the first operation opens it too.

    It may be made at import time and used by one event loop after another.
    """

    def __init__(self, dsn: str | None = None, *, settings: Settings | None = None) -> None:
        """As _Common."""
        super().__init__(dsn, settings=settings)
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening = asyncio.Lock()
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._connections: weakref.WeakSet[psycopg.AsyncConnection[Row]] = weakref.WeakSet()

    def before_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Await `closer` when the database is closed: for what lives as long as it, also where it opens later."""
        self._forget_other_loop()
        self._closers.append(closer)

    @property
    def is_open(self) -> bool:
        """Whether the pool is open."""
        return self._pool is not None

    async def open(self) -> None:
        """Open the pool. Raises DatabaseUnavailable where no server answers."""
        self._forget_other_loop()
        async with self._opening:
            if self._pool is None:
                self._pool = await self._opened()

    async def _opened(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Row]]:
        dsn = self.dsn if self._dsn is not None else await asyncio.to_thread(lambda: self.dsn)
        with translated():
            async with await psycopg.AsyncConnection.connect(dsn, **self._arguments()):
                pass
            pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] = AsyncConnectionPool(
                **self._pool_arguments(), configure=self._note
            )
            try:
                # Whoever asks before there is a connection makes the pool open one more, and they take turns then.
                await pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
            except BaseException:
                await pool.close()
                raise
        return pool

    async def _note(self, conn: psycopg.AsyncConnection[Row]) -> None:
        self._connections.add(conn)

    def _forget_other_loop(self) -> None:
        """What belongs to a loop that has ended can only be dropped."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._pool is not None:
            for conn in list(self._connections):
                conn.pgconn.finish()
        self._pool, self._loop = None, loop
        self._opening = asyncio.Lock()
        self._closers.clear()

    async def close(self) -> None:
        """Close the pool, and what lives as long as it."""
        self._forget_other_loop()
        while self._closers:
            await self._closers.pop()()
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    @contextlib.asynccontextmanager
    async def for_as_long(self) -> AsyncIterator[None]:
        """Close it after the block if it was not open before: what lives in it must not outlast whoever began it."""
        was_open = self.is_open
        try:
            yield
        finally:
            if not was_open:
                await self.close()

    async def __aenter__(self) -> Self:
        """Open."""
        await self.open()
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close."""
        await self.close()

    async def run(self, call: Call[T], conn: Any = None) -> T:  # noqa: ANN401 - any JSON, or any connection
        """Run a call, in the caller's transaction where `conn` is given, else in one of its own.

        `conn` is a psycopg AsyncConnection, or a SQLAlchemy AsyncConnection or AsyncSession over psycopg.
        Raises what the call raises, and DatabaseUnavailable.
        """
        if conn is not None:
            return await _run_async(await unwrap_async(conn), call)
        async with self.connection() as pooled:
            return await _run_async(pooled, call)

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Row]]:
        """Lend a connection of the pool, in autocommit mode. Raises DatabaseUnavailable."""
        if self._pool is None or self._loop is not asyncio.get_running_loop():
            await self.open()
        assert self._pool is not None  # noqa: S101 - said by what stands above
        pool = self._pool
        with translated():
            conn = await pool.getconn()
            while _hung_up(conn):
                await conn.close()
                await pool.putconn(conn)
                conn = await pool.getconn()
            try:
                async with conn:
                    yield conn
            finally:
                await pool.putconn(conn)

    async def connect(self, dsn: str | None = None) -> psycopg.AsyncConnection[Row]:
        """Open a dedicated connection. Raises DatabaseUnavailable."""
        with translated():
            return await psycopg.AsyncConnection.connect(dsn or self.dsn, **self._arguments(dsn))


class SyncDatabase(_Common):
    """A blocking pool for any number of threads. `with db:` opens and closes it; the first operation opens it too."""

    def __init__(self, dsn: str | None = None, *, settings: Settings | None = None) -> None:
        """As _Common."""
        super().__init__(dsn, settings=settings)
        self._pool: ConnectionPool[psycopg.Connection[Row]] | None = None
        self._opening = threading.Lock()
        self._closers: list[Callable[[], None]] = []

    def before_close(self, closer: Callable[[], None]) -> None:
        """Call `closer` when the database is closed: for what lives as long as it."""
        self._closers.append(closer)

    def forget_closer(self, closer: Callable[[], None]) -> None:
        """Undo before_close, where it was not called yet."""
        with contextlib.suppress(ValueError):
            self._closers.remove(closer)

    def open(self) -> None:
        """Open the pool. Raises DatabaseUnavailable where no server answers."""
        self._open()

    def _open(self) -> ConnectionPool[psycopg.Connection[Row]]:
        with self._opening:
            if self._pool is None:
                with translated():
                    with psycopg.connect(self.dsn, **self._arguments()):
                        pass
                    pool: ConnectionPool[psycopg.Connection[Row]] = ConnectionPool(**self._pool_arguments())
                    pool.open(wait=True, timeout=CONNECT_TIMEOUT_S)
                self._pool = pool
            return self._pool

    def close(self) -> None:
        """Close the pool, and what lives as long as it."""
        while self._closers:
            self._closers.pop()()
        with self._opening:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def __enter__(self) -> Self:
        """Open."""
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def run(self, call: Call[T], conn: Any = None) -> T:  # noqa: ANN401 - any JSON, or any connection
        """Run a call, in the caller's transaction where `conn` is given, else in one of its own.

        `conn` is a psycopg Connection, a SQLAlchemy Connection or Session over psycopg, or Django's connection.
        Raises what the call raises, and DatabaseUnavailable.
        """
        if conn is not None:
            return _run(unwrap(conn), call)
        with self.connection() as pooled:
            return _run(pooled, call)

    @contextlib.contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Row]]:
        """Lend a connection of the pool, in autocommit mode. Raises DatabaseUnavailable."""
        pool = self._pool or self._open()
        with translated():
            conn = pool.getconn()
            while _hung_up(conn):
                conn.close()
                pool.putconn(conn)
                conn = pool.getconn()
            try:
                with conn:
                    yield conn
            finally:
                pool.putconn(conn)

    def connect(self, dsn: str | None = None) -> psycopg.Connection[Row]:
        """Open a dedicated connection. Raises DatabaseUnavailable."""
        with translated():
            return psycopg.connect(dsn or self.dsn, **self._arguments(dsn))


async def _run_async(conn: psycopg.AsyncConnection[Any], call: Call[T]) -> T:
    seconds = _time_limit.get()
    limit = asyncio.timeout(seconds)
    try:
        with translated():
            async with limit, conn.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(call.sql, call.parameters)
                return call.decode(await cursor.fetchall())
    except TimeoutError:
        if not limit.expired():
            raise
        msg = f"the database took longer than {seconds:g} s for a statement, which was cancelled"
        raise PgqueueError(msg, hint="what held it up will pass: try again", sqlstate=CANCELLED) from None


def _run(conn: psycopg.Connection[Any], call: Call[T]) -> T:
    with translated(), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(call.sql, call.parameters)
        return call.decode(cursor.fetchall())


def _hung_up(conn: psycopg.AsyncConnection[Row] | psycopg.Connection[Row]) -> bool:
    """Tell, without asking the server, whether it has closed this idle connection."""
    if conn.closed:
        return True
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    try:
        while poll.poll(0):
            conn.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return False
