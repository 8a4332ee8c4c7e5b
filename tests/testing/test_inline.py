"""run_inline runs a handler as a worker would, and shows what it did."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest

from pgqueue import (
    Cancel,
    ConfigurationError,
    Database,
    InvalidInput,
    PayloadError,
    PermanentError,
    QueueService,
    RetryLater,
    Snooze,
    TaskContext,
)
from pgqueue.testing import run_inline, run_inline_sync


class Order(msgspec.Struct):
    number: int
    lines: list[str] = []


class Receipt(msgspec.Struct):
    total: int


async def ship(ctx: TaskContext, order: Order) -> Receipt:
    await ctx.update_progress(50, "packed")
    await asyncio.sleep(0)
    await ctx.update_progress_with_steps("send", 2, 2, "sent")
    await ctx.log("info", "shipped", number=order.number)
    return Receipt(total=len(order.lines))


def ship_plainly(ctx: TaskContext, order: Order) -> dict[str, Any]:
    ctx.update_progress(10, threading.current_thread().name)
    ctx.set_result({"unused": True})
    return {"number": order.number}


async def nothing(ctx: TaskContext) -> None:
    await ctx.set_result({"kept": ctx.attempt})


async def test_an_async_handler_gets_its_payload_decoded_and_reports() -> None:
    run = await run_inline(ship, {"number": 7, "lines": ["tea", "pot"]})
    assert run.outcome == "completed"
    assert run.result == {"total": 2}
    assert [(p.progress, p.message, p.step) for p in run.progress] == [(50, "packed", None), (100, "sent", "send")]
    assert [(line.level, line.message, line.fields) for line in run.logs] == [("info", "shipped", {"number": 7})]
    assert run.messages == ["shipped"]


async def test_a_plain_handler_runs_in_a_thread() -> None:
    run = await run_inline(ship_plainly, Order(number=7))
    assert run.result == {"number": 7}
    assert run.progress[0].message != threading.main_thread().name


def test_a_test_needs_no_event_loop() -> None:
    assert run_inline_sync(ship, Order(number=7)).result == {"total": 0}
    assert run_inline_sync(nothing, attempt=3).result == {"kept": 3}


async def test_a_registered_handler_brings_its_options_and_needs_no_database() -> None:
    service = QueueService(Database("dbname=nowhere"))

    @service.handler("seen", queue_name="slow", max_retries=7, timeout=30)
    async def seen(ctx: TaskContext) -> list[Any]:
        return [ctx.task_type, ctx.queue_name, ctx.max_retries, ctx.timeout, ctx.user_id, ctx.priority, ctx.metadata]

    run = await run_inline(seen, user_id="u1", priority=20, metadata={"a": 1})
    assert run.result == ["seen", "slow", 7, 30, "u1", 20, {"a": 1}]


async def test_what_a_handler_raises_is_raised() -> None:
    async def fail(ctx: TaskContext) -> None:
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        await run_inline(fail)
    run = await run_inline(fail, catch=True)
    assert (run.outcome, run.permanent, type(run.error)) == ("failed", False, KeyError)


@pytest.mark.parametrize(
    ("error", "outcome", "permanent", "delay"),
    [
        (PermanentError("no"), "failed", True, None),
        (RetryLater(30), "failed", False, 30.0),
        (Snooze(60), "snoozed", False, 60.0),
        (Cancel("no longer wanted"), "cancelled", False, None),
    ],
)
async def test_outcomes_are_told(error: Exception, outcome: str, *, permanent: bool, delay: float | None) -> None:
    def end(ctx: TaskContext) -> None:
        raise error

    run = await run_inline(end, catch=True)
    assert (run.outcome, run.permanent, run.delay, run.error) == (outcome, permanent, delay, error)


async def test_a_payload_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(PayloadError, match=r"\$\.number"):
        await run_inline(ship, {"number": "seven"})
    with pytest.raises(InvalidInput, match="nan"):
        await run_inline(ship, {"number": float("nan")})


async def test_a_cancelled_handler_can_see_it() -> None:
    async def look(ctx: TaskContext) -> list[bool]:
        return [ctx.cancelled, await ctx.still_mine()]

    assert (await run_inline(look)).result == [False, True]
    assert (await run_inline(look, cancelled=True)).result == [True, False]


async def test_what_cannot_be_a_handler_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        await run_inline(lambda: None)
