"""An order and the task that follows from it, in one transaction: both are there, or neither.

A web app that saves an order and then submits a task may die in between; one that submits first may mail
for an order that was rolled back. With `conn=` the task is part of the app's own transaction, and a worker
sees it when the order is committed.

    pgqueue up                      # once: database and schema; or set PGQUEUE_DSN and `pgqueue migrate`
    python examples/outbox.py
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import psycopg

from pgqueue import Database, QueueService, Task, TaskContext, log

if TYPE_CHECKING:
    from typing import Any

    Connection = psycopg.AsyncConnection[Any]

TABLES = """
create table if not exists shop_stock (item text primary key, left_over int not null check (left_over >= 0));
create table if not exists shop_orders (id bigint generated always as identity primary key, item text, customer text);
insert into shop_stock values ('tea', 2) on conflict (item) do update set left_over = 2;
"""

queue_service = QueueService(Database())


class Confirmation(msgspec.Struct):
    """What the confirmation is about."""

    order_id: int
    customer: str


@queue_service.handler("confirm_order", queue_name="mail")
async def confirm_order(_ctx: TaskContext, order: Confirmation) -> str:
    """Stands for sending a mail."""
    return f"{order.customer}: your order {order.order_id} is on its way"


async def place_order(conn: Connection, item: str, customer: str) -> Task:
    """Take the item from stock, save the order, submit its confirmation. Raises CheckViolation where none is left."""
    async with conn.transaction():
        cursor = await conn.execute(
            "insert into shop_orders (item, customer) values (%s, %s) returning id", [item, customer]
        )
        (order_id,) = await cursor.fetchone() or (0,)
        task: Task = await confirm_order.submit(Confirmation(order_id, customer), conn=conn)
        await conn.execute("update shop_stock set left_over = left_over - 1 where item = %s", [item])
    return task


async def main() -> None:
    """Sell two of two teas, then a third: its order and its task are rolled back together."""
    async with queue_service.db as db, await psycopg.AsyncConnection.connect(db.dsn, autocommit=True) as conn:
        await conn.execute(TABLES.encode())
        await queue_service.create_queue("mail")
        placed = [await place_order(conn, "tea", name) for name in ("Ada", "Grace")]
        try:
            await place_order(conn, "tea", "Edsger")
        except psycopg.errors.CheckViolation:
            print("Edsger: no tea is left; neither order nor task was kept")
        await queue_service.drain()
        for task in placed:
            print(await task.result(str))


if __name__ == "__main__":
    log.configure("warning")
    asyncio.run(main())
