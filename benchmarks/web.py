"""The API server as a process of its own, and a client that costs little."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def serving(dsn: str) -> Iterator[str]:
    """Run the server on a free port of loopback; give its URL."""
    program = Path(sys.executable).with_name("pgqueue-api")
    environment = os.environ | {"PGQUEUE_DSN": dsn, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([program, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None  # noqa: S101 - asked for above
        try:
            yield next(line for line in server.stderr if "dashboard" in line).split()[-1]
        finally:
            server.terminate()


class Connection:
    """A bare keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Made by `open`."""
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> Connection:
        """Connect."""
        port = int(url.rpartition(":")[2].strip("/"))
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: str, body: bytes = b"") -> None:
        """Ask, and read the answer. Raises RuntimeError where it is a refusal."""
        head = b"%s HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n" % (request.encode(), HEAD, len(body))
        self.writer.write(head + body)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        if answer[9:11] != b"20":
            raise RuntimeError(answer.decode())
        length = re.search(rb"content-length: (\d+)", answer)
        await self.reader.readexactly(int(length[1]) if length else 0)

    def close(self) -> None:
        """Disconnect."""
        self.writer.close()
