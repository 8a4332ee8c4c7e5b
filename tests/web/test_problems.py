"""What goes wrong is told as RFC 9457, with a pointer to the value at fault, and nothing of the inside."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import errors
from pgqueue.settings import Settings
from pgqueue_web.problems import BY_ERROR, TOO_SLOW
from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx
    import psycopg

JSON = {"content-type": "application/json"}
INSIDE = re.compile(r"Traceback|File \"|select |insert |pgqueue\._|constraint|line \d", re.IGNORECASE)


def problem(answer: httpx.Response, status: int) -> Any:  # noqa: ANN401 - JSON
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert not INSIDE.search(answer.text), answer.text
    found = answer.json()
    assert found["status"] == status
    assert found["title"]
    assert found["detail"]
    return found


def test_each_error_has_its_problem_and_the_readme_names_both() -> None:
    raised = {getattr(errors, name) for name in errors.__all__ if name[0].isupper() and name != "BY_SQLSTATE"}
    assert set(BY_ERROR) == raised - {errors.ServerUnavailable}  # the client's own
    names = [kind.name for kind in BY_ERROR.values()]
    assert len(set(names)) == len(names)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| (QU\d+) \| `(\w+)` \|", readme, re.MULTILINE))
    assert told == {state: kind.__name__ for state, kind in errors.BY_SQLSTATE.items()}
    page = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")
    rows = {(int(status), name) for name, status in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", page, re.MULTILINE)}
    assert rows == {(kind.status, kind.name) for kind in (*BY_ERROR.values(), TOO_SLOW)}


BAD_BODIES = {
    "no JSON": ("{", 400, None),
    "nothing": ("", 400, None),
    "a list": ("[]", 422, ""),
    "no type": ('{"payload": {}}', 422, ""),
    "an unknown field": ('{"task_type": "a", "pirority": 3}', 422, ""),
    "a text for a number": ('{"task_type": "a", "priority": "10"}', 422, "/priority"),
    "a number out of range": ('{"task_type": "a", "priority": 40000}', 422, "/priority"),
    "a fraction": ('{"task_type": "a", "priority": 1.5}', 422, "/priority"),
    "an empty type": ('{"task_type": ""}', 422, "/task_type"),
    "a control character": ('{"task_type": "a\\u0007"}', 422, "/task_type"),
    "a time without a zone": ('{"task_type": "a", "run_at": "2026-02-01T00:00:00"}', 422, "/run_at"),
    "a far away time": ('{"task_type": "a", "run_at": "9999-02-01T00:00:00Z"}', 422, "/run_at"),
    "NUL within the payload": ('{"task_type": "a", "payload": {"b": ["\\u0000"]}}', 422, "/payload/b/0"),
    "much metadata": (json.dumps({"task_type": "a", "metadata": {"a": "b" * 70_000}}), 422, "/metadata"),
    "a huge payload": (json.dumps({"task_type": "a", "payload": "b" * 1_100_000}), 422, "/payload"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_body_that_does_not_fit_is_refused_with_the_place(web: httpx.AsyncClient, name: str) -> None:
    body, status, pointer = BAD_BODIES[name]
    found = problem(await web.post("/tasks", content=body.encode(), headers=JSON if body else {}), status)
    if pointer is not None:
        assert [fault["pointer"] for fault in found["errors"]] == [pointer]
        assert found["errors"][0]["in"] == "body"


async def test_a_task_of_a_batch_is_named_by_its_place(web: httpx.AsyncClient) -> None:
    tasks: Any = {"tasks": [{"task_type": "a"}, {"task_type": "a", "payload": "\x00"}]}
    found = problem(await web.post("/tasks/batch", json=tasks), 422)
    assert found["errors"][0]["pointer"] == "/tasks/1/payload"
    tasks = {"tasks": [{"task_type": "a"}, {"task_type": "a", "timeout": 0}]}
    found = problem(await web.post("/tasks/batch", json=tasks), 422)
    assert found["errors"][0]["pointer"] == "/tasks/1/timeout"
    assert (await web.get("/tasks")).json()["total"] == 0


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("satus=running", "satus"),
        ("status=runing", "status"),
        ("status=null", "status"),
        ("page=0", "page"),
        ("page=x", "page"),
        ("page=1&page=2", "page"),
        ("page_size=501", "page_size"),
        ("created_from=2026-02-01", "created_from"),
        ("created_from=1700000000", "created_from"),
        ("cursor=abc", "cursor"),
        ("queue_name=a%00", "queue_name"),
        ("sort=id;drop%20table", "sort"),
    ],
)
async def test_a_parameter_that_does_not_fit_is_refused_by_name(web: httpx.AsyncClient, query: str, name: str) -> None:
    found = problem(await web.get(f"/tasks?{query}"), 422)
    assert (found["errors"][0]["pointer"], found["errors"][0]["in"]) == (name, "query")


async def test_what_is_not_there_is_404_and_says_so(web: httpx.AsyncClient) -> None:
    found = problem(await web.get("/tasks/7"), 404)
    assert (found["type"], found["code"], found["context"]) == ("urn:pgqueue:task-not-found", "QU102", {"task_id": 7})
    for path in ("/tasks/x", "/tasks/0", "/tasks/-1", "/tasks/1_0", "/tasks/99999999999999999999", "/tasks/%31"):
        assert problem(await web.get(path), 404)["type"] == "urn:pgqueue:task-not-found"
    assert problem(await web.get("/queues/nowhere/stats"), 404)["code"] == "QU101"
    assert problem(await web.get("/scheduled-tasks/never"), 404)["code"] == "QU103"
    assert problem(await web.get("/nothing"), 404)["type"] == "about:blank"
    missing = await web.post("/tasks", json={"task_type": "a", "queue_name": "nowhere"})
    assert problem(missing, 404)["context"] == {"queue_name": "nowhere"}


async def test_other_methods_and_media_types_are_refused(web: httpx.AsyncClient) -> None:
    answer = await web.put("/tasks", json={})
    assert problem(answer, 405)
    assert set(answer.headers["allow"].split(", ")) == {"GET", "OPTIONS", "POST"}
    for media_type in ("text/plain", "application/xml", "multipart/form-data"):
        problem(await web.post("/tasks", content=b'{"task_type":"a"}', headers={"content-type": media_type}), 415)
    assert (await web.options("/tasks")).headers["allow"] == "GET, OPTIONS, POST"


async def test_states_that_forbid_it_are_409(web: httpx.AsyncClient) -> None:
    task = (await web.post("/tasks", json={"task_type": "a", "unique_key": "k"})).json()
    assert problem(await web.post(f"/tasks/{task['task_id']}/retry"), 409)["code"] == "QU201"
    body = {"task_type": "a", "unique_key": "k", "on_conflict": "raise"}
    found = problem(await web.post("/tasks", json=body), 409)
    assert (found["type"], found["context"]["task_id"]) == ("urn:pgqueue:duplicate-task", task["task_id"])


async def test_a_full_queue_is_429_with_retry_after(web: httpx.AsyncClient) -> None:
    await web.post("/queues", json={"name": "small", "capacity": 1})
    assert (await web.post("/tasks", json={"task_type": "a", "queue_name": "small"})).status_code == 201
    answer = await web.post("/tasks", json={"task_type": "a", "queue_name": "small"})
    assert problem(answer, 429)["type"] == "urn:pgqueue:queue-full"
    assert int(answer.headers["retry-after"]) > 0


async def test_a_schema_that_is_gone_is_503_and_what_is_unforeseen_500_without_a_word_of_the_inside(
    web: httpx.AsyncClient, conn: psycopg.Connection[Any]
) -> None:
    outs = "task_id bigint, status text, progress int, message text, step text, completed_steps int, total_steps int"
    conn.execute(
        f"create or replace function pgqueue.get_progress(p_id bigint) returns table ({outs}, updated_at timestamptz)"
        " language plpgsql as $$ begin perform 1 / 0; end $$"
    )
    found = problem(await web.get("/tasks/1/progress"), 500)
    assert found["detail"] == "Something went wrong in the server."
    conn.execute("drop schema pgqueue cascade")
    answer = await web.get("/tasks/1")
    assert problem(answer, 503)["type"] == "urn:pgqueue:schema-mismatch"
    assert answer.headers["retry-after"]


async def test_names_with_slashes_dots_and_emoji_are_names(web: httpx.AsyncClient) -> None:
    names = ["a/b", "..", ".", "%2F", "a%2Fb", "😀", "a b", "a?b#c", "stats", "a;b", "ñ", "'; drop table x; --", "a\\b"]
    quoted = {name: "".join(f"%{byte:02X}" for byte in name.encode()) for name in names}
    for name in names:
        made = await web.post("/queues", json={"name": name, "concurrency": 1})
        assert (made.status_code, made.json()["name"]) == (201, name)
    for name, path in quoted.items():
        answer = await web.get(f"/queues/{path}/stats")
        assert (answer.status_code, answer.json()["queue_name"]) == (200, name)
    assert {queue["name"] for queue in (await web.get("/queues")).json()["queues"]} == {"default", *names}


async def test_paths_have_one_spelling(web: httpx.AsyncClient, raw: Callable[..., Any]) -> None:
    paths = ("/api/v1/..", "/api/v1/tasks/../../../etc/passwd", "/assets/../app.py", "/assets/%2e%2e/app.py")
    for path in (*paths, "/assets/..%2fapp.py", "/API/v1/tasks", "/api/v1/queues/a%1Fb", "/api/v1/queues/a%00b"):
        answer = await raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 403")), (path, answer[:100])


async def test_a_reason_for_a_pause_has_at_most_1000_characters(web: httpx.AsyncClient) -> None:
    schedule = {"name": "s", "task_type": "a", "cron_expr": "@daily"}
    await web.post("/scheduled-tasks", json=schedule)
    for path in ("/queues/default/pause", "/scheduled-tasks/s/pause"):
        assert (await web.post(path, json={"reason": "é" * 1000})).status_code == 200
        refused = problem(await web.post(path, json={"reason": "é" * 1001}), 422)
        assert refused["errors"][0]["pointer"] == "/reason"


class TestADatabaseThatTakesTooLong:
    @pytest.fixture
    def web_settings(self, dsn: str) -> Settings:
        return Settings(dsn=dsn, api_timeout_s=0.2)

    async def test_is_told_and_holds_no_request(self, web: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
        with conn.transaction():
            conn.execute("lock table pgqueue.queues")
            answer = await web.get("/queues")
        assert problem(answer, 503)["type"] == "urn:pgqueue:statement-timeout"
        assert answer.headers["retry-after"] == "2"
        assert (await web.get("/queues")).status_code == 200
