"""A task as text to copy: JSON as it is, curl and Python that submit another like it."""

from __future__ import annotations

import json
import pprint
import shlex
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.models import TaskRecord

__all__ = ["FORMS", "Form"]

FIELDS = ("task_type", "queue_name", "priority", "payload", "max_retries", "timeout", "user_id", "project_id")


class Form(NamedTuple):
    """A way to copy a task: its name on the button, and what writes it (task, address of the server)."""

    title: str
    write: Callable[[TaskRecord, str], str]


def _again(task: TaskRecord) -> dict[str, object]:
    """Return what submits another task like this."""
    return {name: value for name in FIELDS if (value := getattr(task, name)) is not None}


def _json(task: TaskRecord, _base: str) -> str:
    return json.dumps(msgspec.to_builtins(task), indent=2, ensure_ascii=False)


def _curl(task: TaskRecord, base: str) -> str:
    body = json.dumps(_again(task), ensure_ascii=False)
    lines = (
        f"curl {shlex.quote(base + '/api/v1/tasks')}",
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(body)}",
    )
    return " \\\n  ".join(lines)


def _python(task: TaskRecord, _base: str) -> str:
    given = ",\n".join(f"    {name}={pprint.pformat(value, sort_dicts=False)}" for name, value in _again(task).items())
    return f"await queue_service.submit_task(TaskRequest(\n{given},\n))"


FORMS = {"json": Form("JSON", _json), "curl": Form("curl", _curl), "python": Form("Python", _python)}
