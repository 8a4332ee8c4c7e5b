"""The routes below /api/v1, a module a noun."""

from pgqueue_web.api import events, queues, schedules, server, tasks, workers

__all__ = ["HANDLERS"]

HANDLERS = [handler for module in (tasks, queues, schedules, workers, events, server) for handler in module.HANDLERS]
