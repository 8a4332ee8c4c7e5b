"""A proxy that breaks what it is told to break: connections refused, answers lost, streams cut."""

from __future__ import annotations

import asyncio
import contextlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["Proxy", "proxying"]

BAD_GATEWAY = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\nContent-Type: text/html\r\n\r\n<p/>"
Fate = str
"""pass; lose (the answer); refuse (502); cut:N (after N bytes of the answer); one event (and the stream is cut)."""
EVENT = re.compile(rb"event: progress\n.*\n\n")


class Proxy:
    """Takes one request after the other to the server; `decide` says, by the head of a request, what becomes of it."""

    def __init__(self, target: str, decide: Callable[[str], Fate]) -> None:
        self.heads: list[str] = []
        self.url = ""
        self._host, _, port = target.removeprefix("http://").rpartition(":")
        self._port = int(port)
        self._decide = decide

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, which is closed after its first request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head.decode())
            fate = self._decide(self.heads[-1])
            if fate == "refuse":
                writer.write(BAD_GATEWAY)
                await writer.drain()
            else:
                await self._forward(head, reader, writer, fate)
        writer.close()

    async def _forward(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fate: Fate
    ) -> None:
        there, onward = await asyncio.open_connection(self._host, self._port)
        onward.write(head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        sending = asyncio.create_task(_pump(reader, onward))
        left = int(fate.removeprefix("cut:")) if fate.startswith("cut:") else 1 << 30
        passed = b""
        try:
            while left > 0 and (chunk := await there.read(min(left, 65536))):
                left -= len(chunk)
                passed += chunk
                if fate != "lose":
                    writer.write(chunk)
                    await writer.drain()
                if fate == "one event" and EVENT.search(passed):
                    return
        finally:
            sending.cancel()
            onward.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65536):
        writer.write(chunk)


@contextlib.asynccontextmanager
async def proxying(target: str, decide: Callable[[str], Fate]) -> AsyncIterator[Proxy]:
    """Run a proxy before a server."""
    proxy = Proxy(target, decide)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
