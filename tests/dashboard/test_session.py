"""Who gets in, what they may do, and forms that only our own pages can send."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from pgqueue import Database, TaskRequest
from pgqueue.services import AccessService

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.models import Scope
    from pgqueue.sync import QueueService

CSRF = re.compile(r'name="csrf" value="([0-9a-f]{64})"')
NOT_FOUND = {"accept": "text/html"}


@pytest.fixture
def make_key(dsn: str) -> Callable[..., str]:
    """Make a key; return it."""

    async def make(scopes: tuple[Scope, ...], queues: list[str] | None) -> str:
        async with Database(dsn) as db:
            return (await AccessService(db).create_api_key("-".join(scopes), scopes, queues=queues)).key

    return lambda *scopes, queues=None: asyncio.run(make(scopes, queues))


async def revoke(dsn: str, name: str) -> None:
    async with Database(dsn) as db:
        await AccessService(db).revoke_api_key(name)


def token_of(client: httpx.Client, path: str = "/login") -> str:
    found = CSRF.search(client.get(path).text)
    assert found is not None
    return found[1]


def log_in(client: httpx.Client, key: str, target: str = "/") -> httpx.Response:
    return client.post("/login", data={"csrf": token_of(client), "key": key, "next": target})


def test_a_key_is_exchanged_for_a_session_that_is_not_the_key(url: str, make_key: Callable[..., str]) -> None:
    key = make_key("admin")
    with httpx.Client(base_url=url) as client:
        answer = client.get("/tasks", params={"state": "failed"})
        assert answer.status_code == 303
        assert answer.headers["location"] == "/login?next=%2Ftasks%3Fstate%3Dfailed"
        answer = log_in(client, key, "/tasks?state=failed")
        assert (answer.status_code, answer.headers["location"]) == (303, "/tasks?state=failed")
        cookie = answer.headers["set-cookie"]
        assert key not in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert client.get("/tasks").status_code == 200
        client.post("/logout", data={"csrf": token_of(client, "/tasks")})
        assert client.get("/tasks").status_code == 303


def test_a_session_ends_with_its_key_and_cannot_be_made_up(url: str, make_key: Callable[..., str], dsn: str) -> None:
    key = make_key("read")
    with httpx.Client(base_url=url) as client:
        log_in(client, key)
        session = client.cookies["pgqueue_session"]
        selector, end, mac = session.split(".")
        for made_up in (
            f"{selector}.{int(end) + 1}.{mac}",
            f"{selector}.{end}.{'0' * 64}",
            "x",
            f"{'0' * 12}.{end}.{mac}",
        ):
            assert httpx.get(f"{url}/tasks", cookies={"pgqueue_session": made_up}).status_code == 303
        assert client.get("/tasks").status_code == 200
        asyncio.run(revoke(dsn, "read"))
        assert client.get("/tasks").status_code == 303


def test_a_wrong_key_is_told_and_no_address_elsewhere_is_gone_to(url: str, make_key: Callable[..., str]) -> None:
    key = make_key("read")
    with httpx.Client(base_url=url) as client:
        answer = log_in(client, "pgq_wrong")
        assert answer.status_code == 422
        assert "this is no key of pgqueue" in answer.text
        for target in ("//evil.example", "https://evil.example", "/\\evil.example", "\\\\evil.example"):
            assert log_in(client, key, target).headers["location"] == "/"


@pytest.mark.parametrize("token", ["", "0" * 64])
def test_a_form_without_the_token_of_this_session_does_nothing(url: str, service: QueueService, token: str) -> None:
    task_id = service.submit_task(TaskRequest(task_type="echo")).task_id
    with httpx.Client(base_url=url) as client:
        assert client.post(f"/tasks/{task_id}/cancel", data={"csrf": token}).status_code == 403
        client.get("/")
        assert client.post(f"/tasks/{task_id}/cancel", data={"csrf": token}).status_code == 403
        right = token_of(client, f"/tasks/{task_id}")
        assert httpx.post(f"{url}/tasks/{task_id}/cancel", data={"csrf": right}).status_code == 403
        headers = {"origin": "https://evil.example"}
        assert client.post(f"/tasks/{task_id}/cancel", data={"csrf": right}, headers=headers).status_code == 403
        assert service.get_task(task_id).status == "pending"
        assert client.post(f"/tasks/{task_id}/cancel", data={"csrf": right}).status_code == 303
        assert service.get_task(task_id).status == "cancelled"


def test_a_key_sees_and_does_what_it_is_for(url: str, make_key: Callable[..., str], service: QueueService) -> None:
    service.create_queue("mine")
    mine = service.submit_task(TaskRequest(task_type="a", queue_name="mine")).task_id
    other = service.submit_task(TaskRequest(task_type="secret", queue_name="default")).task_id
    reader = make_key("read", queues=["mine"])
    manager = make_key("read", "manage", queues=["mine"])
    with httpx.Client(base_url=url) as client:
        log_in(client, reader)
        for path in ("/", "/tasks", "/queues", "/schedules", "/workers", "/system"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert "secret" not in answer.text, path
        assert client.get(f"/tasks/{mine}").status_code == 200
        assert client.get(f"/tasks/{other}").status_code == 404
        assert client.get("/tasks?queue=default").text.count("data-row") == 0
        token = CSRF.search(client.get(f"/tasks/{mine}").text)
        assert token is not None
        assert client.post(f"/tasks/{mine}/cancel", data={"csrf": token[1]}).status_code == 403
    with httpx.Client(base_url=url) as client:
        log_in(client, manager)
        token = CSRF.search(client.get("/tasks").text)
        assert token is not None
        assert client.post(f"/tasks/{other}/cancel", data={"csrf": token[1]}).status_code == 403
        assert client.post(
            "/bulk/cancel", data={"csrf": token[1], "ids": str(other)}, headers={"hx-request": "true"}
        ).status_code in (200, 204)
        assert client.post("/bulk/cancel", data={"csrf": token[1]}).status_code == 403
        assert service.get_task(other).status == "pending"
        assert client.post(f"/tasks/{mine}/cancel", data={"csrf": token[1]}).status_code == 303


def test_a_read_only_dashboard_changes_nothing(serve: Callable[..., str], service: QueueService) -> None:
    task_id = service.submit_task(TaskRequest(task_type="a")).task_id
    url = serve(PGQUEUE_DASHBOARD_READ_ONLY="true")
    with httpx.Client(base_url=url) as client:
        text = client.get(f"/tasks/{task_id}").text
        assert "read-only" in text
        assert '<form method="post"' not in text
        token = token_of(client)
        assert client.post(f"/tasks/{task_id}/cancel", data={"csrf": token}).status_code == 403
        assert client.post("/queues", data={"csrf": token, "name": "x"}).status_code == 403
        assert client.get("/new").status_code == 403
    assert service.get_task(task_id).status == "pending"


@pytest.mark.parametrize("strips", [True, False])
def test_below_a_prefix_every_link_has_it(serve: Callable[..., str], service: QueueService, strips: bool) -> None:  # noqa: FBT001 - a parameter of the test
    service.submit_task(TaskRequest(task_type="a"))
    url = serve(PGQUEUE_API_ROOT_PATH="/queue")
    below = url if strips else f"{url}/queue"
    for path in ("/", "/tasks", "/tasks/1", "/queues", "/schedules", "/workers", "/system", "/login"):
        answer = httpx.get(below + path)
        assert answer.status_code == 200, path
        links = re.findall(r'(?:href|src|action|hx-get|hx-post|hx-sse:connect)="([^"]*)"', answer.text)
        assert links
        assert [link for link in links if not link.startswith(("/queue/", "#"))] == [], path
        script = next(link for link in links if "dashboard.js" in link)
        assert httpx.get(url + (script.removeprefix("/queue") if strips else script)).status_code == 200


def test_every_answer_guards_itself(url: str) -> None:
    for path in ("/", "/tasks", "/login", "/nothing-here"):
        answer = httpx.get(url + path, headers=NOT_FOUND)
        policy = answer.headers["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", answer.text)
        assert "<style" not in answer.text
        assert "<script>" not in answer.text


def test_programs_still_get_problems(url: str) -> None:
    assert httpx.get(f"{url}/nothing").headers["content-type"] == "application/problem+json"
    assert httpx.get(f"{url}/api/v1/nothing", headers=NOT_FOUND).headers["content-type"] == "application/problem+json"
