"""Every error that pgqueue raises, and the one map from SQLSTATE to exception.

SQL raises private SQLSTATEs of class ``QU`` with a MESSAGE for people, a DETAIL in JSON and a
HINT that says what to do; `from_postgres` turns them into the classes below. This module is a
leaf: it imports nothing of pgqueue, and psycopg only when an error is at hand.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import psycopg

__all__ = [
    "BY_SQLSTATE",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DuplicateTask",
    "Forbidden",
    "HandlerNotFound",
    "IdempotencyConflict",
    "InvalidInput",
    "InvalidTransition",
    "KeyNotFound",
    "LeaseLost",
    "OperationNotFound",
    "PayloadError",
    "PgqueueError",
    "QueueFull",
    "QueueNotFound",
    "RateLimited",
    "ScheduleNotFound",
    "SchemaMismatch",
    "ServerUnavailable",
    "TaskCancelled",
    "TaskFailed",
    "TaskNotFound",
    "Unauthenticated",
    "WorkerNotFound",
    "from_postgres",
]


class PgqueueError(Exception):
    """Base of all errors: `message` for people, `detail` for programs, `hint` says what to do.

    `sqlstate` is the five characters that PostgreSQL sent, or None where no database was asked.
    """

    SQLSTATE: ClassVar[str | None] = None

    def __init__(
        self,
        message: str,
        *,
        detail: dict[str, object] | None = None,
        hint: str | None = None,
        sqlstate: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.detail: dict[str, object] = detail or {}
        self.hint = hint
        self.sqlstate = sqlstate or self.SQLSTATE

    def __str__(self) -> str:
        return f"{self.message} (hint: {self.hint})" if self.hint else self.message

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all fields, so that an error survives the way out of a process pool."""
        return _rebuild, (type(self), self.message, self.detail, self.hint, self.sqlstate)


def _rebuild(
    kind: type[PgqueueError],
    message: str,
    detail: dict[str, object],
    hint: str | None,
    sqlstate: str | None,
) -> PgqueueError:
    return kind(message, detail=detail, hint=hint, sqlstate=sqlstate)


class InvalidInput(PgqueueError):
    """A value that pgqueue or PostgreSQL refuses; `detail` names the value or the constraint."""

    SQLSTATE = "QU001"


class QueueNotFound(PgqueueError):
    """No queue of this name."""

    SQLSTATE = "QU101"


class TaskNotFound(PgqueueError):
    """No task of this id, live or finished."""

    SQLSTATE = "QU102"


class ScheduleNotFound(PgqueueError):
    """No schedule of this name."""

    SQLSTATE = "QU103"


class KeyNotFound(PgqueueError):
    """No API key of this name, selector or number."""

    SQLSTATE = "QU104"


class OperationNotFound(PgqueueError):
    """No bulk operation of this id."""

    SQLSTATE = "QU105"


class WorkerNotFound(PgqueueError):
    """No worker of this id."""

    SQLSTATE = "QU106"


class InvalidTransition(PgqueueError):
    """The task's state does not allow the operation, e.g. retrying a task that runs."""

    SQLSTATE = "QU201"


class DuplicateTask(PgqueueError):
    """A live task holds this unique key, or a schedule this name."""

    SQLSTATE = "QU202"


class IdempotencyConflict(PgqueueError):
    """The idempotency key was used for another request."""

    SQLSTATE = "QU203"


class LeaseLost(PgqueueError):
    """The attempt no longer owns its task; nothing that it writes is accepted."""

    SQLSTATE = "QU301"


class QueueFull(PgqueueError):
    """The queue holds as many waiting tasks as its capacity allows."""

    SQLSTATE = "QU401"


class SchemaMismatch(PgqueueError):
    """The database's schema and this version of pgqueue do not fit each other."""

    SQLSTATE = "QU501"


class Unauthenticated(PgqueueError):
    """No API key was given where one is needed, or one that is unknown, revoked or expired."""

    SQLSTATE = "QU601"


class Forbidden(PgqueueError):
    """The API key may not be used for this: it lacks the scope, or is limited to other queues."""

    SQLSTATE = "QU602"


