"""The language of the search box: qualifiers, and what is too much to look for."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, get_args

from pgqueue.models import Status, TaskSearch

if TYPE_CHECKING:
    from pgqueue.models import Principal

__all__ = ["WINDOWS", "Search", "read_search"]

TERM = re.compile(r'(?:([A-Za-z_][^\s:"]*):)?("(?:[^"\\]|\\.)*"|\S+)')
WINDOWS = {
    "15m": ("15 minutes", timedelta(minutes=15)),
    "1h": ("hour", timedelta(hours=1)),
    "24h": ("24 hours", timedelta(hours=24)),
    "7d": ("7 days", timedelta(days=7)),
    "30d": ("30 days", timedelta(days=30)),
}
FIELDS = {"type": "task_type", "user": "user_id", "project": "project_id", "error": "error", "state": "status"}
EXAMPLES = "payload.customer.id:42, error:timeout, type:send_email, user:7, or a task's number"


class Search:
    """What is looked for; `problems` say what of it cannot be."""

    def __init__(self) -> None:
        """Everything."""
        self.wanted = TaskSearch()
        self.problems: list[str] = []
        self.task_id: int | None = None
        self.queue: str | None = None

    @property
    def is_deep(self) -> bool:
        """Whether payloads or errors are looked through."""
        return self.wanted.path is not None or self.wanted.error is not None


def read_search(given: dict[str, str], who: Principal, now: datetime) -> Search:
    """Read the filters of the address and the text of the search box."""
    search = Search()
    for name in ("state", "type"):
        if given.get(name):
            setattr(search.wanted, FIELDS[name], given[name])
    search.queue = given.get("queue") or None
    if given.get("since") in WINDOWS:
        search.wanted.created_from = now - WINDOWS[given["since"]][1]
    if re.fullmatch(r"[0-9]{1,18}", given.get("before", ""), re.ASCII):
        search.wanted.before_id = int(given["before"])
    for key, value in TERM.findall(given.get("q", "")):
        _read_term(search, key, _unquoted(value))
    _check(search, who)
    return search


def _unquoted(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if quoted else value


def _read_term(search: Search, key: str, value: str) -> None:
    wanted = search.wanted
    if key in FIELDS:
        setattr(wanted, FIELDS[key], value)
    elif key == "queue":
        search.queue = value
    elif key.startswith("payload.") and len(key) > 8:
        wanted.path, wanted.value = key[8:].split("."), value
    elif key == "parent" and re.fullmatch(r"#?[0-9]{1,18}", value, re.ASCII):
        wanted.parent_id = int(value.removeprefix("#"))
    elif (key in ("", "id")) and re.fullmatch(r"#?[0-9]{1,18}", value, re.ASCII):
        search.task_id = int(value.removeprefix("#"))
    elif key == "":
        search.problems.append(f"“{value[:100]}” does not say where to look. Write {EXAMPLES}.")
    else:
        search.problems.append(f"There is no “{key[:100]}:”. Write {EXAMPLES}.")


def _check(search: Search, who: Principal) -> None:
    wanted = search.wanted
    if wanted.status is not None and wanted.status not in get_args(Status):
        search.problems.append(f"There is no state “{str(wanted.status)[:100]}”: {', '.join(get_args(Status))}.")
    if search.queue is not None:
        wanted.queue_names = [search.queue] if who.may_touch(search.queue) else []
    else:
        wanted.queue_names = who.queues
    narrowing = (wanted.status, search.queue, wanted.task_type, wanted.user_id, wanted.project_id)
    if search.is_deep and all(part is None for part in (*narrowing, wanted.created_from, wanted.parent_id)):
        also = "also choose a state, a queue, a type or a time: not every task can be read"
        search.problems.append(f"To look through payloads or errors, {also}.")
