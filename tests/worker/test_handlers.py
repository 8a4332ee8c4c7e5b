"""How handlers run and end: async, in threads, in processes."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from pgqueue import (
    Cancel,
    PermanentError,
    QueueService,
    Retry,
    RetryLater,
    Snooze,
    StateService,
    Task,
    TaskContext,
    TaskFailed,
    TaskRequest,
    sync,
)
from tests.polling import until
from tests.worker import work
from tests.worker.conftest import DEADLINE_S, ended

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg

    from pgqueue.handlers import Executor
    from tests.worker.conftest import Serve


class Article(msgspec.Struct):
    title: str
    pages: list[int]


@dataclass
class Point:
    x: int


class Options(TypedDict):
    name: str


EXECUTORS: list[Executor] = ["async", "thread", "process"]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


async def outcomes(service: QueueService, task: Task) -> list[str]:
    return [execution.outcome for execution in await service.get_executions(task.task_id)]


async def submit(service: QueueService, task_type: str, payload: Any = None, **options: Any) -> Task:  # noqa: ANN401 - any value
    return await service.submit_task(TaskRequest(task_type=task_type, payload=payload or {}, **options))


async def test_payloads_come_as_the_type_that_the_handler_asks_for(service: QueueService) -> None:
    seen: list[object] = []

    async def struct(ctx: TaskContext, payload: Article) -> None:
        seen.append(payload)

    async def plain(ctx: TaskContext, payload: dict[str, int]) -> None:
        seen.append(payload)

    def data(ctx: TaskContext, payload: Point) -> None:
        seen.append(payload)

    def typed(ctx: TaskContext, payload: Options) -> None:
        seen.append(payload)

    async def nothing(ctx: TaskContext) -> None:
        seen.append(ctx.task_type)

    for handler in (struct, plain, data, typed, nothing):
        service.register_handler(handler.__name__, handler)
    await submit(service, "struct", Article("t", [1]))
    await submit(service, "plain", {"a": 1})
    await submit(service, "data", Point(3))
    await submit(service, "typed", {"name": "n"})
    await submit(service, "nothing")
    await service.drain()
    for value in (Article("t", [1]), {"a": 1}, Point(3), {"name": "n"}, "nothing"):
        assert value in seen


@pytest.mark.parametrize("executor", ["async", "process"])
async def test_a_payload_that_does_not_fit_fails_at_once_with_the_path(service: QueueService, executor: str) -> None:
    async def article(ctx: TaskContext, payload: work.Sum) -> None:
        """Never runs."""

    if executor == "async":
        service.register_handler("sum", article)
    else:
        service.register_handler("sum", work.add, executor="process")
    task = await submit(service, "sum", {"numbers": [1, "two"]}, max_retries=5)
    await service.drain()
    failed = await task.refresh()
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert "$.numbers[1]" in str(failed.error)
    assert "int" in str(failed.error)


async def test_a_type_without_a_handler_names_those_there_are(service: QueueService) -> None:
    service.register_handler("known", work.broken)
    service.register_handler("other", work.odd)
    task = await submit(service, "unknown", max_retries=5)
    await service.drain()
    failed = await task.refresh()
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert "no handler is registered for task type 'unknown'; registered: known, other" in str(failed.error)


async def test_a_row_that_python_cannot_decode_fails_alone(
    service: QueueService, conn: psycopg.Connection[Any]
) -> None:
    done: list[int] = []

    @service.handler("work")
    async def handle(ctx: TaskContext, payload: dict[str, Any]) -> None:
        done.append(ctx.task_id)

    insert = "insert into pgqueue.tasks (task_type, payload) values ('work', %s::jsonb) returning id"
    bad = [conn.execute(insert, (text,)).fetchone() for text in ('{"n": ' + "1" * 5001 + "}", "[" * 3000 + "]" * 3000)]
    fine = await service.submit_tasks(TaskRequest(task_type="work") for _ in range(20))
    await service.drain()
    assert sorted(done) == [task.task_id for task in fine]
    for row in bad:
        assert row is not None
        failed = await service.get_task(row[0])
        assert (failed.status, failed.attempt) == ("failed", 1)
        assert "payload does not fit" in str(failed.error)


async def test_a_failure_is_retried_until_it_succeeds(service: QueueService) -> None:
    @service.handler("flaky", retry=Retry.fixed(0.01))
    async def flaky(ctx: TaskContext) -> int:
        if ctx.attempt < 3:
            raise ValueError(f"not yet: {ctx.attempt}")
        return ctx.attempt

    task = await flaky.submit(max_retries=5)
    while not (await task.refresh()).finished_at:
        await service.drain()
    assert await task.result() == 3
    assert await outcomes(service, task) == ["failed", "failed", "completed"]
    first = (await service.get_executions(task.task_id))[0]
    assert (first.error_type, first.error_message) == ("ValueError", "not yet: 1")
    assert "in flaky" in str(first.traceback)


async def test_retries_end(service: QueueService) -> None:
    @service.handler("broken", retry=Retry.fixed(0), max_retries=2)
    async def broken(ctx: TaskContext) -> None:
        raise ValueError("always\x00 \ud800 odd")

    task = await broken.submit()
    while not (await task.refresh()).finished_at:
        await service.drain()
    failed = await task.refresh()
    assert (failed.status, failed.attempt, failed.failures) == ("failed", 3, 3)
    with pytest.raises(TaskFailed, match="always"):
        await failed.result()


async def test_outcomes_that_a_handler_raises(service: QueueService) -> None:
    @service.handler("outcome")
    async def outcome(ctx: TaskContext, payload: dict[str, str]) -> None:
        if ctx.attempt == 1:
            raise {
                "later": RetryLater(0, "the server is busy"),
                "snooze": Snooze(0, "not yet"),
                "cancel": Cancel("no longer needed"),
                "permanent": PermanentError("gone for good"),
            }[payload["how"]]

    tasks = {how: await submit(service, "outcome", {"how": how}) for how in ("later", "snooze", "cancel", "permanent")}
    while not all([(await task.refresh()).finished_at for task in tasks.values()]):
        await service.drain()
    found = {how: await task.refresh() for how, task in tasks.items()}
    assert {how: (task.status, task.failures) for how, task in found.items()} == {
        "later": ("completed", 1),
        "snooze": ("completed", 0),
        "cancel": ("cancelled", 0),
        "permanent": ("failed", 1),
    }
    assert (found["cancel"].error, await outcomes(service, tasks["snooze"])) == (
        "no longer needed",
        ["snoozed", "completed"],
    )
    assert "gone for good" in str(found["permanent"].error)


async def test_results_of_threads_and_processes(service: QueueService) -> None:
    service.register_handler("thread", work.add)
    service.register_handler("process", work.add, executor="process")
    thread, process = (
        await submit(service, "thread", {"numbers": [1, 2]}),
        await submit(service, "process", {"numbers": [3]}),
    )
    await service.drain()
    in_thread, in_process = await thread.result(), await process.result()
    assert in_thread == {"sum": 3, "pid": os.getpid()}
    assert in_process["sum"] == 3
    assert in_process["pid"] != os.getpid()
    for task in (thread, process):
        report = (await task.refresh()).progress_report
        assert (report["step"], report["completed_steps"], report["message"]) == ("adding", 1, "half")
        lines = {line.message for line in await service.get_logs(task.task_id)}
        assert "adds" in lines


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_result_that_is_no_json_is_replaced_by_a_note(service: QueueService, executor: Executor) -> None:
    async def odd(ctx: TaskContext) -> Any:  # noqa: ANN401 - any value
        return work.odd(ctx)

    service.register_handler("odd", odd if executor == "async" else work.odd, executor=executor)
    task = await submit(service, "odd")
    await service.drain()
    done = await task.refresh()
    assert done.status == "completed"
    assert "result.odd is <object" in done.result_value["unwritable_result"]


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_timeout_ends_the_attempt(
    service: QueueService, serve: Serve, tmp_path: Path, executor: Executor
) -> None:
    """An async handler is cancelled, a process killed; a thread is asked, and its end counts as the timeout's."""

    async def waits(ctx: TaskContext, payload: dict[str, str]) -> None:
        await asyncio.Event().wait()

    handlers: dict[str, Any] = {"async": waits, "thread": work.until_cancelled, "process": work.forever}
    service.register_handler("long", handlers[executor], executor=executor)
    path = tmp_path / "pid"
    task = await submit(service, "long", {"path": str(path)}, timeout=1, max_retries=0)
    async with serve():
        failed = await ended(task)
        assert (failed.status, await outcomes(service, task)) == ("failed", ["timed_out"])
        assert "longer than 1 s" in str(failed.error)
        if executor == "process":
            pid = int(path.read_text())
            await until(lambda: not alive(pid))


