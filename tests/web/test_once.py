"""Idempotency keys, waiting, batches, pages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from pgqueue.settings import Settings
from tests.web.conftest import working

if TYPE_CHECKING:
    import psycopg

    from pgqueue import QueueService
    from pgqueue_web import Server

TASK = {"task_type": "a"}


async def test_a_repeated_request_has_the_first_answer_and_does_nothing(web: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}
    first = await web.post("/tasks", json=TASK, headers=headers)
    again = await web.post("/tasks", json=TASK, headers=headers)
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert (await web.get("/tasks")).json()["total"] == 1


async def test_another_request_with_the_key_is_refused(web: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k"}
    await web.post("/tasks", json=TASK, headers=headers)
    other = await web.post("/tasks", json={"task_type": "b"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (422, "QU203")
    elsewhere = await web.post("/tasks/batch", json={"tasks": [TASK]}, headers=headers)
    assert elsewhere.status_code == 422
    assert (await web.get("/tasks")).json()["total"] == 1


async def test_many_at_once_with_one_key_make_one_task(web: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(web.post("/tasks", json=TASK, headers={"idempotency-key": "k"}) for _ in range(20))
    )
    assert {answer.json()["task_id"] for answer in answers} == {1}
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 19
    assert (await web.get("/tasks")).json()["total"] == 1


async def test_a_refused_request_may_be_repeated(web: httpx.AsyncClient) -> None:
    body, headers = {**TASK, "queue_name": "later"}, {"idempotency-key": "k"}
    assert (await web.post("/tasks", json=body, headers=headers)).status_code == 404
    await web.post("/queues", json={"name": "later"})
    assert (await web.post("/tasks", json=body, headers=headers)).status_code == 201


async def test_an_expired_key_is_free_again(web: httpx.AsyncClient, conn: psycopg.Connection[Any]) -> None:
    headers = {"idempotency-key": "k"}
    await web.post("/tasks", json=TASK, headers=headers)
    conn.execute("update pgqueue.idempotency_keys set expires_at = now()")
    assert (await web.post("/tasks", json={"task_type": "b"}, headers=headers)).json()["task_type"] == "b"


@pytest.mark.parametrize("key", ["", "a b", "ä", "x" * 256])
async def test_a_key_that_is_none_is_refused(web: httpx.AsyncClient, key: str) -> None:
    answer = await web.post("/tasks", json=TASK, headers=[(b"idempotency-key", key.encode())])
    assert (answer.status_code, answer.json()["errors"][0]["in"]) == (422, "header")


async def test_a_batch_is_all_or_nothing(web: httpx.AsyncClient) -> None:
    tasks = [{**TASK, "payload": number} for number in range(1000)]
    answer = await web.post("/tasks/batch", json={"tasks": tasks})
    assert answer.status_code == 201
    assert [item["task_id"] for item in answer.json()["tasks"]] == list(range(1, 1001))
    assert (await web.get("/tasks/1000")).json()["payload"] == 999
    refused = await web.post("/tasks/batch", json={"tasks": [TASK, {**TASK, "queue_name": "nowhere"}]})
    assert refused.status_code == 404
    assert (await web.get("/tasks")).json()["total"] == 1000
    assert (await web.post("/tasks/batch", json={"tasks": []})).status_code == 422


async def test_a_taken_unique_key_is_200_with_the_live_task(web: httpx.AsyncClient) -> None:
    first = await web.post("/tasks", json={**TASK, "unique_key": "k", "payload": {"n": 1}})
    again = await web.post("/tasks", json={**TASK, "unique_key": "k", "payload": {"n": 2}})
    assert (again.status_code, again.json()) == (200, first.json())
    batch = await web.post("/tasks/batch", json={"tasks": [{**TASK, "unique_key": "k"}]})
    assert batch.json() == {"tasks": [{"task_id": first.json()["task_id"], "created": False}]}


async def test_whoever_prefers_to_wait_is_answered_at_the_end(web: httpx.AsyncClient, service: QueueService) -> None:
    @service.handler("a")
    async def run(ctx: Any, payload: dict[str, Any]) -> int:  # noqa: ANN401 - a context
        return 7

    headers = {"prefer": "respond-async, wait=30"}
    async with working(service):
        answer = await web.post("/tasks", json=TASK, headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (201, "completed")
        assert answer.headers["preference-applied"] == "wait=30"
        later = (await web.post("/tasks", json=TASK)).json()["task_id"]
        assert (await web.get(f"/tasks/{later}", headers=headers)).json()["status"] == "completed"
        assert (await web.get(f"/tasks/{later}/result", headers=headers)).json()["result"] == 7
    waiting = await web.post("/tasks", json=TASK, headers={"prefer": "wait=0"})
    assert (waiting.status_code, waiting.json()["status"]) == (201, "pending")


async def test_pages_by_number_and_by_cursor_hold_everything_once(web: httpx.AsyncClient) -> None:
    await web.post("/tasks/batch", json={"tasks": [TASK] * 25})
    pages = [(await web.get(f"/tasks?page={number}&page_size=10")).json() for number in (1, 2, 3)]
    assert [task["task_id"] for page in pages for task in page["tasks"]] == list(range(25, 0, -1))
    assert {page["total"] for page in pages} == {25}
    found, cursor = [], None
    while True:
        page = (await web.get("/tasks", params={"page_size": 10} | ({"cursor": cursor} if cursor else {}))).json()
        found += [task["task_id"] for task in page["tasks"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert found == list(range(25, 0, -1))


async def test_filters_are_values_and_never_sql(web: httpx.AsyncClient) -> None:
    await web.post("/tasks", json={**TASK, "user_id": "ada' or '1'='1"})
    await web.post("/tasks", json=TASK)
    assert (await web.get("/tasks", params={"user_id": "ada' or '1'='1"})).json()["total"] == 1
    for value in ("' or 1=1 --", "%", "ada%", '"; drop schema pgqueue cascade; --', "\\", "$1"):
        for name in ("queue_name", "task_type", "user_id", "project_id"):
            assert (await web.get("/tasks", params={name: value})).json()["total"] == 0
    assert (await web.get("/tasks")).json()["total"] == 2


class TestBehindAPrefix:
    @pytest.fixture
    def web_settings(self, dsn: str) -> Settings:
        return Settings(dsn=dsn, api_root_path="/tools/pgqueue")

    async def test_what_is_new_is_where_the_answer_says(self, api: Server) -> None:
        async with httpx.AsyncClient(base_url=api.url) as client:
            for _ in range(2):
                made = await client.post("/tools/pgqueue/api/v1/tasks", json=TASK, headers={"idempotency-key": "k"})
                assert made.headers["location"] == f"/tools/pgqueue/api/v1/tasks/{made.json()['task_id']}"
                assert (await client.get(made.headers["location"])).json() == made.json()
