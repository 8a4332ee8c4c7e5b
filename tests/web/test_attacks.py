"""What a hostile client tries, and what becomes of it: a clear refusal, and a server that goes on."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import BulkFilter, RetryManager, ScheduledTaskRequest, SchedulerService, TaskRequest
from pgqueue.services import PageService
from pgqueue.settings import Settings
from pgqueue_web.app import litestar_app
from pgqueue_web.dashboard.session import COOKIE, csrf_of
from tests.web.conftest import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from pgqueue import QueueService
    from pgqueue.services import AccessService
    from pgqueue_web import Server

HEAD = b"POST /api/v1/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
JSON = {"content-type": "application/json"}
GZIP = {"content-encoding": "gzip"}


@pytest.fixture
def web_settings(dsn: str) -> Settings:
    return Settings(dsn=dsn, api_max_body=100_000, api_receive_s=0.5)


async def test_a_body_beyond_the_limit_is_413_however_it_is_sent(
    web: httpx.AsyncClient, raw: Callable[..., Any]
) -> None:
    large = json.dumps({"task_type": "a", "payload": "b" * 100_000}).encode()
    answer = await web.post("/tasks", content=large, headers=JSON)
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    said = await raw(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413")
    chunk = b"10000\r\n" + b"a" * 65536 + b"\r\n"
    assert (await raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3)).startswith(b"HTTP/1.1 413")
    assert (await web.get("/tasks")).json()["total"] == 0


@pytest.mark.parametrize("depth", [101, 2_000, 40_000])
async def test_deeply_nested_json_is_refused(web: httpx.AsyncClient, depth: int) -> None:
    for start, end in (("[", "]"), ('{"a":', "}")):
        nested = start * depth + "1" + end * depth
        for body in (nested, f'{{"task_type": "a", "payload": {nested}}}', f'{{"task_type": "a", "x": {nested}}}'):
            answer = await web.post("/tasks", content=body.encode()[:99_000], headers=JSON)
            assert answer.status_code in (400, 422), answer.text
    assert (await web.get("/tasks")).json()["total"] == 0


async def test_what_is_nested_within_reason_is_kept(web: httpx.AsyncClient) -> None:
    payload: Any = 1
    for _ in range(90):
        payload = [payload]
    made = await web.post("/tasks", json={"task_type": "a", "payload": payload})
    assert (made.status_code, made.json()["payload"]) == (201, payload)


async def test_heads_and_bodies_that_do_not_come_in_time_are_not_waited_for(
    web: httpx.AsyncClient, raw: Callable[..., Any]
) -> None:
    assert (await raw(HEAD + b"Content-Length: 100\r\n\r\n", b"{")).startswith(b"HTTP/1.1 408")
    drip = [HEAD + b"Content-Length: 100\r\n\r\n", *[b" "] * 10]
    assert (await raw(*drip, pause=0.1)).startswith(b"HTTP/1.1 408")
    assert await raw(b"POST /api/v1/tasks HTTP/1.1\r\nHost: local") == b""
    assert await raw(b"") == b""
    assert await raw(b"GET /healthz HTTP/1.1\r\n", *[b"a: b\r\n"] * 10, pause=0.1) == b""
    assert (await web.get("/tasks")).json()["total"] == 0


async def test_heads_that_are_too_long_or_none_are_refused(web: httpx.AsyncClient, raw: Callable[..., Any]) -> None:
    long = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    assert b"200 OK" not in await raw(long + b"X: " + b"a" * 70_000 + b"\r\n\r\n")
    assert b"200 OK" not in await raw(long + b"".join(b"X-%d: a\r\n" % n for n in range(10_000)) + b"\r\n")
    assert b"200 OK" not in await raw(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for broken in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100):
        assert b"200 OK" not in await raw(broken)
    smuggled = HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n"
    assert b"200 OK" not in await raw(smuggled)
    assert (await web.get("/queues")).status_code == 200


async def test_headers_cannot_be_injected(web: httpx.AsyncClient) -> None:
    name = "a\r\nX-Evil: 1"
    assert (await web.post("/queues", json={"name": name})).status_code == 422
    for path in (
        "/queues/a%0d%0aX-Evil:%201/stats",
        "/scheduled-tasks/a%0d%0aX-Evil:%201",
        "/tasks/1%0d%0aX-Evil:%201",
    ):
        answer = await web.get(path)
        assert answer.status_code == 404
        assert "x-evil" not in answer.headers
    made = await web.post("/queues", json={"name": "é; X-Evil: 1"})
    assert made.headers["location"] == "/api/v1/queues/%C3%A9%3B%20X-Evil%3A%201"


async def test_markup_comes_back_as_data_and_nothing_else(web: httpx.AsyncClient, service: QueueService) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    assert (await web.post("/queues", json={"name": evil})).status_code == 201
    task = {"task_type": evil, "queue_name": evil, "payload": {evil: evil}, "user_id": evil, "metadata": {"a": evil}}
    made = await web.post("/tasks", json=task)
    assert made.json()["payload"] == {evil: evil}
    quoted = evil.replace("<", "%3C").replace(">", "%3E").replace("/", "%2F").replace(" ", "%20")
    for path in ("/tasks", "/tasks/1", "/queues", f"/queues/{quoted}/stats", f"/nothing/{quoted}", f"/tasks/{quoted}"):
        answer = await web.get(path)
        assert answer.headers["content-type"] in ("application/json", "application/problem+json"), path
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    async with stream(web, "/tasks/1/progress") as events:
        await service.cancel_task(1, f"{evil}\n\ndata: forged\n\n")
        told = await events.rest()
        assert events.response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event for event, _, _ in told][-1] == "end"
    assert {event for event, _, _ in told} == {"progress", "end"}


async def test_the_documents_page_needs_nothing_from_elsewhere(web: httpx.AsyncClient) -> None:
    page = await web.get("/docs")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script>" not in page.text
    base = str(web.base_url).removesuffix("/api/v1/")
    script = await web.get(f"{base}/assets/rapidoc/rapidoc-min.js")
    assert (script.status_code, script.headers["content-type"].partition(";")[0]) in (
        (200, "text/javascript"),
        (200, "application/javascript"),
    )


async def test_what_is_no_http_is_refused_with_a_problem(raw: Callable[..., Any]) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    for broken in (
        *(b"FOO /healthz HTTP/1.1\r\n\r\n", b"GET /\xc3\xa9 HTTP/1.1\r\n\r\n", b"GET \\healthz HTTP/1.1\r\n\r\n"),
        *(head + b"X: a\r\n b\r\n\r\n", head + b"X : a\r\n\r\n", head + b"X: a\x00b\r\n\r\n"),
        *(HEAD + b"Content-Length: -1\r\n\r\n", HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456"),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ):
        said, _, body = (await raw(broken)).partition(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400"), broken
        assert b"content-type: application/problem+json" in said, broken
        assert json.loads(body)["status"] == 400


async def test_bytes_that_are_no_text_are_refused(web: httpx.AsyncClient) -> None:
    for query in ("user_id=%ff", "user_id=%ed%a0%80", "user_id=%c0%af", "%ff=1", "user_id=a%00b"):
        assert (await web.get(f"/tasks?{query}")).status_code == 422, query
    for body in (b'{"task_type": "\xff"}', b'{"task_type": "a", "payload": "\xed\xa0\x80"}', b"\xef\xbb\xbf{}"):
        assert (await web.post("/tasks", content=body, headers=JSON)).status_code == 400, body
    for body in (b'{"task_type": "a\\u0000"}', b'{"task_type": "a", "payload": {"\\u0000": 1}}'):
        assert (await web.post("/tasks", content=body, headers=JSON)).status_code == 422, body
    zipped = await web.post("/tasks", content=gzip.compress(b'{"task_type": "a"}'), headers=JSON | GZIP)
    assert zipped.status_code == 415
    assert (await web.get("/tasks")).json()["total"] == 0


async def test_moments_at_the_ends_of_time_are_moments(web: httpx.AsyncClient) -> None:
    ends = ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59")
    for moment in ends:
        for name in ("start_time", "end_time"):
            status = (await web.get(f"/tasks/statistics?{name}={moment}")).status_code
            assert status == (422 if name == "start_time" and moment[0] == "9" else 200), (name, moment)
        for name in ("created_from", "created_to"):
            assert (await web.get(f"/tasks?{name}={moment}")).status_code == 200, (name, moment)


async def test_huge_query_strings_cost_little(web: httpx.AsyncClient) -> None:
    for query in ("a" * 60_000 + "=1", "&".join(f"a{n}=1" for n in range(8000)), "status=pending&" * 4000):
        assert (await web.get(f"/tasks?{query}")).status_code == 422


FOREIGN = "f0reign"


async def make_foreign(service: QueueService) -> None:
    """A queue, task, schedule and bulk operation that a key for the queue `mine` is not to know of."""
    for name in ("mine", FOREIGN):
        await service.create_queue(name)
    request = TaskRequest(task_type=FOREIGN, queue_name=FOREIGN, payload={FOREIGN: FOREIGN}, unique_key=FOREIGN)
    task = await service.submit_task(request)
    await service.cancel_task(task.task_id, FOREIGN)
    await RetryManager(service.db).retry_tasks(BulkFilter(queue_name=FOREIGN), requested_by=FOREIGN)
    wanted = ScheduledTaskRequest(name=FOREIGN, task_type=FOREIGN, cron_expr="@daily", queue_name=FOREIGN)
    await SchedulerService(service.db).create_scheduled_task(wanted)


async def test_no_endpoint_tells_a_key_of_queues_that_it_is_not_for(
    web: httpx.AsyncClient, api: Server, access: AccessService, service: QueueService
) -> None:
    """All routes with all scopes: what names something foreign is refused, and what lists tells nothing of it."""
    await make_foreign(service)
    web.headers["authorization"] = "Bearer " + (await access.create_api_key("k", ["admin"], queues=["mine"])).key
    before = [await service.get_task(1), await service.list_queues()]
    bodies = {"/api/v1/queues": {"name": FOREIGN}, "/api/v1/scheduled-tasks": {"name": FOREIGN, "queue_name": FOREIGN}}
    asked = 0
    for route in litestar_app(api.context).routes:
        for handler in getattr(route, "route_handlers", []):
            for method in sorted(handler.http_methods - {"OPTIONS", "HEAD"}):
                if handler.opt["scope"] == "public":
                    continue
                path = route.path_format.replace("{task_id}", "1")
                path = path.replace("{queue_name}", FOREIGN).replace("{name}", FOREIGN)
                query = "?limit=1" if path.endswith(("/scheduled-tasks", "/audit-log")) else ""
                query = "?wait=0" if path.endswith("/events") else query
                body = {"task_type": "a", "cron_expr": "@daily", "queue_name": FOREIGN} if method == "POST" else {}
                url = api.url + path + query
                answer = await web.request(method, url, json=bodies.get(path, body), headers={"last-event-id": "x-0"})
                if path == route.path_format and answer.status_code == 200:
                    assert FOREIGN not in answer.text, (method, path)
                else:
                    assert answer.status_code in (403, 404, 422), (method, path, answer.text)
                asked += 1
    assert asked > 30
    assert [await service.get_task(1), await service.list_queues()] == before


async def test_no_page_tells_a_key_of_queues_that_it_is_not_for(
    web: httpx.AsyncClient, api: Server, access: AccessService, service: QueueService
) -> None:
    await make_foreign(service)
    lists = ("/", "/tasks", "/queues", "/schedules", "/system")
    for queues, status in ((["mine"], 404), (None, 200)):
        key = (await access.create_api_key(f"key {status}", ["admin"], queues=queues)).key
        session = await PageService(service.db).begin_session(key, 60)
        web.cookies.set(COOKIE, session)
        for path in lists:
            answer = await web.get(api.url + path)
            assert (answer.status_code, FOREIGN in answer.text) == (200, queues is None), path
        for path in ("/tasks/1", f"/schedules/{FOREIGN}", "/operations/1"):
            assert (await web.get(api.url + path)).status_code == status, path
        form = {"csrf": csrf_of(session)}
        assert (await web.post(f"{api.url}/operations/1/stop", data=form)).status_code in (status, 409)