class RateLimited(PgqueueError):
    """The API key has made as many requests as its limit allows; `detail["retry_after"]` says seconds."""

    SQLSTATE = "QU603"


class DatabaseUnavailable(PgqueueError):
    """No database, or the connection to it is gone; the outcome of a write is then unknown."""


class ServerUnavailable(DatabaseUnavailable):
    """No HTTP server, or no answer from it; the outcome of a write is then unknown."""


class ConfigurationError(PgqueueError):
    """A setting, argument or environment variable that cannot be right."""


class PayloadError(PgqueueError):
    """A payload that does not fit its handler; `detail["path"]` says where."""


class TaskFailed(PgqueueError):
    """Raised by `Task.result()`: the task ended as failed; `detail` holds its error."""


class TaskCancelled(PgqueueError):
    """Raised by `Task.result()`: the task was cancelled."""


class HandlerNotFound(PgqueueError):
    """No handler is registered for this task type."""


BY_SQLSTATE: dict[str, type[PgqueueError]] = {
    kind.SQLSTATE: kind
    for kind in (
        InvalidInput,
        QueueNotFound,
        TaskNotFound,
        ScheduleNotFound,
        KeyNotFound,
        OperationNotFound,
        WorkerNotFound,
        InvalidTransition,
        DuplicateTask,
        IdempotencyConflict,
        LeaseLost,
        QueueFull,
        SchemaMismatch,
        Unauthenticated,
        Forbidden,
        RateLimited,
    )
    if kind.SQLSTATE
}
"""The private SQLSTATEs, each with its exception."""

UNIQUE_KEY = "tasks_unique_live"
"""The index that holds one live task a unique key."""

_TAKEN = {
    UNIQUE_KEY: (
        "a live task already holds this unique key",
        "use submit_or_get to have the live task, or insert … on conflict do nothing",
    ),
    "schedules_name_key": ("there is a schedule of this name already", "update it, or choose another name"),
}
_REFUSED = {
    "22001": "a value is longer than its column allows",
    "22003": "a number is out of range",
    "22007": "a date or time cannot be read",
    "22008": "a date or time is out of range",
    "22009": "a time zone is out of range",
    "22021": "a text holds a character that PostgreSQL cannot store",
    "22P02": "a value cannot be read as its type",
    "22P05": "a text holds \\u0000, which PostgreSQL cannot store",
    "23502": "a required value is missing",
    "23514": "a value breaks a rule",
}
_NAME = "1 to 200 characters, without control characters"
_RULES = {
    "queues_name": f"a queue's name has {_NAME}",
    "queues_concurrency": "concurrency lies between 0 and 100000",
    "queues_capacity": "capacity is at least 1; 0 takes the limit away",
    "queues_max_crashes": "max_crashes lies between 1 and 1000",
    "schedules_name": f"a schedule's name has {_NAME}",
    "schedules_cron_expr": "a cron expression has 1 to 200 characters, for instance */5 * * * *",
    "schedules_time_zone": "use a name of the IANA time zone database, for instance Europe/Berlin or UTC",
    "schedules_missed": "missed is skip, once or all",
    "schedules_catch_up_window": "catch_up_window is a number of seconds from 0 to 31536000 (a year)",
    "schedules_overlap": "overlap is allow, skip, queue or cancel_previous",
    "schedules_jitter": "jitter is a number of seconds from 0 to 86400 (a day)",
    "schedules_ends_at": "a schedule ends after it starts",
    "schedules_max_runs": "max_runs is at least 1; null for no limit",
    "schedules_metadata": "the metadata of a schedule is a JSON object",
    "schedules_pause_reason": "a reason has at most 1000 characters",
    "operations_reason": "a reason has at most 1000 characters",
    "tasks_state": "leave status, worker_id, claim_no, started_at, cancel_requested_at, waits_for out of an insert",
    "tasks_task_type": f"a task type has {_NAME}",
    "tasks_payload": "a payload has at most 1 MiB: store large data elsewhere and pass a reference to it",
    "tasks_result": "a result has at most 1 MiB: store large data elsewhere and return a reference to it",
    "tasks_metadata": "metadata has at most 64 KiB",
    "tasks_max_retries": "max_retries lies between 0 and 10000",
    "tasks_timeout": "a timeout is a number of seconds from 1 to 31536000 (a year)",
    "tasks_run_at": "run_at lies in the years 1970 to 2999",
    "tasks_unique_key": "a unique key has 1 to 500 characters",
    "tasks_user_id": "a user id has at most 200 characters",
    "tasks_project_id": "a project id has at most 200 characters",
    "api_keys_name": f"a key's name has {_NAME}",
    "api_keys_scopes": "scopes are read, submit, manage and admin; a key has at least one",
    "api_keys_queues": "name at least one queue, or none for all",
    "api_keys_rate_limit": "a rate limit lies between 1 and 1000000 requests a minute",
    "idempotency_keys_idempotency_key": "an idempotency key has 1 to 255 characters",
}
"""What the constraints of sql/structure ask for, in words."""
_GONE = ("08", "57P01", "57P02", "57P03", "57P05", "53300", "3D000", "25P03")
_ABSENT = ("3F000", "42P01", "42883", "42703")
_HINTS = {
    "42501": "grant one of pgqueue's roles to this database user, or connect as the owner",
    "25006": "this server is read-only: connect to the primary (target_session_attrs=read-write)",
}


