"""The same services, blocking: for Flask, Django, scripts and threads.

Names and signatures are those of the async services. No thread runs behind the caller's back, except one for
each progress subscription; who waits for a task listens on a connection of its own while it waits.
"""

from pgqueue.database import SyncDatabase as Database
from pgqueue.services import TaskPage
from pgqueue.sync.operations import Task
from pgqueue.sync.queue_service import QueueService
from pgqueue.sync.scheduling import SchedulerService
from pgqueue.sync.state import RetryManager, StateService, Subscription

__all__ = [
    "Database",
    "QueueService",
    "RetryManager",
    "SchedulerService",
    "StateService",
    "Subscription",
    "Task",
    "TaskPage",
]
