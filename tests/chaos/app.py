"""Handlers of mixed kinds that write what they do into a file, for the chaos run.

A line is one write of less than a page to a file opened for appending: lines of several processes do not mix.
"""

from __future__ import annotations

import asyncio
import os
import time

import pgqueue

WITNESS = os.open(os.environ["PGQUEUE_TEST_WITNESS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

db = pgqueue.Database()
queue_service = pgqueue.QueueService(db)
queue_service.register_queue("default")
queue_service.register_queue("slow")


def witness(what: str, ctx: pgqueue.TaskContext) -> None:
    os.write(WITNESS, f"{what} {ctx.task_id} {ctx.attempt}\n".encode())


@queue_service.handler("quick")
async def quick(ctx: pgqueue.TaskContext, payload: dict[str, int]) -> int:
    witness("start", ctx)
    witness("end", ctx)
    return payload["n"]


@queue_service.handler("waiting")
async def waiting(ctx: pgqueue.TaskContext, payload: dict[str, int]) -> None:
    witness("start", ctx)
    await ctx.update_progress(50, "waiting")
    await asyncio.sleep(payload["n"] % 20 / 100)
    witness("end", ctx)


@queue_service.handler("flaky", retry=pgqueue.Retry.fixed(0.2))
async def flaky(ctx: pgqueue.TaskContext, payload: dict[str, int]) -> None:
    witness("start", ctx)
    if ctx.failures < payload["n"] % 3:
        msg = f"not yet: {ctx.failures} failures so far"
        raise RuntimeError(msg)
    witness("end", ctx)


@queue_service.handler("hopeless", max_retries=1, retry=pgqueue.Retry.fixed(0.1))
async def hopeless(ctx: pgqueue.TaskContext, _payload: dict[str, int]) -> None:
    witness("start", ctx)
    msg = "never"
    raise RuntimeError(msg)


@queue_service.handler("threaded")
def threaded(ctx: pgqueue.TaskContext, payload: dict[str, int]) -> int:
    witness("start", ctx)
    time.sleep(payload["n"] % 5 / 100)
    ctx.log("info", "threaded", n=payload["n"])
    witness("end", ctx)
    return payload["n"]


@queue_service.handler("slow", queue_name="slow")
async def slow(ctx: pgqueue.TaskContext, _payload: dict[str, int]) -> None:
    witness("start", ctx)
    for step in range(10):
        await ctx.update_progress_with_steps("work", step, 10)
        await asyncio.sleep(0.1)
    witness("end", ctx)
