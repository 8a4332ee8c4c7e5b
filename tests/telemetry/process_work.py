"""A handler for a process of its own, where traces are on."""

from __future__ import annotations

import multiprocessing

from opentelemetry import propagate

from pgqueue import TaskContext, telemetry

__all__ = ["current_trace"]

if multiprocessing.parent_process() is not None:
    telemetry.instrument()


def current_trace(_ctx: TaskContext) -> str | None:
    """Return the context in which the handler runs."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")