def from_postgres(exc: psycopg.Error) -> PgqueueError:
    """Return the pgqueue error that `exc` means; raise it `from exc` to keep the cause.

    SQLSTATE class ``QU`` maps by `BY_SQLSTATE`; a refused value becomes `InvalidInput`, a taken
    unique key `DuplicateTask`, a lost or refused connection `DatabaseUnavailable`, a missing
    schema `SchemaMismatch`; anything else a plain `PgqueueError` with its SQLSTATE.
    """
    state = exc.sqlstate or ""
    if state in BY_SQLSTATE:
        return _ours(exc, BY_SQLSTATE[state])
    if state in _REFUSED:
        return _refused(exc, state)
    if state == "23505" and exc.diag.constraint_name in _TAKEN:
        return _duplicate(exc, *_TAKEN[exc.diag.constraint_name])
    if state.startswith(_GONE) or (not state and _is_operational(exc)):
        return _unavailable(exc)
    if state in _ABSENT and "pgqueue" in _text(exc):
        return SchemaMismatch(_text(exc), hint="run: pgqueue migrate", sqlstate=state)
    return PgqueueError(
        _text(exc), detail=_detail(exc), hint=exc.diag.message_hint or _HINTS.get(state), sqlstate=exc.sqlstate
    )


def _ours(exc: psycopg.Error, kind: type[PgqueueError]) -> PgqueueError:
    return kind(_text(exc), detail=_detail(exc), hint=exc.diag.message_hint)


def _refused(exc: psycopg.Error, state: str) -> InvalidInput:
    place = exc.diag.constraint_name or exc.diag.column_name
    where = f" ({place})" if place else ""
    detail = _detail(exc) | ({"constraint": place} if place else {})
    message = f"{_REFUSED[state]}{where}: {_text(exc)}"
    return InvalidInput(message, detail=detail, hint=exc.diag.message_hint or _RULES.get(place or ""), sqlstate=state)


def _duplicate(exc: psycopg.Error, message: str, hint: str) -> DuplicateTask:
    return DuplicateTask(message, detail=_detail(exc), hint=hint, sqlstate=exc.sqlstate)


def _unavailable(exc: psycopg.Error) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"the database cannot be reached: {_text(exc)}",
        hint="check that the server runs and that the DSN names it; pgqueue doctor shows both",
        sqlstate=exc.sqlstate,
    )


def _is_operational(exc: psycopg.Error) -> bool:
    import psycopg  # noqa: PLC0415 - an error is at hand, so psycopg is loaded already

    return isinstance(exc, (psycopg.OperationalError, psycopg.InterfaceError))


def _text(exc: psycopg.Error) -> str:
    return exc.diag.message_primary or " ".join(str(exc).split()) or type(exc).__name__


def _detail(exc: psycopg.Error) -> dict[str, object]:
    raw = exc.diag.message_detail
    if not raw:
        return {}
    try:
        value = json.loads(raw)
    except ValueError:
        return {"detail": raw}
    return value if isinstance(value, dict) else {"detail": value}
