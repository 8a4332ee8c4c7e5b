"""What the async and the blocking client share: where the server is, who asks, and how requests are made."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx

from pgqueue import __version__, telemetry
from pgqueue import settings as _settings
from pgqueue.errors import ConfigurationError, InvalidInput
from pgqueue.http.call import error_of
from pgqueue.http.steps import Lost

if TYPE_CHECKING:
    from pgqueue.errors import PgqueueError
    from pgqueue.http.call import Call
    from pgqueue.http.steps import Listen
    from pgqueue.models import TaskRecord
    from pgqueue.settings import Settings

__all__ = ["Common", "client_of", "lost", "refusal_of"]

KEY = re.compile(r"[\x21-\x7e]+")
CONNECT_S = 5.0
SILENCE_S = 45.0
"""The server says something on each stream every 15 s."""
KEPT = 20
"""Idle connections; those in use are as many as it takes, for each stream needs one."""
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Common:
    """Where the server is and who asks."""

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        settings: Settings | None = None,
    ) -> None:
        """`url` and `api_key`: those of the settings (PGQUEUE_API_URL, PGQUEUE_API_KEY), unless they are given.

        `timeout`: seconds for each answer, beside what the server is asked to wait. `retries`: how often a request is
        sent again, at most. Opens no connection. Raises ConfigurationError.
        """
        given = settings or _settings.load()
        telemetry.apply(given.otel)
        key = api_key or given.api_key
        if key is not None and not KEY.fullmatch(key):
            raise ConfigurationError("the API key holds characters that no key has", hint="copy it again: pgq_…")
        self.retries = retries
        self._timeout = timeout
        self.url = _checked(url or given.api_url)
        self._options: dict[str, Any] = {
            "base_url": f"{self.url}/api/v1",
            "headers": {"User-Agent": f"pgqueue/{__version__}"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            "limits": httpx.Limits(max_keepalive_connections=KEPT),
        }

    def request(self, client: httpx.AsyncClient | httpx.Client, call: Call[Any]) -> httpx.Request:
        """Make the request of a call, which carries the trace that is going on."""
        headers = dict(call.headers or {})
        if call.wait_s:
            headers["Prefer"] = f"wait={call.wait_s}"
        if telemetry.tracing is not None:
            telemetry.tracing.inject(headers)
        timeout = self._timeout_for(self._timeout + call.wait_s)
        return client.build_request(
            call.method, call.path, params=call.params, content=call.body, headers=headers, timeout=timeout
        )

    def stream_request(self, client: httpx.AsyncClient | httpx.Client, step: Listen) -> httpx.Request:
        """Make the request for a stream of events."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if step.last_id is not None:
            headers["Last-Event-ID"] = step.last_id
        return client.build_request("GET", step.path, headers=headers, timeout=self._timeout_for(SILENCE_S))

    def _timeout_for(self, read_s: float) -> httpx.Timeout:
        return httpx.Timeout(self._timeout, connect=min(CONNECT_S, self._timeout), read=read_s)


def _checked(url: str | None) -> str:
    if url is None:
        hint = "pass it, or set PGQUEUE_API_URL, for instance to http://127.0.0.1:8000"
        raise ConfigurationError("there is no URL of an HTTP interface", hint=hint)
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{url!r} is no URL: {error}", hint="write http://host:port") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigurationError(f"{url!r} is no URL of an HTTP interface", hint="write http://host:port")
    return url.rstrip("/").removesuffix("/api/v1")


def lost(error: httpx.RequestError) -> Lost:
    """Say what became of a request that was not answered."""
    reason = str(error) or type(error).__name__
    return Lost(reason, was_sent=not isinstance(error, NOT_SENT))


def refusal_of(response: httpx.Response) -> PgqueueError | None:
    """Return the error of a stream that will not open however often it is asked for."""
    error = error_of(response)
    return error if error is not None and response.is_client_error and response.status_code != 429 else None


def client_of(task: TaskRecord) -> Any:  # noqa: ANN401 - of either kind
    """Return the client of a task that was read through one. Raises InvalidInput where there is none."""
    client = task.__dict__.get("client")
    if client is None:
        msg = f"task {task.task_id} was not read through a client"
        raise InvalidInput(msg, hint="read it with client.get_task(…)")
    return client
