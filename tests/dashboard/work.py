"""Handlers for the dashboard's tests: they do what the payload says, when a file says so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pgqueue import Database, PermanentError, QueueService, TaskContext

queue_service = QueueService(Database())
queue_service.register_queue("default", 10)


@queue_service.handler("steps")
async def steps(ctx: TaskContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Report each percentage that the file `path` names, up to `end`."""
    path, told = Path(payload["path"]), ""
    while told != "end":
        text = _read(path)
        if text != told and text.isdecimal():
            await ctx.update_progress(int(text), f"step {text}")
            await ctx.log("info", f"line {text}")
        told = text
        await asyncio.sleep(0.02)
    return {"told": "everything"}


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@queue_service.handler("fails", max_retries=0)
async def fails(_ctx: TaskContext, payload: dict[str, Any]) -> None:
    """Fail with the text of the payload."""
    raise PermanentError(str(payload.get("error", "broken")))


@queue_service.handler("echo")
async def echo(ctx: TaskContext, payload: dict[str, Any]) -> dict[str, Any]:
    """Log and return the payload."""
    await ctx.log("info", str(payload.get("log", "hello")), payload=payload.get("log"))
    return payload
