"""The worker: claims tasks, runs their handlers, settles how they ended."""

from pgqueue.worker.worker import Worker

__all__ = ["Worker"]
