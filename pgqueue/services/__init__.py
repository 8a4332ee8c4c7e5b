"""What programs do with tasks: one line an operation.

QueueOperations, StateService, RetryManager and SchedulerService are asynchronous; `pgqueue.sync` has them blocking.
Each method that is made from a call of `calls` raises what that call raises, and DatabaseUnavailable.
"""

from pgqueue.services.access import AccessService, NewKey
from pgqueue.services.dashboard import PageService
from pgqueue.services.following import Fence
from pgqueue.services.operations import QueueOperations, Task, async_method
from pgqueue.services.scheduling import SchedulerService
from pgqueue.services.shared import FINAL, TaskPage
from pgqueue.services.state import RetryManager, StateService, Subscription

__all__ = [
    "FINAL",
    "AccessService",
    "Fence",
    "NewKey",
    "PageService",
    "QueueOperations",
    "RetryManager",
    "SchedulerService",
    "StateService",
    "Subscription",
    "Task",
    "TaskPage",
    "async_method",
    "drive",
]
