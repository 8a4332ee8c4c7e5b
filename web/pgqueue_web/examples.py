"""Examples for the OpenAPI document, by the name of the struct."""

from __future__ import annotations

from typing import Any

__all__ = ["EXAMPLES"]

TASK = {
    "task_id": 42,
    "task_type": "content_generation",
    "queue_name": "processing",
    "priority": 10,
    "payload": {"topic": "AI技术发展趋势"},
    "status": "running",
    "attempt": 1,
    "max_retries": 3,
    "timeout": 300,
    "run_at": "2026-02-21T09:00:00Z",
    "created_at": "2026-02-21T09:00:00Z",
    "started_at": "2026-02-21T09:00:00.004Z",
    "finished_at": None,
    "error": None,
    "user_id": None,
    "project_id": None,
    "unique_key": None,
    "metadata": None,
    "failures": 0,
    "crashes": 0,
    "worker_id": 7,
    "cancel_requested_at": None,
    "parent_id": 41,
}
NEW_TASK = {
    "task_type": "content_generation",
    "queue_name": "default",
    "priority": 10,
    "payload": {"topic": "AI技术发展趋势"},
    "max_retries": 3,
    "timeout": 300,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "TaskRequestBody": {"task": NEW_TASK, "least": {"task_type": "greet"}},
    "BatchBody": {"two": {"tasks": [NEW_TASK, {"task_type": "greet", "payload": {"name": "Ann"}}]}},
    "TaskBody": {"running": TASK},
    "TaskList": {
        "page": {"tasks": [TASK], "total": 1, "total_capped": False, "page": 1, "page_size": 20, "next_cursor": None}
    },
    "TaskProgress": {
        "halfway": {
            "task_id": 42,
            "status": "running",
            "progress": 50,
            "message": "writing",
            "step": "write",
            "completed_steps": 1,
            "total_steps": 2,
            "updated_at": "2026-02-21T09:00:01Z",
        }
    },
    "ResultBody": {"completed": {"task_id": 42, "status": "completed", "result": {"pages": 3}}},
    "NewQueue": {"queue": {"name": "processing", "concurrency": 10}},
    "QueueChange": {"limit": {"capacity": 1000}},
    "ScheduleBody": {
        "hourly": {
            "name": "hourly_report",
            "task_type": "report_generation",
            "cron_expr": "0 * * * *",
            "queue_name": "default",
            "payload": {"report_type": "hourly"},
        }
    },
    "ScheduleChange": {"cron": {"cron_expr": "*/30 * * * *"}},
    "PauseBody": {"reason": {"reason": "the disk is full"}},
}
