"""pgqueue: an asynchronous task system that needs nothing but PostgreSQL."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgqueue.database import Database as Database
    from pgqueue.errors import *  # noqa: F403
    from pgqueue.handlers import Cancel as Cancel
    from pgqueue.handlers import Handler as Handler
    from pgqueue.handlers import PermanentError as PermanentError
    from pgqueue.handlers import Retry as Retry
    from pgqueue.handlers import RetryLater as RetryLater
    from pgqueue.handlers import Snooze as Snooze
    from pgqueue.handlers import TaskContext as TaskContext
    from pgqueue.models import BulkFilter as BulkFilter
    from pgqueue.models import Execution as Execution
    from pgqueue.models import LogLine as LogLine
    from pgqueue.models import Operation as Operation
    from pgqueue.models import OperationPreview as OperationPreview
    from pgqueue.models import Priority as Priority
    from pgqueue.models import QueueConfig as QueueConfig
    from pgqueue.models import QueueInfo as QueueInfo
    from pgqueue.models import QueueStats as QueueStats
    from pgqueue.models import ScheduledTask as ScheduledTask
    from pgqueue.models import ScheduledTaskRequest as ScheduledTaskRequest
    from pgqueue.models import SchedulerStats as SchedulerStats
    from pgqueue.models import ScheduleTick as ScheduleTick
    from pgqueue.models import SeriesPoint as SeriesPoint
    from pgqueue.models import TaskFilter as TaskFilter
    from pgqueue.models import TaskProgress as TaskProgress
    from pgqueue.models import TaskRequest as TaskRequest
    from pgqueue.models import TaskStatistics as TaskStatistics
    from pgqueue.queue_service import QueueService as QueueService
    from pgqueue.services import RetryManager as RetryManager
    from pgqueue.services import SchedulerService as SchedulerService
    from pgqueue.services import StateService as StateService
    from pgqueue.services import Subscription as Subscription
    from pgqueue.services import Task as Task
    from pgqueue.services import TaskPage as TaskPage
    from pgqueue.settings import Settings as Settings

__version__ = "0.1.0"

_HOMES = {
    "database": ["Database"],
    "handlers": ["Cancel", "Handler", "PermanentError", "Retry", "RetryLater", "Snooze", "TaskContext"],
    "models": [
        *("BulkFilter", "Operation", "OperationPreview"),
        *("Execution", "LogLine", "Priority", "QueueConfig", "QueueInfo", "QueueStats"),
        *("ScheduledTask", "ScheduledTaskRequest", "SchedulerStats", "ScheduleTick", "SeriesPoint"),
        *("TaskFilter", "TaskProgress", "TaskRequest", "TaskStatistics"),
    ],
    "queue_service": ["QueueService"],
    "services": ["RetryManager", "SchedulerService", "StateService", "Subscription", "Task", "TaskPage"],
    "settings": ["Settings"],
    "errors": [
        *("ConfigurationError", "DatabaseUnavailable", "DuplicateTask", "Forbidden", "HandlerNotFound"),
        *("IdempotencyConflict", "InvalidInput", "InvalidTransition", "KeyNotFound", "LeaseLost"),
        *("OperationNotFound", "PayloadError", "PgqueueError", "QueueFull", "QueueNotFound", "RateLimited"),
        *("ScheduleNotFound", "SchemaMismatch", "ServerUnavailable", "TaskCancelled", "TaskFailed", "TaskNotFound"),
        *("Unauthenticated", "WorkerNotFound"),
    ],
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]  # noqa: PLE0604 - all are text


def __getattr__(name: str) -> object:
    """Import what is asked for, when it is asked for: `pgqueue --help` needs none of it."""
    if name not in _HOME_OF:
        msg = f"module 'pgqueue' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"pgqueue.{_HOME_OF[name]}"), name)
