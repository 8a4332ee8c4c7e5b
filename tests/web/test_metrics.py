"""Prometheus reads what the database counted: names as documented, and counters that never go back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pgqueue import PermanentError
from pgqueue.services import AccessService
from pgqueue_web import metrics as metrics_module
from tests.web.conftest import serving, working

if TYPE_CHECKING:
    import httpx
    import psycopg

    from pgqueue import Database, QueueService

NAMES = {
    "pgqueue_tasks_submitted_total": {"queue", "task_type"},
    "pgqueue_tasks_finished_total": {"queue", "task_type", "outcome"},
    "pgqueue_task_retries_total": set(),
    "pgqueue_task_run_seconds_bucket": {"queue", "task_type", "outcome", "le"},
    "pgqueue_task_wait_seconds_bucket": {"queue", "task_type", "outcome", "le"},
    "pgqueue_queue_depth": {"queue", "state"},
    "pgqueue_queue_oldest_age_seconds": {"queue"},
    "pgqueue_worker_slots": {"state"},
    "pgqueue_tasks_rescued_total": set(),
    "pgqueue_schedule_lag_seconds": set(),
    "pgqueue_listener_reconnects_total": set(),
    "pgqueue_db_dead_tuples": {"table"},
    "pgqueue_db_oldest_xact_seconds": set(),
}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "KEPT_S", 0.0)


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(client: httpx.AsyncClient, url: str = "") -> Samples:
    answer = await client.get(f"{url or str(client.base_url).removesuffix('/api/v1/')}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def service(service: QueueService) -> QueueService:
    @service.handler("good")
    async def good(ctx: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401 - a context
        pass

    @service.handler("bad")
    async def bad(ctx: Any, payload: dict[str, Any]) -> None:  # noqa: ANN401 - a context
        raise PermanentError("no")

    return service


async def run(web: httpx.AsyncClient, service: QueueService, *task_types: str) -> list[int]:
    made = [(await web.post("/tasks", json={"task_type": name})).json()["task_id"] for name in task_types]
    async with working(service):
        for task_id in made:
            await web.get(f"/tasks/{task_id}", headers={"prefer": "wait=30"})
    return made


async def test_every_metric_has_its_name_and_labels_and_no_ids(web: httpx.AsyncClient, service: QueueService) -> None:
    await run(web, service, "good", "bad")
    samples = await scrape(web)
    found: dict[str, set[str]] = {}
    for name, labels in samples:
        found.setdefault(name, set()).update(label for label, _ in labels)
    assert found.items() >= NAMES.items()
    assert set().union(*found.values()) == {"queue", "task_type", "outcome", "le", "state", "table"}


async def test_tasks_are_counted_as_they_come_and_end(web: httpx.AsyncClient, service: QueueService) -> None:
    await run(web, service, "good", "good", "bad")
    await web.post("/tasks", json={"task_type": "good"})
    samples = await scrape(web)
    assert value(samples, "pgqueue_tasks_submitted_total", queue="default", task_type="good") == 3
    assert value(samples, "pgqueue_queue_depth", queue="default", state="pending") == 1
    ended = {"queue": "default", "task_type": "good", "outcome": "completed"}
    assert value(samples, "pgqueue_tasks_finished_total", **ended) == 2
    failed = {"queue": "default", "task_type": "bad", "outcome": "failed"}
    assert value(samples, "pgqueue_tasks_finished_total", **failed) == 1
    for part in ("run", "wait"):
        assert value(samples, f"pgqueue_task_{part}_seconds_count", **ended) == 2
        assert value(samples, f"pgqueue_task_{part}_seconds_bucket", **ended, le="+Inf") == 2
        assert value(samples, f"pgqueue_task_{part}_seconds_sum", **ended) > 0
        buckets = [
            count
            for (name, labels), count in samples.items()
            if name == f"pgqueue_task_{part}_seconds_bucket" and frozenset(ended.items()) <= labels
        ]
        assert buckets == sorted(buckets)
        assert len(buckets) == 26


async def test_counters_never_go_back(
    web: httpx.AsyncClient, db: Database, service: QueueService, conn: psycopg.Connection[Any]
) -> None:
    """Neither by a retry by hand, nor by a cleanup, nor by another server."""
    _, failed = await run(web, service, "good", "bad")
    cancelled = (await web.post("/tasks", json={"task_type": "good"})).json()["task_id"]
    await web.delete(f"/tasks/{cancelled}")
    await scrape(web)
    await web.post("/tasks", json={"task_type": "good"})
    before = await scrape(web)
    await web.post(f"/tasks/{failed}/retry")
    conn.execute("select pgqueue.cleanup('0 seconds')")
    async with serving(db) as second:
        after = await scrape(web, second.url)
    counters = {key for key in before if key[0].endswith(("_total", "_bucket", "_count", "_sum"))}
    assert len(counters) > 50
    assert {key for key in counters if after.get(key, -1) < before[key]} == set()


async def test_whoever_is_limited_to_queues_is_told_their_series_and_no_others(
    web: httpx.AsyncClient, db: Database, service: QueueService
) -> None:
    access = AccessService(db)
    await web.post("/queues", json={"name": "other"})
    await web.post("/tasks", json={"task_type": "secret", "queue_name": "other"})
    await run(web, service, "good")
    everything = await scrape(web)
    assert {dict(labels).get("queue") for _, labels in everything} == {None, "default", "other"}
    key = (await access.create_api_key("limited", ["read"], queues=["default"])).key
    web.headers["authorization"] = f"Bearer {key}"
    told = await scrape(web)
    assert told == {key: value for key, value in everything.items() if ("queue", "default") in key[1]}
    del web.headers["authorization"]
    assert (await web.get(f"{str(web.base_url).removesuffix('/api/v1/')}/metrics")).status_code == 401
