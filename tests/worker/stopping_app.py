"""Handlers that take their time, and write down what becomes of them."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pgqueue

db = pgqueue.Database()
queue_service = pgqueue.QueueService(db)
witness = Path(os.environ["PGQUEUE_TEST_WITNESS"])


def write(word: str) -> None:
    with witness.open("a") as file:
        file.write(f"{word}\n")


@queue_service.handler("short")
async def short(_ctx: pgqueue.TaskContext) -> None:
    write("short started")
    await asyncio.sleep(0.5)


@queue_service.handler("endless")
async def endless(_ctx: pgqueue.TaskContext) -> None:
    write("endless started")
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        write("endless cancelled")
        raise


@queue_service.handler("thread")
def thread(ctx: pgqueue.TaskContext) -> None:
    write("thread started")
    while not ctx.cancelled:
        time.sleep(0.01)
    write("thread stopped")
    raise RuntimeError("stopped")


@queue_service.handler("deaf")
def deaf(_ctx: pgqueue.TaskContext) -> None:
    write("deaf started")
    time.sleep(3600)


@queue_service.handler("cpu", executor="process")
def cpu(_ctx: pgqueue.TaskContext) -> None:
    write(f"cpu started {os.getpid()}")
    while True:
        pass
