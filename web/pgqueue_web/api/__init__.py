"""The routes below /api/v1, a module a noun."""

from pgqueue_web.api import events, queues, server, tasks, workers

__all__ = ["HANDLERS"]

HANDLERS = [*tasks.HANDLERS, *queues.HANDLERS, *workers.HANDLERS, *events.HANDLERS, *server.HANDLERS]
