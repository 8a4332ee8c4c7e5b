"""CPU work in processes: several cores at once, a timeout that kills, and a limit on memory.

A plain function with executor="process" runs in a process of its own. A loop that never looks up is killed
when its time is over; one that wants too much memory gets MemoryError. The worker goes on with the next task.

    pgqueue up                      # once: database and schema; or set PGQUEUE_DSN and `pgqueue migrate`
    python examples/cpu_in_processes.py
"""

from __future__ import annotations

import asyncio
import math

import msgspec

from pgqueue import Database, QueueService, TaskContext, log

queue_service = QueueService(Database())
queue_service.register_queue("cpu", concurrency=2)


class Span(msgspec.Struct):
    """Numbers from `start` up to before `stop`."""

    start: int
    stop: int


@queue_service.handler("count_primes", queue_name="cpu", executor="process")
def count_primes(_ctx: TaskContext, span: Span) -> int:
    """Count the primes of a span."""
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(max(span.start, 2), span.stop))


@queue_service.handler("never_ends", queue_name="cpu", executor="process", timeout=1, max_retries=0)
def never_ends(_ctx: TaskContext) -> None:
    """Loop for ever: killed after one second."""
    while True:
        pass


@queue_service.handler("wants_it_all", queue_name="cpu", executor="process", memory_limit_mb=1024, max_retries=0)
def wants_it_all(_ctx: TaskContext) -> int:
    """Ask for 4 GiB where there is one."""
    return len(bytearray(4 << 30))


async def main() -> None:
    """Run two spans at once, then the two that cannot end well, and print how each ended."""
    async with queue_service.db:
        await queue_service.create_queue("cpu", concurrency=2)
        tasks = [await count_primes.submit(Span(n, n + 50_000)) for n in (0, 50_000)]
        tasks += [await never_ends.submit(), await wants_it_all.submit()]
        await queue_service.drain()
        for task in tasks:
            ended = await task.refresh()
            said = ended.result_value if ended.status == "completed" else ended.error
            print(f"{ended.task_type}: {ended.status}: {said}")


if __name__ == "__main__":
    log.configure("warning")
    asyncio.run(main())