@pytest.mark.parametrize("executor", EXECUTORS)
async def test_a_running_task_is_cancelled(
    service: QueueService, serve: Serve, tmp_path: Path, executor: Executor
) -> None:
    path = tmp_path / "pid"

    async def waits(ctx: TaskContext, payload: dict[str, str]) -> None:
        path.write_text(str(os.getpid()))
        await asyncio.Event().wait()

    handlers: dict[str, Any] = {"async": waits, "thread": work.until_cancelled, "process": work.forever}
    service.register_handler("long", handlers[executor], executor=executor)
    task = await submit(service, "long", {"path": str(path)}, max_retries=5)
    async with serve():
        await until(lambda: path.exists() and path.read_text() != "")
        assert await task.cancel("enough") == "running"
        done = await ended(task)
        assert (done.status, done.error, await outcomes(service, task)) == ("cancelled", "enough", ["cancelled"])
        if executor == "process":
            pid = int(path.read_text())
            await until(lambda: not alive(pid))


async def test_a_memory_limit_fails_the_task_not_the_worker(service: QueueService) -> None:
    service.register_handler("hungry", work.hungry, executor="process", memory_limit_mb=1024)
    service.register_handler("add", work.add, executor="process")
    hungry = await submit(service, "hungry", max_retries=0)
    await service.drain()
    fine = await submit(service, "add", {"numbers": [1]})
    await service.drain()
    failed = await hungry.refresh()
    assert failed.status == "failed"
    assert "MemoryError" in str((await service.get_executions(hungry.task_id))[0].error_type)
    assert (await fine.result())["sum"] == 1


