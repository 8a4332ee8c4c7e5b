"""Plain handlers at the top of a module, as processes need them."""

from __future__ import annotations

import contextvars
import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from pgqueue import PermanentError, TaskContext, TaskRequest, sync

mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)


class Sum(msgspec.Struct):
    numbers: list[int]


def add(ctx: TaskContext, payload: Sum) -> dict[str, int]:
    ctx.update_progress_with_steps("adding", 1, 2, "half")
    ctx.log("info", "adds", count=len(payload.numbers))
    structlog.get_logger().warning("said by structlog", pid=os.getpid())
    return {"sum": sum(payload.numbers), "pid": os.getpid()}


def forever(ctx: TaskContext, payload: dict[str, str]) -> None:
    """Never ends by itself; says who runs it."""
    Path(payload["path"]).write_text(str(os.getpid()))
    while True:
        time.sleep(0.01)


def until_cancelled(ctx: TaskContext, payload: dict[str, str]) -> None:
    """Ends when it is asked to, as threads must."""
    Path(payload["path"]).write_text(str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.005)
    raise RuntimeError("stopped as asked")


def hungry(ctx: TaskContext) -> int:
    return len(bytearray(2 << 30))


def broken(ctx: TaskContext) -> None:
    raise PermanentError("cannot work")


def dies(ctx: TaskContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def odd(ctx: TaskContext) -> Any:  # noqa: ANN401 - any value
    return {"fine": 1, "odd": object()}


def marked(ctx: TaskContext) -> int:
    found = mark.get()
    mark.set(ctx.task_id)
    return found


def submits(ctx: TaskContext, payload: dict[str, Any]) -> list[int]:
    """Submit a child, and one of another parent; return their ids."""
    with sync.Database(payload["dsn"]) as database:
        service = sync.QueueService(database)
        child = service.submit_task(TaskRequest(task_type="leaf"))
        [of_another] = service.submit_tasks([TaskRequest(task_type="leaf", parent_id=payload["other"])])
        return [child.task_id, of_another.task_id]
