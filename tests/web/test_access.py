"""Keys: who gets in, what they may do, and what is written down of it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio
from litestar.routes import HTTPRoute

from pgqueue.errors import ConfigurationError, InvalidInput, KeyNotFound
from pgqueue_web.app import litestar_app
from tests.web.conftest import DEADLINE_S, serving, stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import psycopg

    from pgqueue import Database
    from pgqueue.services import AccessService
    from pgqueue_web import Server

    Connection = psycopg.Connection[Any]

TASK = {"task_type": "a"}


class Keys:
    """Clients with keys of any scope."""

    def __init__(self, access: AccessService, url: str) -> None:
        self.access = access
        self.url = url
        self.clients: list[httpx.AsyncClient] = []

    def client(self, key: str | None, scheme: str = "Bearer") -> httpx.AsyncClient:
        headers = {} if key is None else {"authorization": f"{scheme} {key}"}
        self.clients.append(httpx.AsyncClient(base_url=f"{self.url}/api/v1", timeout=DEADLINE_S, headers=headers))
        return self.clients[-1]

    async def make(self, name: str, *scopes: Any, **options: Any) -> httpx.AsyncClient:  # noqa: ANN401 - as in the service
        made = await self.access.create_api_key(name, scopes, **options)
        return self.client(made.key)


@pytest_asyncio.fixture
async def keys(access: AccessService, api: Server) -> AsyncIterator[Keys]:
    made = Keys(access, api.url)
    yield made
    for client in made.clients:
        await client.aclose()


async def test_this_machine_is_let_in_until_there_is_a_key_and_never_again(web: httpx.AsyncClient, keys: Keys) -> None:
    assert (await web.get("/tasks")).status_code == 200
    await keys.make("ann", "read")
    refused = await web.get("/tasks")
    assert (refused.status_code, refused.json()["code"]) == (401, "QU601")
    assert refused.headers["www-authenticate"] == 'Bearer realm="pgqueue"'
    await keys.access.revoke_api_key("ann")
    assert (await web.get("/tasks")).status_code == 401


async def test_a_key_is_its_text_and_nothing_else(access: AccessService, keys: Keys, conn: Connection) -> None:
    made = await access.create_api_key("ann", ["read"])
    assert (await keys.client(made.key).get("/info")).json()["principal"] == {
        "name": "ann",
        "scopes": ["read"],
        "queues": None,
    }
    last = "A" if made.key[-1] != "A" else "B"
    for wrong in (made.key[:-1] + last, made.key[:-1], made.key.upper(), "pgq_", "x" * 10_000, made.key + "A"):
        assert (await keys.client(wrong).get("/info")).status_code == 401
    assert (await keys.client(made.key, "Basic").get("/info")).status_code == 401
    assert (await keys.client(None).get(f"/info?key={made.key}")).status_code == 401
    kept = str(conn.execute("select k::text from pgqueue.api_keys k").fetchall())
    assert made.key not in kept
    assert made.key[17:] not in kept


async def test_a_revoked_or_expired_key_is_refused_from_the_next_request_on(
    access: AccessService, keys: Keys, conn: Connection
) -> None:
    client = await keys.make("ann", "read")
    assert (await client.get("/tasks")).status_code == 200
    await access.revoke_api_key("ann")
    assert (await client.get("/tasks")).json()["detail"] == "this key was revoked"
    client = await keys.make("bob", "read", expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert (await client.get("/tasks")).status_code == 200
    conn.execute("update pgqueue.api_keys set expires_at = now() where name = 'bob'")
    assert (await client.get("/tasks")).json()["detail"] == "this key has expired"
    with pytest.raises(InvalidInput, match="in the past"):
        await access.create_api_key("eve", ["read"], expires_at=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(KeyNotFound):
        await access.revoke_api_key("nobody")


async def test_every_route_wants_its_scope(api: Server, keys: Keys) -> None:
    """Each route is asked without a key, with a wrong one, and with one of every other scope."""
    clients = {scope: await keys.make(scope, scope) for scope in ("read", "submit", "manage")}
    nobody, stranger = keys.client(None), keys.client("pgq_000000000000_" + "a" * 43)
    routes = [
        (method, route.path_format, handler.opt["scope"])
        for route in litestar_app(api.context).routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS", "HEAD"}
        if handler.opt["scope"] != "public"
    ]
    assert len(routes) > 30
    for method, path, scope in routes:
        url = keys.url + path.replace("{task_id}", "1").replace("{worker_id}", "1")
        url = url.replace("{queue_name}", "default").replace("{name}", "x")
        for variant in (url, f"{url}/", url.replace("/api/v1/", "/api/v1//"), f"{url}?a=/healthz", f"{url}%2Fhealthz"):
            for client in (nobody, stranger):
                answer = await client.request(method, variant, headers={"x-forwarded-for": "127.0.0.1"})
                assert answer.status_code in (401, 404, 405), (method, variant, answer.text)
        assert (await nobody.request(method, url)).status_code == 401
        for held, client in clients.items():
            if held != scope:
                answer = await client.request(method, url)
                assert (answer.status_code, answer.json()["code"]) == (403, "QU602"), (method, path, held)


async def test_what_is_public_tells_nothing(web: httpx.AsyncClient, api: Server, keys: Keys) -> None:
    await keys.make("ann", "read")
    for path in ("/healthz", "/readyz", "/api/v1/openapi.json", "/api/v1/docs", "/assets/rapidoc/LICENSE.txt"):
        assert (await web.get(f"{api.url}{path}")).status_code == 200, path


async def test_a_key_for_queues_sees_and_touches_only_those(keys: Keys) -> None:
    admin = await keys.make("admin", "admin")
    for name in ("mine", "also mine", "theirs"):
        await admin.post("/queues", json={"name": name})
    theirs = (await admin.post("/tasks", json={**TASK, "queue_name": "theirs", "unique_key": "k"})).json()["task_id"]
    schedule = {"name": "tick", "task_type": "a", "cron_expr": "@daily", "queue_name": "theirs"}
    await admin.post("/scheduled-tasks", json=schedule)
    client = await keys.make("limited", "read", "submit", "manage", queues=["mine", "also mine"])

    mine = [
        (await client.post("/tasks", json={**TASK, "queue_name": name})).json()["task_id"]
        for name in ("mine", "also mine")
    ]
    for query in ("", "?page_size=1", "?status=pending"):
        page = (await client.get(f"/tasks{query}")).json()
        assert {task["queue_name"] for task in page["tasks"]} <= {"mine", "also mine"}
        assert page["total"] == 2
    first = (await client.get("/tasks?page_size=1")).json()
    second = (await client.get(f"/tasks?page_size=1&cursor={first['next_cursor']}")).json()
    assert [page["tasks"][0]["task_id"] for page in (first, second)] == mine[::-1]

    missing = (await client.get(f"/tasks/{theirs + 1000}")).text.replace(str(theirs + 1000), str(theirs))
    for method, path in [
        *[("GET", f"/tasks/{theirs}{part}") for part in ("", "/progress", "/result", "/logs", "/executions")],
        *[("DELETE", f"/tasks/{theirs}"), ("POST", f"/tasks/{theirs}/retry")],
    ]:
        answer = await client.request(method, path)
        assert answer.status_code == 404, path
        assert answer.json()["detail"] == f"there is no task {theirs}"
    assert (await client.get(f"/tasks/{theirs}")).text == missing

    assert [queue["name"] for queue in (await client.get("/queues")).json()["queues"]] == ["also mine", "mine"]
    refused = [
        await client.get("/queues/theirs/stats"),
        await client.get("/tasks?queue_name=theirs"),
        await client.get("/events?queue_name=theirs"),
        await client.post("/queues/theirs/pause"),
        *[await client.post(f"/workers/1/{action}") for action in ("pause", "resume", "stop")],
        await client.patch("/queues/theirs", json={"concurrency": 0}),
        await client.post("/queues", json={"name": "theirs"}),
        await client.post("/tasks", json={**TASK, "queue_name": "theirs"}),
        await client.post(
            "/tasks/batch", json={"tasks": [{**TASK, "queue_name": name} for name in ("mine", "theirs")]}
        ),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)

    assert (await client.get("/scheduled-tasks")).json()["scheduled_tasks"] == []
    assert (await client.delete("/scheduled-tasks/tick")).status_code == 404
    replaced = {**schedule, "queue_name": "mine", "on_conflict": "replace"}
    assert (await client.post("/scheduled-tasks", json=replaced)).status_code == 409
    own = {**schedule, "name": "own", "queue_name": "mine"}
    assert (await client.post("/scheduled-tasks", json=own)).status_code == 201
    assert (await client.put("/scheduled-tasks/own", json={"queue_name": "theirs"})).status_code == 403
    assert (await admin.get("/scheduled-tasks/tick")).json()["queue_name"] == "theirs"


async def test_figures_for_a_key_are_those_of_its_queues(keys: Keys) -> None:
    admin = await keys.make("admin", "admin")
    for number, name in enumerate(("mine", "also mine", "theirs"), 1):
        await admin.post("/queues", json={"name": name})
        await admin.post("/tasks/batch", json={"tasks": [{**TASK, "queue_name": name}] * number})
        schedule = {"name": name, "task_type": "a", "cron_expr": "@daily", "queue_name": name}
        await admin.post("/scheduled-tasks", json=schedule)
    task_id = (await admin.get("/tasks?queue_name=theirs")).json()["tasks"][0]["task_id"]
    await admin.delete(f"/tasks/{task_id}")
    limited = await keys.make("limited", "read", queues=["mine", "also mine"])
    blind = await keys.make("blind", "read", queues=["nowhere"])
    for client, counts in ((admin, (6, 5, 1, 3)), (limited, (3, 3, 0, 2)), (blind, (0, 0, 0, 0))):
        found = (await client.get("/tasks/statistics")).json()
        stats = (await client.get("/scheduler/stats")).json()
        assert (found["total"], found["pending"], found["cancelled"], stats["active_jobs"]) == counts


async def test_a_key_for_several_queues_pages_through_what_a_search_cannot_see_at_once(
    keys: Keys, conn: Connection
) -> None:
    """10,000 live tasks, of which a search looks at 3,000: pages come with a cursor, though they are short or empty."""
    admin = await keys.make("admin", "admin")
    for name in ("mine", "theirs"):
        await admin.post("/queues", json={"name": name})
    conn.execute(
        "insert into pgqueue.tasks (task_type, queue_name)"
        " select case when n % 1500 = 0 then 'rare' else 'usual' end, (array['default', 'mine', 'theirs'])[1 + n % 3]"
        " from generate_series(1, 10000) n"
    )
    expected = "select id from pgqueue.tasks where task_type = 'rare' and queue_name <> 'theirs' order by id desc"
    client = await keys.make("limited", "read", queues=["mine", "default"])
    found: list[int] = []
    cursor = ""
    while cursor is not None:
        page = (await client.get(f"/tasks?task_type=rare&page_size=2{cursor and '&cursor=' + cursor}")).json()
        found += [task["task_id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
    assert found == [row[0] for row in conn.execute(expected).fetchall()]
    assert found


async def test_a_unique_key_leads_nowhere_else(keys: Keys) -> None:
    """A taken unique key neither shows nor changes a task of a queue that the key is not for."""
    admin = await keys.make("admin", "admin")
    await admin.post("/queues", json={"name": "mine"})
    secret = {"task_type": "a", "payload": {"secret": 1}, "unique_key": "k"}
    theirs = (await admin.post("/tasks", json=secret)).json()
    client = await keys.make("limited", "read", "submit", queues=["mine"])
    for on_conflict in ("return", "replace", "raise"):
        body = {**TASK, "queue_name": "mine", "unique_key": "k", "on_conflict": on_conflict, "payload": {"evil": 1}}
        for path, sent in (("/tasks", body), ("/tasks/batch", {"tasks": [{**TASK, "queue_name": "mine"}, body]})):
            answer = await client.post(path, json=sent)
            assert answer.status_code == 409, answer.text
            assert "secret" not in answer.text
    assert (await admin.get(f"/tasks/{theirs['task_id']}")).json() == theirs
    assert (await admin.get("/tasks")).json()["total"] == 1

    blind = await keys.make("blind", "submit")
    answer = await blind.post("/tasks", json={**TASK, "unique_key": "k"})
    assert (answer.status_code, answer.json()["task_id"]) == (200, theirs["task_id"])
    assert "secret" not in answer.text


async def test_events_of_other_queues_are_not_heard(keys: Keys) -> None:
    admin = await keys.make("admin", "admin")
    await admin.post("/queues", json={"name": "mine"})
    client = await keys.make("limited", "read", queues=["mine"])
    async with stream(client, "/events") as events, stream(admin, "/events") as all_events:
        tasks = []
        for queue in ("default", "mine"):
            tasks.append((await admin.post("/tasks", json={**TASK, "queue_name": queue})).json()["task_id"])
            await admin.delete(f"/tasks/{tasks[-1]}")
        assert [(await all_events.next())[1]["task_id"] for _ in tasks] == tasks
        assert (await events.next())[1]["task_id"] == tasks[1]


async def test_a_rate_limit_counts_all_requests_of_a_key_and_says_how_long_to_wait(keys: Keys, db: Database) -> None:
    client, other = await keys.make("ann", "read", rate_limit=3), await keys.make("bob", "read")
    async with serving(db) as second:
        urls = [f"{keys.url}/api/v1/queues", f"{second.url}/api/v1/queues"] * 2
        answers = [await client.get(url) for url in urls]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[-1].json()["code"] == "QU603"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
    assert (await other.get("/queues")).status_code == 200


async def test_last_use_is_kept_to_the_minute(access: AccessService, keys: Keys, conn: Connection) -> None:
    client = await keys.make("ann", "read")
    assert (await access.list_api_keys())[0].last_used_at is None
    await client.get("/queues")
    used = (await access.list_api_keys())[0].last_used_at
    assert used is not None
    await client.get("/queues")
    assert (await access.list_api_keys())[0].last_used_at == used
    conn.execute("update pgqueue.api_keys set last_used_at = last_used_at - interval '2 minutes'")
    await client.get("/queues")
    assert ((await access.list_api_keys())[0].last_used_at or used) > used


async def test_each_change_is_written_down_with_who_did_it(keys: Keys) -> None:
    admin = await keys.make("admin", "admin")
    ann = await keys.make("ann", "submit", "manage", "read")
    before = len((await admin.get("/audit-log?limit=1000")).json()["entries"])
    task_id = (await ann.post("/tasks", json=TASK)).json()["task_id"]
    schedule = {"name": "s", "task_type": "a", "cron_expr": "@daily"}
    changes = [
        ("POST", "/tasks/batch", {"tasks": [TASK]}),
        ("DELETE", f"/tasks/{task_id}", None),
        ("POST", f"/tasks/{task_id}/retry", None),
        ("POST", f"/tasks/{task_id}/retry", None),
        ("POST", "/queues", {"name": "q"}),
        ("PATCH", "/queues/q", {"concurrency": 2}),
        ("POST", "/queues/q/pause", {"reason": "why"}),
        ("POST", "/queues/q/resume", None),
        ("POST", "/scheduled-tasks", schedule),
        ("PUT", "/scheduled-tasks/s", {"cron_expr": "@hourly"}),
        ("POST", "/scheduled-tasks/s/pause", None),
        ("POST", "/scheduled-tasks/s/resume", None),
        ("POST", "/scheduled-tasks/s/run", None),
        ("DELETE", "/scheduled-tasks/s", None),
    ]
    for method, path, body in changes:
        await (ann.request(method, path) if body is None else ann.request(method, path, json=body))
    entries = (await admin.get("/audit-log?limit=1000")).json()["entries"]
    written = entries[: len(entries) - before][::-1]
    assert {entry["actor"] for entry in written} == {"ann"}
    assert [entry["action"] for entry in written] == [
        *("task.submit", "task.submit_batch", "task.cancel", "task.retry", "task.retry"),
        *("queue.create", "queue.change", "queue.pause", "queue.resume"),
        *("schedule.create", "schedule.change", "schedule.pause", "schedule.resume", "schedule.run", "schedule.delete"),
    ]
    assert [entry["outcome"] for entry in written if entry["action"] == "task.retry"] == ["done", "InvalidTransition"]
    assert written[0]["target"] == str(task_id)
    page = (await admin.get("/audit-log?limit=3")).json()
    older = (await admin.get(f"/audit-log?limit=3&before={page['next_before']}")).json()["entries"]
    assert [entry["id"] for entry in older] == [entry["id"] for entry in entries[3:6]]


async def test_pages_of_other_sites_change_nothing(web: httpx.AsyncClient) -> None:
    for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
        answer = await web.post("/queues/default/pause", headers={"origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
    preflight = {"origin": "https://evil.example", "access-control-request-method": "DELETE"}
    assert "access-control-allow-origin" not in (await web.options("/tasks/1", headers=preflight)).headers
    own = str(web.base_url).removesuffix("/api/v1/")
    assert (await web.post("/queues/default/pause", headers={"origin": own})).status_code == 200
    assert (await web.get("/tasks", headers={"host": "evil.example"})).status_code == 403


async def test_a_public_address_needs_a_key_before_it_listens(db: Database, access: AccessService) -> None:
    with pytest.raises(ConfigurationError, match="no key that would keep them out"):
        async with serving(db, "0.0.0.0"):  # noqa: S104 - refused
            pass
    await access.create_api_key("ann", ["read"])
    async with serving(db, "0.0.0.0") as server, httpx.AsyncClient() as client:  # noqa: S104 - with a key
        port = server.url.rpartition(":")[2]
        assert (await client.get(f"http://127.0.0.1:{port}/api/v1/tasks")).status_code == 401
        await access.revoke_api_key("ann")
        assert (await client.get(f"http://127.0.0.1:{port}/api/v1/tasks")).status_code == 401


async def test_old_rows_of_the_audit_log_and_expired_answers_are_forgotten(
    web: httpx.AsyncClient, access: AccessService, conn: Connection
) -> None:
    await web.post("/tasks", json=TASK, headers={"idempotency-key": "k"})
    conn.execute("update pgqueue.audit_log set happened_at = now() - interval '91 days'")
    conn.execute("update pgqueue.idempotency_keys set expires_at = now()")
    assert await access.forget_access(timedelta(days=90)) == 1
    assert conn.execute("select count(*) from pgqueue.idempotency_keys").fetchone() == (0,)


async def test_many_at_once_are_told_apart(keys: Keys) -> None:
    clients: dict[str, httpx.AsyncClient] = {name: await keys.make(name, "read") for name in ("ann", "bob", "eve")}

    async def ask(name: str) -> bool:
        return bool((await clients[name].get("/info")).json()["principal"]["name"] == name)

    assert all(await asyncio.gather(*(ask(name) for name in list(clients) * 20)))