async def test_a_process_that_dies_fails_its_task_only(service: QueueService) -> None:
    service.register_handler("dies", work.dies, executor="process")
    service.register_handler("add", work.add, executor="process")
    dies = await submit(service, "dies", max_retries=0)
    fine = [await submit(service, "add", {"numbers": [n]}) for n in range(3)]
    await service.drain()
    assert "died" in str((await dies.refresh()).error)
    assert [(await task.result())["sum"] for task in fine] == [0, 1, 2]


async def test_progress_is_coalesced_and_the_last_report_lands(
    service: QueueService, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("create table public.writes (n int)")
    conn.execute(
        "create function public.note() returns trigger language plpgsql as "
        "'begin insert into public.writes values (new.progress); return null; end'"
    )
    conn.execute(
        "create trigger note after insert or update on pgqueue.task_progress "
        "for each row execute function public.note()"
    )

    @service.handler("busy")
    async def busy(ctx: TaskContext) -> None:
        for n in range(5000):
            await ctx.update_progress(n // 50, f"at {n}")
            if n % 100 == 0:
                await asyncio.sleep(0)

    task = await busy.submit()
    await service.drain()
    done = await task.refresh()
    assert (done.progress_report["progress"], done.progress_report["message"]) == (99, "at 4999")
    row = conn.execute("select count(*), max(n) from public.writes").fetchone()
    assert row is not None
    assert row[0] < 100
    assert row[1] == 99
    assert (await StateService(service.db).get_progress(task.task_id)).progress == 100


async def test_logs_of_the_context_and_of_structlog_are_kept_and_cut(service: QueueService) -> None:
    @service.handler("chatty")
    async def chatty(ctx: TaskContext) -> None:
        await ctx.log("info", "by ctx\x00", what={"a": 1}, odd=object())
        ctx.logger.warning("by structlog", n=1)
        structlog.get_logger().error("by another logger")
        for n in range(1200):
            await ctx.log("debug", f"line {n}")

    task = await chatty.submit()
    await service.drain()
    lines = await service.get_logs(task.task_id, limit=5000)
    assert [(line.level, line.message) for line in lines[:3]] == [
        ("info", "by ctx\\x00"),
        ("warning", "by structlog"),
        ("error", "by another logger"),
    ]
    assert lines[0].fields["what"] == {"a": 1}
    assert lines[1].fields == {"n": 1}
    assert len(lines) == 1001
    assert "log cut" in lines[-1].message
    assert {line.attempt for line in lines} == {1}


async def test_what_the_context_tells(service: QueueService) -> None:
    seen: dict[str, Any] = {}

    @service.handler("tells", timeout=50)
    async def tells(ctx: TaskContext) -> None:
        names = ("task_id", "attempt", "task_type", "queue_name", "priority", "timeout", "max_retries", "failures")
        for name in (*names, "unique_key", "user_id", "project_id", "metadata", "cancelled", "created_at"):
            seen[name] = getattr(ctx, name)
        seen["mine"] = await ctx.still_mine()
        await ctx.set_result({"by": "ctx"})

    task = await tells.submit(priority=7, unique_key="k", user_id="u", project_id="p", metadata={"m": 1}, max_retries=4)
    await service.drain()
    created_at = seen.pop("created_at")
    assert created_at == (await task.refresh()).created_at
    assert seen == {
        "task_id": task.task_id, "attempt": 1, "task_type": "tells", "queue_name": "default", "priority": 7,
        "timeout": 50, "max_retries": 4, "failures": 0, "unique_key": "k", "user_id": "u", "project_id": "p",
        "metadata": {"m": 1}, "cancelled": False, "mine": True,
    }  # fmt: skip
    assert await task.result() == {"by": "ctx"}


async def test_nonsense_of_a_handler_is_told_to_it(service: QueueService) -> None:
    @service.handler("nonsense")
    async def nonsense(ctx: TaskContext) -> list[str]:
        told = []
        acts: list[Callable[[], object]] = [
            lambda: ctx.update_progress(101),
            lambda: ctx.update_progress_with_steps("s", 3, 2),
            lambda: ctx.log("loud", "x"),
        ]
        for act in acts:
            with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is looked at below
                act()
            told.append(str(caught.value))
        return told

    task = await nonsense.submit()
    await service.drain()
    told = await task.result()
    assert "between 0 and 100 percent, not 101" in told[0]
    assert "3 of 2 steps" in told[1]
    assert "no log level 'loud'" in told[2]


async def test_context_variables_do_not_leak_from_task_to_task(service: QueueService) -> None:
    leak: contextvars.ContextVar[int] = contextvars.ContextVar("leak", default=0)

    @service.handler("quick")
    async def quick(ctx: TaskContext) -> int:
        found = leak.get()
        leak.set(ctx.task_id)
        structlog.contextvars.bind_contextvars(leaked=ctx.task_id)
        return found

    @service.handler("waits")
    async def waits(ctx: TaskContext) -> int:
        await asyncio.sleep(0)
        found = leak.get()
        leak.set(ctx.task_id)
        await asyncio.sleep(0)
        assert leak.get() == ctx.task_id
        return found

    service.register_handler("marked", work.marked)
    tasks = await service.submit_tasks(TaskRequest(task_type=kind) for kind in ["quick", "waits", "marked"] * 20)
    await service.drain()
    assert {await task.result() for task in tasks} == {0}
    assert "leaked" not in structlog.contextvars.get_contextvars()


async def test_a_handler_that_blocks_the_loop_is_named(service: QueueService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.worker.heart.BLOCKED_S", 0.2)
    warned = threading.Event()

    @service.handler("blocks")
    async def blocks(ctx: TaskContext) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not any("blocks" in str(entry.get("handler")) for entry in logs) and time.monotonic() < deadline:
            warned.wait(0.01)

    with capture_logs() as logs:
        task = await blocks.submit()
        await service.drain()
    assert (await task.refresh()).status == "completed"
    [entry] = [entry for entry in logs if "blocks the event loop" in entry["event"]]
    assert f"blocks (task {task.task_id})" in entry["handler"]


def test_a_blocking_service_runs_a_worker_too(dsn: str) -> None:
    with sync.Database(dsn) as database:
        service = sync.QueueService(database)

        @service.handler("double")
        def double(ctx: TaskContext, payload: int) -> int:
            return 2 * payload

        tasks = [double.submit(n) for n in range(10)]
        service.drain()
        assert [task.result() for task in tasks] == [2 * n for n in range(10)]
