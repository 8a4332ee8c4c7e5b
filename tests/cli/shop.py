"""The module that the tests give to `pgqueue worker`."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

import pgqueue

queue_service = pgqueue.QueueService(pgqueue.Database())
queue_service.register_queue("parcels", concurrency=2)
not_a_service = 42


class Order(msgspec.Struct):
    """What to ship."""

    items: int = 1


@queue_service.handler("add")
async def add(_ctx: pgqueue.TaskContext, payload: dict[str, Any]) -> int:
    """Return a sum."""
    return int(payload["a"] + payload["b"])


@queue_service.handler("ship", queue_name="parcels")
async def ship(ctx: pgqueue.TaskContext, payload: Order) -> dict[str, int]:
    """Report each item, log it, return how many there were."""
    for number in range(payload.items):
        await ctx.update_progress_with_steps("pack", number, payload.items, f"item {number} \x1b[31m")
        await ctx.log("info", "packed", item=number)
        await asyncio.sleep(0.15)
    return {"items": payload.items}


@queue_service.handler("fail")
async def fail(_ctx: pgqueue.TaskContext) -> None:
    """Fail for good."""
    raise pgqueue.PermanentError("the parcel is lost")


@queue_service.handler("endless")
async def endless(ctx: pgqueue.TaskContext) -> None:
    """Run until cancelled."""
    await ctx.update_progress(10, "going on")
    await asyncio.sleep(3600)


async def drain(dsn: str) -> None:
    """Run what is due in this database."""
    queue_service.db = pgqueue.Database(dsn)
    async with queue_service.db:
        await queue_service.drain()
