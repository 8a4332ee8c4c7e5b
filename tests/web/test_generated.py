"""A client that a generator makes of the OpenAPI document, whole, and at work."""

from __future__ import annotations

import importlib
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from pgqueue_web import Server

PROGRAM = Path(sys.executable).with_name("openapi-python-client")
NAME = "generated_client"


@pytest.fixture
async def generated(api: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: ANN401 - made here
    """The package, made without a complaint."""
    async with httpx.AsyncClient() as client:
        document = tmp_path / "openapi.json"
        document.write_bytes((await client.get(f"{api.url}/api/v1/openapi.json")).content)
    config = tmp_path / "config.json"
    config.write_text('{"post_hooks": []}', encoding="utf-8")
    made = subprocess.run(  # noqa: ASYNC221 - the document is there already
        [
            *(PROGRAM, "generate", "--path", document, "--output-path", tmp_path / NAME, "--config", config),
            *("--meta", "none", "--fail-on-warning"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module(NAME)
    for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[module]


async def test_a_generated_client_submits_reads_and_understands_refusals(generated: Any, api: Server) -> None:  # noqa: ANN401 - as made
    def operation(tag: str, name: str) -> Any:  # noqa: ANN401 - as made
        return importlib.import_module(f"{NAME}.api.{tag}.{name}")

    models = importlib.import_module(f"{NAME}.models")
    async with generated.Client(base_url=api.url) as client:
        body = models.TaskRequestBody(task_type="send", payload={"to": "a@example.org"}, priority=10)
        task = await operation("tasks", "submit_task").asyncio(client=client, body=body)
        assert isinstance(task, models.TaskBody)
        again = await operation("tasks", "get_task").asyncio(client=client, task_id=task.task_id)
        assert again == task
        assert (again.payload, again.priority, again.status) == (
            {"to": "a@example.org"},
            10,
            models.TaskBodyStatus.PENDING,
        )
        assert isinstance(again.created_at, datetime)
        page = await operation("tasks", "list_tasks").asyncio(client=client, page_size=1)
        assert (page.total, page.tasks) == (1, [task])
        missing = await operation("tasks", "get_task").asyncio(client=client, task_id=task.task_id + 1)
        assert isinstance(missing, models.Problem)
        assert (missing.status, missing.type_) == (404, "urn:pgqueue:task-not-found")
        body.priority = 40_000
        refused = await operation("tasks", "submit_task").asyncio(client=client, body=body)
        assert [(fault.pointer, fault.in_) for fault in refused.errors] == [("/priority", "body")]
