"""Figures for Prometheus. All but one come from the database: they outlive this process and are the same in all."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from pgqueue.models import Metrics, Principal
    from pgqueue_web.context import Context

__all__ = ["Scrape"]

KEPT_S = 5.0
STATES = ("pending", "scheduled", "blocked", "running")


class Scrape:
    """The last figures, for a few seconds: however many ask, the database is asked once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._found: Metrics | None = None
        self._until = 0.0

    async def text(self, context: Context, who: Principal) -> bytes:
        """Return the figures that a principal may see in Prometheus' text format. Raises DatabaseUnavailable."""
        async with self._lock:
            if self._found is None or time.monotonic() > self._until:
                self._found = await context.access.metrics()
                self._until = time.monotonic() + KEPT_S
            found = self._found
        registry = CollectorRegistry()
        registry.register(_OfQueues(found, who))
        if who.queues is None:
            registry.register(_OfAll(found, context.hub.reconnects))
        return generate_latest(registry)


class _OfQueues:
    """The families whose series have a queue as label, as far as a principal may see them."""

    def __init__(self, found: Metrics, who: Principal) -> None:
        self._totals = [total for total in found.totals if who.may_touch(total.queue_name)]
        self._depths = [queue for queue in found.queues if who.may_touch(queue.queue_name)]
        self._bounds = found.bounds

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._tasks()
        yield from self._queues()

    def _tasks(self) -> Iterator[Metric]:
        submitted = CounterMetricFamily("pgqueue_tasks_submitted", "Tasks that came in.", labels=("queue", "task_type"))
        finished = CounterMetricFamily(
            "pgqueue_tasks_finished", "Tasks that ended.", labels=("queue", "task_type", "outcome")
        )
        for total in self._totals:
            labels = [total.queue_name, total.task_type]
            if total.outcome == "submitted":
                submitted.add_metric(labels, total.tasks)
            else:
                finished.add_metric([*labels, total.outcome], total.tasks)
        yield submitted
        yield finished
        yield self._histogram("run", "Seconds that the last attempts of ended tasks ran.")
        yield self._histogram("wait", "Seconds from when a task was due to the start of its last attempt.")

    def _histogram(self, part: str, text: str) -> Metric:
        family = HistogramMetricFamily(f"pgqueue_task_{part}_seconds", text, labels=("queue", "task_type", "outcome"))
        bounds = [*(f"{bound:.6g}" for bound in self._bounds), "+Inf"]
        for total in self._totals:
            counts = total.run_buckets if part == "run" else total.wait_buckets
            seconds = (total.run_us if part == "run" else total.wait_us) / 1e6
            if counts and counts[-1]:
                labels = [total.queue_name, total.task_type, total.outcome]
                family.add_metric(labels, list(zip(bounds, counts, strict=True)), seconds)
        return family

    def _queues(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("pgqueue_queue_depth", "Live tasks.", labels=("queue", "state"))
        age = GaugeMetricFamily(
            "pgqueue_queue_oldest_age_seconds", "How long the oldest due task has waited.", labels=("queue",)
        )
        for queue in self._depths:
            for state in STATES:
                depth.add_metric([queue.queue_name, state], getattr(queue, state))
            age.add_metric([queue.queue_name], queue.oldest_pending_age_s)
        yield depth
        yield age


class _OfAll:
    """The families that are about all queues, the workers and the database."""

    def __init__(self, found: Metrics, reconnects: int) -> None:
        self._found = found
        self._reconnects = reconnects

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._workers()
        yield from self._database()

    def _workers(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "pgqueue_task_retries", "Attempts that ended, other than the first of their task.", self._found.retries
        )
        yield CounterMetricFamily(
            "pgqueue_tasks_rescued", "Attempts that were lost with their worker.", self._found.rescued
        )
        slots = GaugeMetricFamily("pgqueue_worker_slots", "Slots of the workers that live.", labels=("state",))
        slots.add_metric(["busy"], self._found.slots_busy)
        slots.add_metric(["free"], max(self._found.slots - self._found.slots_busy, 0))
        yield slots
        yield GaugeMetricFamily(
            "pgqueue_schedule_lag_seconds", "How late the oldest due tick is.", self._found.schedule_lag
        )

    def _database(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "pgqueue_listener_reconnects", "How often this process had to listen anew.", self._reconnects
        )
        dead = GaugeMetricFamily("pgqueue_db_dead_tuples", "Dead rows.", labels=("table",))
        for table, count in sorted(self._found.dead_tuples.items()):
            dead.add_metric([table], count)
        yield dead
        yield GaugeMetricFamily(
            "pgqueue_db_oldest_xact_seconds", "Age of the oldest open transaction.", self._found.oldest_transaction
        )
