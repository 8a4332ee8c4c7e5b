"""What programs do with tasks: one line an operation.

QueueOperations, StateService and RetryManager are asynchronous; `pgqueue.sync` has the same, blocking.
Each method that is made from a call of `calls` raises what that call raises, and DatabaseUnavailable.
"""

from pgqueue.services.operating import drive
from pgqueue.services.operations import QueueOperations, Task, async_method
from pgqueue.services.shared import FINAL, TaskPage
from pgqueue.services.state import RetryManager, StateService, Subscription

__all__ = [
    "FINAL",
    "QueueOperations",
    "RetryManager",
    "StateService",
    "Subscription",
    "Task",
    "TaskPage",
    "async_method",
    "drive",
]
