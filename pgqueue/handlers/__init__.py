"""Handlers: the functions that run tasks, what they are given, and how they may end.

A handler returns: the task is completed. It raises: the task is tried again by its policy, unless it
raises one of the outcomes.
"""

from pgqueue.handlers.context import Reporter, TaskContext
from pgqueue.handlers.outcomes import Cancel, PermanentError, Retry, RetryLater, Snooze
from pgqueue.handlers.registry import Executor, Handler, Registry

__all__ = [
    "Cancel",
    "Executor",
    "Handler",
    "PermanentError",
    "Registry",
    "Reporter",
    "Retry",
    "RetryLater",
    "Snooze",
    "TaskContext",
]
