"""One trace from the request through the queue into the handler and its children; nothing at all without traces."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pgqueue import QueueNotFound, QueueService, Snooze, TaskContext, TaskNotFound, TaskRequest, telemetry
from pgqueue.http import Client
from pgqueue.telemetry import METADATA_KEY
from tests.polling import until
from tests.telemetry import process_work
from tests.web.conftest import DEADLINE_S, serving, working

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

    from pgqueue import Database

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


class Spans:
    """What was exported, and a provider that exports."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.provider.get_tracer("test")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    async def one(self, name: str) -> ReadableSpan:
        """Wait for the one span of this name."""
        await until(lambda: bool(self.named(name)))
        (span,) = self.named(name)
        return span


@pytest.fixture
def spans() -> Iterator[Spans]:
    made = Spans()
    telemetry.instrument(tracer_provider=made.provider)
    yield made
    telemetry.uninstrument()


@pytest.fixture
def parents(spans: Spans) -> Spans:
    """As `spans`; handlers' spans are children."""
    telemetry.instrument("parent", spans.provider)
    return spans


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return span.parent is not None and (span.parent.trace_id, span.parent.span_id) == ids(parent)


def linked(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


@pytest.fixture
def service(service: QueueService) -> QueueService:
    """A handler on the loop, in a thread and in a process, each with a child."""

    @service.handler("child")
    async def child(_ctx: TaskContext) -> None:
        pass

    @service.handler("parent")
    async def parent(ctx: TaskContext) -> Any:  # noqa: ANN401 - any JSON
        await service.submit_task(TaskRequest(task_type="child"))
        return ctx.metadata

    @service.handler("fails", max_retries=0)
    def fails(_ctx: TaskContext) -> None:
        msg = "broken"
        raise ValueError(msg)

    @service.handler("snoozes")
    async def snoozes(ctx: TaskContext) -> None:
        if ctx.attempt == 1:
            raise Snooze(0)

    service.register_handler("in_process", process_work.current_trace, executor="process")
    return service


class TestOneTrace:
    async def test_a_request_over_http_goes_on_into_the_handler_and_its_children(
        self, db: Database, service: QueueService, parents: Spans
    ) -> None:
        async with serving(db) as api, Client(api.url) as client, working(service):
            with parents.tracer.start_as_current_span("checkout") as root:
                task = await client.submit_task(TaskRequest(task_type="parent"))
            assert await task.result(timeout=DEADLINE_S) is None
            await until(lambda: len(parents.named("settle default")) == 2)
            (request,) = parents.named("POST /api/v1/tasks")
        send, child_send = sorted(parents.named("send default"), key=lambda span: span.start_time or 0)
        process, child = sorted(parents.named("process default"), key=lambda span: span.start_time or 0)
        settled = parents.named("settle default")
        assert {ids(span)[0] for span in (request, send, child_send, process, child, *settled)} == {
            root.get_span_context().trace_id
        }
        assert is_child(send, request)
        assert is_child(process, send)
        assert is_child(child_send, process)
        assert is_child(child, child_send)
        assert {span.parent.span_id for span in settled if span.parent} == {ids(process)[1], ids(child)[1]}

    async def test_spans_say_what_the_conventions_ask_for(
        self, db: Database, service: QueueService, spans: Spans
    ) -> None:
        async with serving(db) as api, Client(api.url) as client:
            task = await client.submit_task(TaskRequest(task_type="child"))
            with pytest.raises(TaskNotFound):
                await client.get_task(404)
        await service.drain()
        send, process, settle = [await spans.one(f"{name} default") for name in ("send", "process", "settle")]
        assert [span.kind for span in (send, process, settle)] == [
            SpanKind.PRODUCER,
            SpanKind.CONSUMER,
            SpanKind.CLIENT,
        ]
        for span, operation in ((send, "send"), (process, "process"), (settle, "settle")):
            attributes = dict(span.attributes or {})
            assert (
                attributes.items()
                >= {
                    "messaging.system": "pgqueue",
                    "messaging.operation.name": operation,
                    "messaging.operation.type": operation,
                    "messaging.destination.name": "default",
                    "messaging.message.id": str(task.task_id),
                    "pgqueue.task_type": "child",
                }.items()
            )
        assert dict(settle.attributes or {})["pgqueue.outcome"] == "completed"
        (missing,) = spans.named("GET /api/v1/tasks/{task_id}")
        assert missing.kind == SpanKind.SERVER
        assert dict(missing.attributes or {}) == {
            "http.request.method": "GET",
            "url.path": "/api/v1/tasks/404",
            "url.scheme": "http",
            "http.route": "/api/v1/tasks/{task_id}",
            "http.response.status_code": 404,
        }

    async def test_by_default_a_handler_begins_a_trace_that_is_linked(
        self, service: QueueService, spans: Spans
    ) -> None:
        with spans.tracer.start_as_current_span("request"):
            await service.submit_task(TaskRequest(task_type="parent"))
            await service.drain()
        (send, child_send), (process, child) = (
            sorted(spans.named(f"{name} default"), key=lambda span: span.start_time or 0)
            for name in ("send", "process")
        )
        assert process.parent is None
        assert linked(process) == [ids(send)]
        assert ids(process)[0] != ids(send)[0]
        assert is_child(child_send, process)
        assert linked(child) == [ids(child_send)]

    async def test_a_failure_is_told_with_its_type_and_traceback(self, service: QueueService, spans: Spans) -> None:
        await service.submit_task(TaskRequest(task_type="fails", max_retries=0))
        await service.drain()
        process = await spans.one("process default")
        assert (process.status.status_code, process.status.description) == (StatusCode.ERROR, "broken")
        assert dict(process.attributes or {})["error.type"] == "ValueError"
        (event,) = process.events
        assert event.name == "exception"
        assert "raise ValueError" in str(dict(event.attributes or {})["exception.stacktrace"])

    async def test_each_attempt_is_linked_to_the_same_submit(self, service: QueueService, spans: Spans) -> None:
        await service.submit_task(TaskRequest(task_type="snoozes"))
        await service.drain()
        send = await spans.one("send default")
        attempts = spans.named("process default")
        assert [dict(span.attributes or {})["pgqueue.outcome"] for span in attempts] == ["snoozed", "completed"]
        assert [linked(span) for span in attempts] == [[ids(send)], [ids(send)]]
        assert {span.status.status_code for span in attempts} == {StatusCode.UNSET}

    async def test_a_batch_is_one_span(self, service: QueueService, spans: Spans) -> None:
        await service.submit_tasks([TaskRequest(task_type="child") for _ in range(3)])
        await service.drain()
        send = await spans.one("send default")
        assert dict(send.attributes or {})["messaging.batch.message_count"] == 3
        assert [linked(span) for span in spans.named("process default")] == [[ids(send)]] * 3

    async def test_a_refused_submit_is_an_error(self, service: QueueService, spans: Spans) -> None:
        with pytest.raises(QueueNotFound):
            await service.submit_task(TaskRequest(task_type="child", queue_name="nowhere"))
        send = await spans.one("send nowhere")
        assert send.status.status_code == StatusCode.ERROR

    async def test_a_handler_in_a_process_goes_on_the_trace(self, service: QueueService, parents: Spans) -> None:
        task = await service.submit_task(TaskRequest(task_type="in_process"))
        async with working(service):
            seen = await task.result(str, timeout=DEADLINE_S)
        trace_id, span_id = ids(await parents.one("process default"))
        assert seen.startswith(f"00-{trace_id:032x}-{span_id:016x}-")


class TestMetadata:
    @pytest.mark.usefixtures("spans")
    async def test_metadata_are_those_of_their_owner(self, service: QueueService) -> None:
        for given in (None, {"a": 1}):
            task = await service.submit_task(TaskRequest(task_type="parent", metadata=given))
            assert task.metadata == given
            assert (await task.refresh()).metadata == given
            async with working(service):
                assert await task.result(timeout=DEADLINE_S) == given
        (listed, _) = await service.list_tasks()
        assert {str(found.metadata) for found in listed} == {"None", "{'a': 1}"}

    async def test_a_context_that_the_submitter_gave_is_kept(
        self, service: QueueService, parents: Spans, conn: psycopg.Connection[Any]
    ) -> None:
        """As plain JSON from any language."""
        metadata = f'{{"{METADATA_KEY}": {{"traceparent": "{TRACEPARENT}"}}}}'
        conn.execute("insert into pgqueue.tasks (task_type, metadata) values ('child', %s::text::jsonb)", (metadata,))
        context = {METADATA_KEY: {"traceparent": TRACEPARENT}}
        await service.submit_task(TaskRequest(task_type="child", metadata=context))
        await service.drain()
        assert [ids(span)[0] for span in parents.named("process default")] == [TRACE_ID, TRACE_ID]

    @pytest.mark.parametrize(
        "context",
        ["7", '"x"', "null", "[]", '{"traceparent": 5}', '{"traceparent": "00-zz"}', f"{'[' * 3000}{']' * 3000}"],
    )
    async def test_a_context_that_makes_no_sense_is_passed_over(
        self, service: QueueService, spans: Spans, conn: psycopg.Connection[Any], context: str
    ) -> None:
        conn.execute(
            "insert into pgqueue.tasks (task_type, metadata) values ('child', %s::text::jsonb)",
            (f'{{"{METADATA_KEY}": {context}}}',),
        )
        await service.drain()
        process = await spans.one("process default")
        assert dict(process.attributes or {})["pgqueue.outcome"] == "completed"
        assert (process.parent, linked(process)) == (None, [])

    async def test_metadata_that_nearly_fill_their_room_are_left_alone(
        self, service: QueueService, spans: Spans
    ) -> None:
        task = await service.submit_task(TaskRequest(task_type="child", metadata={"a": "x" * 65_000}))
        assert (await task.refresh()).metadata == task.metadata
        await service.drain()
        assert linked(await spans.one("process default")) == []

    async def test_a_task_keeps_its_trace_when_it_is_retried(self, service: QueueService, parents: Spans) -> None:
        task = await service.submit_task(TaskRequest(task_type="child"))
        await task.cancel()
        await task.retry()
        await service.drain()
        assert is_child(await parents.one("process default"), await parents.one("send default"))


class TestOff:
    async def test_without_traces_nothing_is_added(self, service: QueueService, conn: psycopg.Connection[Any]) -> None:
        assert telemetry.tracing is None
        await service.submit_task(TaskRequest(task_type="child"))
        await service.submit_tasks([TaskRequest(task_type="child")])
        assert conn.execute("select distinct metadata from pgqueue.tasks").fetchall() == [(None,)]

    def test_without_traces_opentelemetry_is_not_imported(self) -> None:
        program = (
            "import sys, pgqueue, pgqueue.worker, pgqueue.sync, pgqueue.http, pgqueue_web\n"
            "pgqueue.Database('host=nowhere')\n"
            "print([name for name in sys.modules if name.startswith('opentelemetry')])"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_the_setting_turns_them_on(self) -> None:
        program = (
            "import pgqueue\n"
            "from pgqueue import telemetry\n"
            "pgqueue.Database(settings=pgqueue.Settings(dsn='host=nowhere', otel='parent'))\n"
            "print(telemetry.tracing is not None)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"

    def test_where_opentelemetry_is_missing_it_is_said(self) -> None:
        program = (
            "import sys\n"
            "sys.modules['opentelemetry'] = None\n"
            "from pgqueue import ConfigurationError, telemetry\n"
            "try:\n    telemetry.instrument()\n"
            "except ConfigurationError as error:\n    print(error)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert "pip install 'pgqueue[otel]'" in done.stdout
