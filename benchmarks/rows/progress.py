"""Progress reports: how many land, and how soon a follower has them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import pgqueue
from benchmarks.bench import latencies
from benchmarks.model import Figure, Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.bench import Bench
    from benchmarks.peers.catalogue import Peer

WRITES = "select n_tup_ins + n_tup_upd from pg_stat_all_tables where relid = 'pgqueue.task_progress'::regclass"


def reports(bench: Bench, peer: Peer) -> Iterator[Figure]:
    """Many handlers report all the time; one alone is followed."""
    running = bench.size(500, 20)
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(bench.database(peer))
        worker = bench.idle_worker(peer, database, stack, "busy")
        delays, rate = asyncio.run(_follow(bench, database, running))
        worker.check()
    yield Figure(peer.name, "writes", "/s", [rate], f"{running} handlers, each at most 10/s")
    yield from latencies(peer, delays, "one follower", "delivery ")


async def _follow(bench: Bench, database: str, running: int) -> tuple[list[float], float]:
    settings = pgqueue.Settings(dsn=bench.server.url(database), log_level="warning")
    service = pgqueue.QueueService(pgqueue.Database(settings=settings))
    async with service.db:
        followed = await service.submit_task(_request(reports=bench.size(100, 20)))
        delays = [
            (time.time() - float(report.message)) * 1000 async for report in followed.progress() if report.message
        ]
        await service.submit_tasks(_request(reports=100_000) for _ in range(running))
        await asyncio.sleep(bench.seconds(3))
        began, before = time.time(), int(str(bench.server.value(WRITES, database)))
        await asyncio.sleep(bench.seconds(10))
        after = int(str(bench.server.value(WRITES, database)))
        return delays, (after - before) / (time.time() - began)


def _request(reports: int) -> pgqueue.TaskRequest:
    return pgqueue.TaskRequest(task_type="progress", payload={"reports": reports, "every_s": 0.02})


ROWS = (Row("progress", "reports that land a second, and their delay until a follower has them", reports),)
