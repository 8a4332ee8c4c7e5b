"""The asynchronous client."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

import httpx
import httpx_sse

from pgqueue.http import calls
from pgqueue.http.common import Common, client_of, lost, refusal_of
from pgqueue.http.steps import Listen, Lost, Pause, Send, exchange, follow, wait_for, wait_for_result
from pgqueue.models import TaskProgress, TaskRecord, convert_result

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable

    from pgqueue.http.call import Call
    from pgqueue.http.calls import TaskPage
    from pgqueue.http.steps import Step
    from pgqueue.models import TaskFilter, TaskRequest
    from pgqueue.settings import Settings

__all__ = ["Client", "Task"]

P = ParamSpec("P")
T = TypeVar("T")


def async_method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make a method of a call: `client.get_logs(7)` runs `calls.get_logs(7)`."""

    async def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.run(make(*args, **kwargs))

    functools.update_wrapper(method, make)
    return method


class Task(TaskRecord, kw_only=True, dict=True):
    """A task as it was when it was read, with the operations on it."""

    async def refresh(self) -> Task:
        """Read it again. Raises TaskNotFound."""
        return await self._client().get_task(self.task_id)

    async def wait(self, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - as in the services
        """Wait for its end, at most `timeout` seconds. Raises TimeoutError."""
        return await self._client().wait_for(self.task_id, timeout=timeout)

    @overload
    async def result(self, type: type[T], timeout: float | None = None) -> T: ...  # noqa: ASYNC109 - as in the services

    @overload
    async def result(self, type: Any = Any, timeout: float | None = None) -> Any: ...  # noqa: ANN401, ASYNC109 - any JSON

    async def result(self, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002, ASYNC109 - as in the services
        """Wait for its end and return its result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TimeoutError, PayloadError where the result does not fit the type.
        """
        return await self._client().drive(wait_for_result(self.task_id, type, timeout))

    def progress(self) -> AsyncIterator[TaskProgress]:
        """Follow its progress; the last one tells its final status."""
        return self._client().follow_progress(self.task_id)

    async def cancel(self) -> str:
        """Cancel it; return the status it has then. Raises InvalidTransition."""
        return await self._client().cancel_task(self.task_id)

    async def retry(self) -> int:
        """Start it again after it failed or was cancelled. Raises InvalidTransition, DuplicateTask."""
        return await self._client().retry_task(self.task_id)

    def _client(self) -> Client:
        client: Client = client_of(self)
        return client


class Client(Common):
    """The services of pgqueue over HTTP. `async with Client(url, api_key):` closes its connections at the end.

    Every method raises what the service of its name raises, Unauthenticated and Forbidden, and ServerUnavailable where
    no server answers.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        settings: Settings | None = None,
    ) -> None:
        """As Common."""
        super().__init__(url, api_key, timeout=timeout, retries=retries, settings=settings)
        self._http = httpx.AsyncClient(**self._options)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Open nothing yet."""
        return self

    async def __aexit__(self, *_error: object) -> None:
        """Close."""
        await self.close()

    async def submit_task(self, request: TaskRequest) -> Task:
        """Submit a task, once, however often it has to be sent.

        Where its unique key is taken, the task that has it is returned (`created` False), or DuplicateTask is raised,
        or its payload replaced, as `request.on_conflict` says. Raises InvalidInput, QueueNotFound, QueueFull.
        """
        return self._bound(await self.run(calls.submit_task(Task, request)))

    async def submit_tasks(self, requests: Iterable[TaskRequest]) -> list[Task]:
        """Submit up to 10,000 tasks in one transaction; returns them in order. Raises as submit_task: none then."""
        given = list(requests)
        tasks = await self.run(calls.submit_tasks(Task, given)) if given else []
        return [self._bound(task) for task in tasks]

    async def get_task(self, task_id: int) -> Task:
        """Read a task, live or finished. Raises TaskNotFound."""
        return self._bound(await self.run(calls.get_task(Task, task_id)))

    async def list_tasks(self, task_filter: TaskFilter | None = None, *, cursor: str | None = None) -> TaskPage[Task]:
        """One page, newest first; `cursor` is the next_cursor of the page before. Raises InvalidInput."""
        page = await self.run(calls.list_tasks(Task, task_filter, cursor))
        for task in page[0]:
            self._bound(task)
        return page

    async def wait_for(self, task_id: int, timeout: float | None = None) -> Task:  # noqa: ASYNC109 - as in the services
        """Wait for a task's end, at most `timeout` seconds. Raises TimeoutError, TaskNotFound."""
        return self._bound(await self.drive(wait_for(Task, task_id, timeout)))

    async def get_task_result(self, task_id: int, type: Any = Any) -> Any:  # noqa: A002, ANN401 - any JSON
        """Return a task's result, converted to `type`; that of a task that has not ended is None.

        Raises TaskNotFound, TaskFailed, TaskCancelled, PayloadError.
        """
        return convert_result(task_id, (await self.run(calls.get_task_result(task_id))).result, type)

    async def follow_progress(self, task_id: int) -> AsyncIterator[TaskProgress]:
        """Yield a task's progress now and whenever it changed; the last one is its final state. Raises TaskNotFound."""
        stream, steps = _Stream(self, self._http), follow(task_id)
        answer: Any = None
        try:
            while True:
                try:
                    step = steps.send(answer)
                except StopIteration:
                    return
                if isinstance(step, TaskProgress):
                    yield step
                    answer = None
                else:
                    answer = await (stream.next(step) if isinstance(step, Listen) else self._do(step))
        finally:
            await stream.close()

    cancel_task = async_method(calls.cancel_task)
    retry_task = async_method(calls.retry_task)
    get_progress = async_method(calls.get_progress)
    get_executions = async_method(calls.get_executions)
    get_logs = async_method(calls.get_logs)
    get_task_statistics = async_method(calls.get_task_statistics)
    list_queues = async_method(calls.list_queues)
    create_queue = async_method(calls.create_queue)
    pause_queue = async_method(calls.pause_queue)
    resume_queue = async_method(calls.resume_queue)
    get_queue_stats = async_method(calls.get_queue_stats)
    list_workers = async_method(calls.list_workers)
    pause_worker = async_method(calls.pause_worker)
    resume_worker = async_method(calls.resume_worker)
    stop_worker = async_method(calls.stop_worker)
    create_scheduled_task = async_method(calls.create_scheduled_task)
    update_scheduled_task = async_method(calls.update_scheduled_task)
    get_scheduled_task = async_method(calls.get_scheduled_task)
    list_scheduled_tasks = async_method(calls.list_scheduled_tasks)
    pause_scheduled_task = async_method(calls.pause_scheduled_task)
    resume_scheduled_task = async_method(calls.resume_scheduled_task)
    run_scheduled_task_now = async_method(calls.run_scheduled_task_now)
    delete_scheduled_task = async_method(calls.delete_scheduled_task)
    get_next_runs = async_method(calls.get_next_runs)
    get_scheduled_task_history = async_method(calls.get_scheduled_task_history)
    get_scheduler_stats = async_method(calls.get_scheduler_stats)

    async def run(self, call: Call[T]) -> T:
        """Send a call, again where that can do no harm, and return its answer."""
        return await self.drive(exchange(call, self.retries))

    async def drive(self, steps: Generator[Step, Any, T]) -> T:
        """Do what the steps say, and return what they return."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                found: T = end.value
                return found
            answer = await self._do(step)

    async def _do(self, step: Step) -> httpx.Response | Lost | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        assert isinstance(step, Send)  # noqa: S101 - streams are not driven here
        try:
            return await self._http.send(self.request(self._http, step.call))
        except httpx.RequestError as error:
            return lost(error)

    def _bound(self, task: Task) -> Task:
        task.__dict__["client"] = self
        return task


class _Stream:
    """A stream of events, open from the first `next` until it is lost or closed."""

    def __init__(self, client: Client, http: httpx.AsyncClient) -> None:
        self._client = client
        self._http = http
        self._response: httpx.Response | None = None
        self._events: AsyncGenerator[httpx_sse.ServerSentEvent] | None = None

    async def next(self, step: Listen) -> httpx_sse.ServerSentEvent | Lost:
        try:
            if self._events is None:
                self._events = await self._open(step)
            return await anext(self._events)
        except StopAsyncIteration:
            reason = Lost("the stream ended")
        except httpx.RequestError as error:
            reason = lost(error)
        await self.close()
        return reason

    async def close(self) -> None:
        response, events = self._response, self._events
        self._response = self._events = None
        if events is not None:
            await events.aclose()
        if response is not None:
            await response.aclose()

    async def _open(self, step: Listen) -> AsyncGenerator[httpx_sse.ServerSentEvent]:
        self._response = await self._http.send(self._client.stream_request(self._http, step), stream=True)
        if not self._response.is_success:
            await self._response.aread()
            error = refusal_of(self._response)
            if error is not None:
                await self.close()
                raise error
        return httpx_sse.EventSource(self._response).aiter_sse()
