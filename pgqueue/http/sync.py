"""The blocking client. Each method promises what the async one of its name does."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar, overload

import httpx
import httpx_sse

from pgqueue.http import calls
from pgqueue.http.common import Common, client_of, lost, refusal_of
from pgqueue.http.steps import Listen, Lost, Pause, Send, exchange, follow, wait_for, wait_for_result
from pgqueue.models import TaskProgress, TaskRecord, convert_result

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from pgqueue.http.call import Call
    from pgqueue.http.calls import TaskPage
    from pgqueue.http.steps import Step
    from pgqueue.models import TaskFilter, TaskRequest
    from pgqueue.settings import Settings

__all__ = ["SyncClient", "SyncTask"]

P = ParamSpec("P")
T = TypeVar("T")


def sync_method(make: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a method of a call: `client.get_logs(7)` runs `calls.get_logs(7)`."""

    def method(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(make(*args, **kwargs))

    functools.update_wrapper(method, make)
    return method


class SyncTask(TaskRecord, kw_only=True, dict=True):
    """A task as it was when it was read, with the operations on it."""

    def refresh(self) -> SyncTask:
        """Read it again. Raises TaskNotFound."""
        return self._client().get_task(self.task_id)

    def wait(self, timeout: float | None = None) -> SyncTask:
        """Wait for its end, at most `timeout` seconds. Raises TimeoutError."""
        return self._client().wait_for(self.task_id, timeout=timeout)

    @overload
    def result(self, type: type[T], timeout: float | None = None) -> T: ...

    @overload
    def result(self, type: Any = Any, timeout: float | None = None) -> Any: ...  # noqa: ANN401 - any JSON

    def result(self, type: Any = Any, timeout: float | None = None) -> Any:  # noqa: A002 - as in the services
        """Wait for its end and return its result, converted to `type`.

        Raises TaskFailed, TaskCancelled, TimeoutError, PayloadError where the result does not fit the type.
        """
        return self._client().drive(wait_for_result(self.task_id, type, timeout))

    def progress(self) -> Iterator[TaskProgress]:
        """Follow its progress; the last one tells its final status."""
        return self._client().follow_progress(self.task_id)

    def cancel(self) -> str:
        """Cancel it; return the status it has then. Raises InvalidTransition."""
        return self._client().cancel_task(self.task_id)

    def retry(self) -> int:
        """Start it again after it failed or was cancelled. Raises InvalidTransition, DuplicateTask."""
        return self._client().retry_task(self.task_id)

    def _client(self) -> SyncClient:
        client: SyncClient = client_of(self)
        return client


class SyncClient(Common):
    """The services of pgqueue over HTTP. `with SyncClient(url, api_key):` closes its connections at the end.

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
        self._http = httpx.Client(**self._options)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Open nothing yet."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Close."""
        self.close()

    def submit_task(self, request: TaskRequest) -> SyncTask:
        """Submit a task, once, however often it has to be sent.

        Where its unique key is taken, the task that has it is returned (`created` False), or DuplicateTask is raised,
        or its payload replaced, as `request.on_conflict` says. Raises InvalidInput, QueueNotFound, QueueFull.
        """
        return self._bound(self.run(calls.submit_task(SyncTask, request)))

    def submit_tasks(self, requests: Iterable[TaskRequest]) -> list[SyncTask]:
        """Submit up to 10,000 tasks in one transaction; returns them in order. Raises as submit_task: none then."""
        given = list(requests)
        tasks = self.run(calls.submit_tasks(SyncTask, given)) if given else []
        return [self._bound(task) for task in tasks]

    def get_task(self, task_id: int) -> SyncTask:
        """Read a task, live or finished. Raises TaskNotFound."""
        return self._bound(self.run(calls.get_task(SyncTask, task_id)))

    def list_tasks(self, task_filter: TaskFilter | None = None, *, cursor: str | None = None) -> TaskPage[SyncTask]:
        """One page, newest first; `cursor` is the next_cursor of the page before. Raises InvalidInput."""
        page = self.run(calls.list_tasks(SyncTask, task_filter, cursor))
        for task in page[0]:
            self._bound(task)
        return page

    def wait_for(self, task_id: int, timeout: float | None = None) -> SyncTask:
        """Wait for a task's end, at most `timeout` seconds. Raises TimeoutError, TaskNotFound."""
        return self._bound(self.drive(wait_for(SyncTask, task_id, timeout)))

    def get_task_result(self, task_id: int, type: Any = Any) -> Any:  # noqa: A002, ANN401 - any JSON
        """Return a task's result, converted to `type`; that of a task that has not ended is None.

        Raises TaskNotFound, TaskFailed, TaskCancelled, PayloadError.
        """
        return convert_result(task_id, self.run(calls.get_task_result(task_id)).result, type)

    def follow_progress(self, task_id: int) -> Iterator[TaskProgress]:
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
                    answer = stream.next(step) if isinstance(step, Listen) else self._do(step)
        finally:
            stream.close()

    cancel_task = sync_method(calls.cancel_task)
    retry_task = sync_method(calls.retry_task)
    get_progress = sync_method(calls.get_progress)
    get_executions = sync_method(calls.get_executions)
    get_logs = sync_method(calls.get_logs)
    get_task_statistics = sync_method(calls.get_task_statistics)
    list_queues = sync_method(calls.list_queues)
    create_queue = sync_method(calls.create_queue)
    pause_queue = sync_method(calls.pause_queue)
    resume_queue = sync_method(calls.resume_queue)
    get_queue_stats = sync_method(calls.get_queue_stats)
    list_workers = sync_method(calls.list_workers)
    pause_worker = sync_method(calls.pause_worker)
    resume_worker = sync_method(calls.resume_worker)
    stop_worker = sync_method(calls.stop_worker)
    create_scheduled_task = sync_method(calls.create_scheduled_task)
    update_scheduled_task = sync_method(calls.update_scheduled_task)
    get_scheduled_task = sync_method(calls.get_scheduled_task)
    list_scheduled_tasks = sync_method(calls.list_scheduled_tasks)
    pause_scheduled_task = sync_method(calls.pause_scheduled_task)
    resume_scheduled_task = sync_method(calls.resume_scheduled_task)
    run_scheduled_task_now = sync_method(calls.run_scheduled_task_now)
    delete_scheduled_task = sync_method(calls.delete_scheduled_task)
    get_next_runs = sync_method(calls.get_next_runs)
    get_scheduled_task_history = sync_method(calls.get_scheduled_task_history)
    get_scheduler_stats = sync_method(calls.get_scheduler_stats)

    def run(self, call: Call[T]) -> T:
        """Send a call, again where that can do no harm, and return its answer."""
        return self.drive(exchange(call, self.retries))

    def drive(self, steps: Generator[Step, Any, T]) -> T:
        """Do what the steps say, and return what they return."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                found: T = end.value
                return found
            answer = self._do(step)

    def _do(self, step: Step) -> httpx.Response | Lost | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        assert isinstance(step, Send)  # noqa: S101 - streams are not driven here
        try:
            return self._http.send(self.request(self._http, step.call))
        except httpx.RequestError as error:
            return lost(error)

    def _bound(self, task: SyncTask) -> SyncTask:
        task.__dict__["client"] = self
        return task


class _Stream:
    """A stream of events, open from the first `next` until it is lost or closed."""

    def __init__(self, client: SyncClient, http: httpx.Client) -> None:
        self._client = client
        self._http = http
        self._response: httpx.Response | None = None
        self._events: Iterator[httpx_sse.ServerSentEvent] | None = None

    def next(self, step: Listen) -> httpx_sse.ServerSentEvent | Lost:
        try:
            if self._events is None:
                self._events = self._open(step)
            return next(self._events)
        except StopIteration:
            reason = Lost("the stream ended")
        except httpx.RequestError as error:
            reason = lost(error)
        self.close()
        return reason

    def close(self) -> None:
        response, self._response, self._events = self._response, None, None
        if response is not None:
            response.close()

    def _open(self, step: Listen) -> Iterator[httpx_sse.ServerSentEvent]:
        self._response = self._http.send(self._client.stream_request(self._http, step), stream=True)
        if not self._response.is_success:
            self._response.read()
            error = refusal_of(self._response)
            if error is not None:
                self.close()
                raise error
        return httpx_sse.EventSource(self._response).iter_sse()
