"""A shop's background work: mails, pictures, exports, payments; some of it fails, as it does in life.

    pgqueue-worker shop:queue_service        in the folder examples
    python -m shop 500                       submits 500 tasks, and three schedules

The dashboard's screenshots are taken of this.
"""

from __future__ import annotations

import asyncio
import random
import sys

import msgspec

from pgqueue import Database, PermanentError, QueueService, RetryLater, SchedulerService, TaskContext, TaskRequest
from pgqueue.models import ScheduledTaskRequest

queue_service = QueueService(Database())
for name, concurrency in {"mail": 8, "pictures": 4, "reports": 2, "payments": 4}.items():
    queue_service.register_queue(name, concurrency)

chance = random.Random()  # noqa: S311 - nothing depends on it
STAGES = ("Reading orders", "Converting currencies", "Adding up", "Writing the file")


class Mail(msgspec.Struct):
    """A mail to a customer."""

    to: str
    template: str
    order: int


class Picture(msgspec.Struct):
    """A picture of a product, in the sizes that are wanted."""

    product: int
    sizes: list[int]


@queue_service.handler("send_email", queue_name="mail", max_retries=2)
async def send_email(ctx: TaskContext, mail: Mail) -> dict[str, object]:
    await ctx.log("info", "connecting", server="smtp.example.org")
    await asyncio.sleep(chance.uniform(0.02, 0.12))
    if mail.to.endswith("@invalid.example"):
        raise PermanentError(f"550 mailbox {mail.to} is unknown")
    if chance.random() < 0.04:
        raise ConnectionResetError("smtp.example.org closed the connection")
    return {"accepted": [mail.to], "message_id": f"<{ctx.task_id}@example.org>"}


@queue_service.handler("make_thumbnails", queue_name="pictures", max_retries=1)
async def make_thumbnails(ctx: TaskContext, picture: Picture) -> dict[str, object]:
    made = []
    for nr, size in enumerate(picture.sizes, 1):
        await asyncio.sleep(chance.uniform(0.05, 0.2))
        if picture.product % 37 == 0:
            raise ValueError(f"product-{picture.product}.jpg: the image is truncated after 48213 bytes")
        await ctx.log("debug", "scaled", size=size)
        made.append(f"product-{picture.product}@{size}.webp")
        await ctx.update_progress(100 * nr // len(picture.sizes), f"{size} px")
    return {"files": made}


@queue_service.handler("monthly_export", queue_name="reports", timeout=600)
async def monthly_export(ctx: TaskContext, payload: dict[str, object]) -> dict[str, object]:
    seconds = float(str(payload.get("seconds", 20)))
    for step in range(100):
        stage = STAGES[step // 25]
        if step % 25 == 0:
            await ctx.log("info", stage.lower(), step=step)
        await ctx.update_progress_with_steps(stage, step, 100, f"{stage}: {step * 124:,} of 12,400 orders")
        await asyncio.sleep(seconds / 100)
    await ctx.log("warning", "3 orders have no currency; EUR was taken", orders=[81_220, 81_907, 82_114])
    return {"file": f"exports/{payload.get('month', '2026-10')}.parquet", "orders": 12_400, "total": "1834202.17"}


@queue_service.handler("capture_payment", queue_name="payments", max_retries=3)
async def capture_payment(ctx: TaskContext, payload: dict[str, object]) -> dict[str, object]:
    await asyncio.sleep(chance.uniform(0.05, 0.3))
    if chance.random() < 0.12:
        await ctx.log("error", "the bank did not answer in time", bank="examplebank")
        raise RetryLater(chance.uniform(5, 120))
    return {"captured": True, "amount": payload.get("amount")}


def some_task() -> TaskRequest:
    """Return a task as they come in."""
    number = chance.randint(10_000, 99_999)
    user = f"customer-{number % 900}"
    kind = chance.choices(("send_email", "make_thumbnails", "capture_payment"), (6, 2, 2))[0]
    if kind == "send_email":
        host = "invalid.example" if number % 31 == 0 else "example.com"
        template = chance.choice(("order_confirmation", "shipping_notice", "invoice"))
        payload: dict[str, object] = {"to": f"{user}@{host}", "template": template, "order": number}
        return TaskRequest(task_type=kind, queue_name="mail", payload=payload, user_id=user)
    if kind == "make_thumbnails":
        payload = {"product": number, "sizes": [64, 256, 1024]}
        return TaskRequest(task_type=kind, queue_name="pictures", payload=payload, project_id="catalogue")
    payload = {"order": number, "amount": f"{number / 100:.2f}", "currency": "EUR", "customer": {"id": number % 900}}
    return TaskRequest(task_type=kind, queue_name="payments", payload=payload, user_id=user, priority=10)


SCHEDULES = (
    ("monthly-export", "monthly_export", "0 6 1 * *", "Europe/Berlin", "reports", {"month": "last"}),
    ("nightly-thumbnails", "make_thumbnails", "30 2 * * *", "UTC", "pictures", {"product": 4711, "sizes": [64, 256]}),
    (
        "newsletter",
        "send_email",
        "0 9 * * 1-5",
        "America/New_York",
        "mail",
        {"to": "all@example.com", "template": "news", "order": 0},
    ),
)


async def main(count: int) -> None:
    """Submit tasks and make the schedules."""
    async with queue_service.db:
        for name, concurrency in {"mail": 8, "pictures": 4, "reports": 2, "payments": 4}.items():
            await queue_service.create_queue(name, concurrency=concurrency)
        await queue_service.submit_tasks([some_task() for _ in range(count)])
        scheduler = SchedulerService(queue_service.db, queue_service)
        for name, task_type, cron_expr, time_zone, queue_name, payload in SCHEDULES:
            wanted = ScheduledTaskRequest(
                name=name,
                task_type=task_type,
                cron_expr=cron_expr,
                time_zone=time_zone,
                queue_name=queue_name,
                payload=payload,
                on_conflict="return",
            )
            await scheduler.create_scheduled_task(wanted)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200))
