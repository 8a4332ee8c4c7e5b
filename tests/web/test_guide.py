"""The HTTP examples of the guide, word for word, with their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.web.conftest import stream, working

if TYPE_CHECKING:
    import httpx

    from pgqueue import QueueService

SUBMIT = """{
  "task_type": "content_generation",
  "queue_name": "processing",
  "priority": 10,
  "payload": {
    "topic": "AI技术发展趋势"
  },
  "max_retries": 3,
  "timeout": 300
}"""
QUEUE = '{\n  "name": "processing",\n  "concurrency": 10\n}'
SCHEDULE = """{
  "name": "hourly_report",
  "task_type": "report_generation",
  "cron_expr": "0 * * * *",
  "queue_name": "processing",
  "payload": {
    "report_type": "hourly"
  }
}"""
JSON = {"content-type": "application/json"}


@pytest.fixture
def service(service: QueueService) -> QueueService:
    service.register_queue("processing", 10)

    @service.handler("content_generation", queue_name="processing")
    async def generate(ctx: Any, payload: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - a context
        await ctx.update_progress(50, "half")
        return {"about": payload["topic"]}

    return service


async def post(web: httpx.AsyncClient, path: str, body: str = "") -> httpx.Response:
    return await web.post(path, content=body.encode(), headers=JSON if body else {})


async def test_a_queue_is_made_and_counted(web: httpx.AsyncClient) -> None:
    made = await post(web, "/queues", QUEUE)
    assert made.status_code == 201
    assert made.json() == {
        "name": "processing",
        "concurrency": 10,
        "capacity": None,
        "max_crashes": 3,
        "paused": False,
        "paused_at": None,
        "pause_reason": None,
    }
    assert (await post(web, "/queues", QUEUE)).status_code == 200
    await post(web, "/tasks", SUBMIT)
    counted = await web.get("/queues/processing/stats")
    assert counted.status_code == 200
    assert counted.json() | {"oldest_pending_age_s": 0} == {
        "queue_name": "processing",
        "pending": 1,
        "scheduled": 0,
        "blocked": 0,
        "running": 0,
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
        "queue_size": 1,
        "queue_capacity": None,
        "concurrency": 10,
        "paused": False,
        "oldest_pending_age_s": 0,
        "counted_at": None,
    }


async def test_a_task_is_submitted_read_listed_and_cancelled(web: httpx.AsyncClient) -> None:
    await post(web, "/queues", QUEUE)
    made = await post(web, "/tasks", SUBMIT)
    assert made.status_code == 201
    task = made.json()
    task_id = task["task_id"]
    assert isinstance(task_id, int)
    assert made.headers["location"] == f"/api/v1/tasks/{task_id}"
    assert task["payload"] == {"topic": "AI技术发展趋势"}
    assert [task[name] for name in ("task_type", "queue_name", "priority", "max_retries", "timeout", "status")] == [
        *("content_generation", "processing", 10, 3, 300, "pending")
    ]
    assert (await web.get(f"/tasks/{task_id}")).json() == task
    listed = (await web.get("/tasks?queue_name=processing&status=pending&page=1&page_size=20")).json()
    assert listed == {
        "tasks": [task],
        "total": 1,
        "total_capped": False,
        "page": 1,
        "page_size": 20,
        "next_cursor": None,
    }
    assert (await web.get("/tasks?queue_name=processing&status=running&page=1&page_size=20")).json()["tasks"] == []
    cancelled = await web.delete(f"/tasks/{task_id}")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert (await web.get(f"/tasks/{task_id}/result")).status_code == 409


async def test_tasks_are_submitted_with_a_parent_and_listed_by_it(web: httpx.AsyncClient) -> None:
    alone = (await web.post("/tasks", json={"task_type": "greet"})).json()
    child = (await web.post("/tasks", json={"task_type": "greet", "parent_id": alone["task_id"]})).json()
    batch = {"tasks": [{"task_type": "greet", "parent_id": alone["task_id"]}]}
    [other] = (await web.post("/tasks/batch", json=batch)).json()["tasks"]
    assert (alone["parent_id"], child["parent_id"]) == (None, alone["task_id"])
    listed = (await web.get(f"/tasks?parent_id={alone['task_id']}")).json()
    assert [task["task_id"] for task in listed["tasks"]] == [other["task_id"], child["task_id"]]
    assert listed["total"] == 2
    refused = await web.post("/tasks", json={"task_type": "greet", "parent_id": 0})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/parent_id")
    assert (await web.get("/tasks?parent_id=-1")).status_code == 422


async def test_progress_result_and_statistics_of_a_task_that_ran(web: httpx.AsyncClient, service: QueueService) -> None:
    await post(web, "/queues", QUEUE)
    task_id = (await post(web, "/tasks", SUBMIT)).json()["task_id"]
    waiting = await web.get(f"/tasks/{task_id}/result")
    assert (waiting.status_code, waiting.json()) == (202, {"task_id": task_id, "status": "pending"})
    assert waiting.headers["retry-after"] == "1"
    async with stream(web, f"/tasks/{task_id}/progress") as events, working(service):
        told = await events.rest()
    assert told[-1][:2] == ("end", {"task_id": task_id, "status": "completed"})
    assert told[-2][0] == "progress"
    assert told[-2][1]["progress"] == 100
    progress = (await web.get(f"/tasks/{task_id}/progress")).json()
    assert (progress["status"], progress["progress"]) == ("completed", 100)
    result = await web.get(f"/tasks/{task_id}/result")
    assert result.status_code == 200
    assert result.json() == {"task_id": task_id, "status": "completed", "result": {"about": "AI技术发展趋势"}}
    counted = await web.get("/tasks/statistics?start_time=2026-02-01T00:00:00Z&end_time=2126-02-21T00:00:00Z")
    assert counted.status_code == 200
    assert [counted.json()[name] for name in ("total", "completed", "failed", "success_rate")] == [1, 1, 0, 100.0]
    empty = await web.get("/tasks/statistics?start_time=2026-02-01T00:00:00Z&end_time=2026-02-21T00:00:00Z")
    assert empty.json()["completed"] == 0


async def test_a_schedule_is_made_changed_paused_resumed_run_and_deleted(web: httpx.AsyncClient) -> None:
    await post(web, "/queues", QUEUE)
    made = await post(web, "/scheduled-tasks", SCHEDULE)
    assert made.status_code == 201
    schedule = made.json()
    assert made.headers["location"] == "/api/v1/scheduled-tasks/hourly_report"
    assert schedule["next_run_at"].endswith(":00:00Z")
    assert (await web.get("/scheduled-tasks")).json()["scheduled_tasks"] == [schedule]
    assert (await web.get("/scheduled-tasks/hourly_report")).json() == schedule
    changed = await web.put(
        "/scheduled-tasks/hourly_report", content='{\n  "cron_expr": "*/30 * * * *"\n}', headers=JSON
    )
    assert (changed.status_code, changed.json()["cron_expr"]) == (200, "*/30 * * * *")
    assert changed.json()["payload"] == {"report_type": "hourly"}
    paused = await post(web, "/scheduled-tasks/hourly_report/pause")
    assert (paused.status_code, paused.json()["is_active"], paused.json()["next_run_at"]) == (200, False, None)
    resumed = await post(web, "/scheduled-tasks/hourly_report/resume")
    assert (resumed.status_code, resumed.json()["is_active"]) == (200, True)
    run = await post(web, "/scheduled-tasks/hourly_report/run")
    assert run.status_code == 201
    assert run.json()["payload"] == {"report_type": "hourly"}
    assert len((await web.get("/scheduled-tasks/hourly_report/next?count=3")).json()["next_runs"]) == 3
    assert (await web.get("/scheduled-tasks/hourly_report/history")).json()["ticks"][0]["kind"] == "manual"
    deleted = await web.delete("/scheduled-tasks/hourly_report")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await web.get("/scheduled-tasks/hourly_report")).status_code == 404
