"""No lost wake-up: workers keep running dry while tasks are submitted in every way there is.

The safety poll is set to an hour: a task whose wake-up got lost would not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from typing import TYPE_CHECKING, Any

import psycopg

import pgqueue
from pgqueue.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

Connection = psycopg.AsyncConnection[Any]

SUBMITTERS = 20
EACH, EACH_LONG = 100, 2000
DEADLINE_S = 20.0
SUBMIT = "select pgqueue.submit('work')"
INSERT = "insert into pgqueue.tasks (task_type) values ('work')"


async def plain(conn: Connection, _chance: random.Random) -> int:
    await conn.execute(INSERT)
    return 1


async def function(conn: Connection, _chance: random.Random) -> int:
    await conn.execute(SUBMIT)
    return 1


async def bulk(conn: Connection, chance: random.Random) -> int:
    count = chance.randrange(1, 20)
    await conn.execute(
        "select count(*) from pgqueue.submit_many((select jsonb_agg(jsonb_build_object('task_type', 'work'))"
        " from generate_series(1, %s)))",
        (count,),
    )
    return count


async def long_transaction(conn: Connection, chance: random.Random) -> int:
    async with conn.transaction():
        await conn.execute(INSERT)
        await asyncio.sleep(chance.uniform(0, 0.4))
    return 1


async def repeatable_read(conn: Connection, chance: random.Random) -> int:
    async with conn.transaction():
        await conn.execute("set transaction isolation level repeatable read")
        await conn.execute("select 1")
        await asyncio.sleep(chance.uniform(0, 0.1))
        await conn.execute(SUBMIT)
    return 1


async def rolled_back(conn: Connection, chance: random.Random) -> int:
    async with conn.transaction(force_rollback=True):
        await conn.execute(SUBMIT)
        await asyncio.sleep(chance.uniform(0, 0.05))
    return 0


async def by_trigger(conn: Connection, _chance: random.Random) -> int:
    await conn.execute("insert into orders default values")
    return 1


async def delayed(conn: Connection, chance: random.Random) -> int:
    await conn.execute(
        "insert into pgqueue.tasks (task_type, run_at) values ('work', clock_timestamp() + %s * interval '1 ms')",
        (chance.randrange(0, 300),),
    )
    return 1


async def out_of_order(conn: Connection, _chance: random.Random) -> int:
    """Due long ago: behind every cursor."""
    await conn.execute("insert into pgqueue.tasks (task_type, run_at) values ('work', now() - interval '1 hour')")
    return 1


async def another_priority(conn: Connection, chance: random.Random) -> int:
    await conn.execute(
        "insert into pgqueue.tasks (task_type, priority) values ('work', %s)", (chance.randrange(1, 30),)
    )
    return 1


WAYS: list[Callable[[Connection, random.Random], Awaitable[int]]] = [
    *(plain, function, bulk, long_transaction, repeatable_read),
    *(rolled_back, by_trigger, delayed, out_of_order, another_priority),
]


async def submit_at_random(dsn: str, seed: int, times: int) -> int:
    chance = random.Random(seed)  # noqa: S311 - a run that can be repeated
    submitted = 0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        for _ in range(times):
            submitted += await chance.choice(WAYS)(conn, chance)
            await asyncio.sleep(chance.choice([0, 0, 0.001, 0.01, 0.05, chance.uniform(0, 0.2)]))
    return submitted


@contextlib.asynccontextmanager
async def working(dsn: str, slots: int) -> AsyncIterator[None]:
    settings = Settings(poll_s=3600)
    service = pgqueue.QueueService(pgqueue.Database(dsn, settings=settings))

    @service.handler("work")
    async def work(_ctx: pgqueue.TaskContext) -> None:
        await asyncio.sleep(0.001)

    task = asyncio.create_task(service.start(queues={"default": slots}, handle_signals=False, settings=settings))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_every_task_starts_though_the_safety_poll_is_an_hour(dsn: str, aconn: Connection, *, long: bool) -> None:
    await aconn.execute("create table orders (id bigint generated always as identity)")
    await aconn.execute(
        "create function submit_order() returns trigger language plpgsql as "
        "$$ begin perform pgqueue.submit('work'); return null; end $$"
    )
    await aconn.execute(
        "create trigger submit_order after insert on orders for each row execute function submit_order()"
    )
    seed = int(os.environ.get("PGQUEUE_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
    async with working(dsn, 3), working(dsn, 50):
        counts = await asyncio.gather(
            *(submit_at_random(dsn, seed + n, EACH_LONG if long else EACH) for n in range(SUBMITTERS))
        )
        async with asyncio.timeout(DEADLINE_S):
            while await live(aconn):  # noqa: ASYNC110 - the database has no asyncio event to wait for
                await asyncio.sleep(0.05)
    cursor = await aconn.execute("select count(*) from pgqueue.finished_tasks where status = 'completed'")
    assert await cursor.fetchone() == (sum(counts),), f"seed {seed}"


async def live(conn: Connection) -> int:
    cursor = await conn.execute("select count(*) from pgqueue.tasks")
    row = await cursor.fetchone()
    return row[0] if row else 0
