"""The server: a socket, uvicorn, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
from typing import TYPE_CHECKING

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from pgqueue.errors import ConfigurationError
from pgqueue_web.app import create_app
from pgqueue_web.context import Context
from pgqueue_web.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from pgqueue.database import Database

__all__ = ["Server"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE_S = 2
KEEP_ALIVE_S = 65
MOST_HEAD = 65_536
BACKLOG = 2048


class Server:
    """The HTTP interface over a database, on a socket that is bound when it is made.

    Raises ConfigurationError for an address that cannot be had.
    """

    def __init__(self, db: Database, host: str | None = None, port: int | None = None) -> None:
        """Host and port: those of the settings, unless they are given."""
        self._db = db
        self._host = host or db.settings.api_host
        self._socket = _bound(self._host, db.settings.api_port if port is None else port)
        self._uvicorn: _Uvicorn | None = None
        self.context = Context(db, is_open=self.is_local)

    @property
    def url(self) -> str:
        """Where it listens."""
        address, port = self._socket.getsockname()[:2]
        return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self._socket.getsockname()[0]).is_loopback

    async def run(self, *, handle_signals: bool = True, ready: Callable[[], object] = lambda: None) -> None:
        """Serve until it is stopped; the database is open, and closed by the caller.

        Raises ConfigurationError where others could reach it and there is no key.
        """
        async with self.context as context:
            await self._check_keys(context)
            server = self._uvicorn = _Uvicorn(self._config(context), context.stopping)
            ready()
            with _signals(self.stop) if handle_signals else contextlib.nullcontext():
                await server.serve(sockets=[self._socket])

    @contextlib.asynccontextmanager
    async def beside(self) -> AsyncIterator[None]:
        """Serve while the block runs, which takes care of signals. Raises what `run` raises."""
        ready = asyncio.Event()
        running = asyncio.create_task(self.run(handle_signals=False, ready=ready.set))
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            await running
        try:
            yield
        finally:
            self.stop()
            await running

    def stop(self) -> None:
        """Let `run` return within some seconds; at once when it is said again."""
        if self._uvicorn is not None:
            self._uvicorn.stop()

    async def _check_keys(self, context: Context) -> None:
        if not self.is_local and not await context.access.has_api_keys():
            self._socket.close()
            msg = f"others could reach {self._host}, and there is no key that would keep them out"
            hint = "make a key (pgqueue key create NAME --scope admin), or listen on 127.0.0.1"
            raise ConfigurationError(msg, hint=hint)

    def _config(self, context: Context) -> uvicorn.Config:
        class Protocol(_Protocol):
            receive_s = context.settings.api_receive_s

        return uvicorn.Config(
            create_app(context),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
            backlog=BACKLOG,
        )


@contextlib.contextmanager
def _signals(stop: Callable[[], object]) -> Iterator[None]:
    """Stop on SIGTERM and SIGINT."""
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        loop.add_signal_handler(number, stop)
    yield
    for number in SIGNALS:
        loop.remove_signal_handler(number)


class _Uvicorn(uvicorn.Server):
    """Uvicorn that leaves signals to others, and tells streams and waiting requests when it stops."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self._stopping = stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: uvicorn's own way ends the process by the signal, before anything is closed."""
        yield

    def stop(self) -> None:
        """Stop in order, or the second time at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self._stopping.set()


class _Protocol(HttpToolsProtocol):
    """Heads of requests come in time and are not too long."""

    receive_s = 10.0
    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._expect_head()

    def on_message_begin(self) -> None:
        """Begin to count."""
        self._head_size = 0
        if self._head_timer is None:
            self._expect_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Count."""
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count."""
        self._count(name + value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Wait no more."""
        self._head_is_there()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._head_is_there()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP as any other error: with a problem."""
        body = msgspec.json.encode(Problem("about:blank", "Bad Request", 400, msg))
        head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head.encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(self.receive_s, self.transport.close)

    def _head_is_there(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _count(self, part: bytes) -> None:
        self._head_size += len(part)
        if self._head_size > MOST_HEAD:
            self.transport.abort()
            msg = "the head of the request is too long"
            raise ValueError(msg)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that asyncio knows as TCP: without its protocol, answers would wait for acknowledgements."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        made = socket.socket(family, kind, socket.IPPROTO_TCP)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
    except OSError as error:
        msg = f"cannot listen on {host}, port {port}: {error.strerror or error}"
        raise ConfigurationError(msg, hint="give another --host or --port; port 0 takes any that is free") from error
    return made
