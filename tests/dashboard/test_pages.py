"""Every page in both themes and on a phone: accessible, whole, quick, and with hostile text as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import pytest
from playwright.sync_api import expect
from psycopg.types.json import Jsonb

from pgqueue import ScheduledTaskRequest, TaskRequest
from pgqueue.sync import SchedulerService
from tests.dashboard.browsing import violations

if TYPE_CHECKING:
    import psycopg
    from playwright.sync_api import BrowserContext, Dialog, Page

    from pgqueue.sync import QueueService
    from tests.dashboard.browsing import Console, Program

    Connection = psycopg.Connection[Any]

LONG = "n" * 180
NAMES = (
    "<script>alert(1)</script>",
    "a/b?c=d#e%20&amp;",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raise %}",
    "مهمة طويلة\u202eevil",
    "🦄" * 20,
    LONG,
)
TEXT = "<script>alert(1)</script> javascript:alert(1) {{ 7*7 }} ${7*7} \ufffd\u202e " + "A\u0301" * 10
PAYLOAD = {
    "html": "<img src=x onerror=alert(1)>",
    "link": "javascript:alert(1)",
    "<b>key</b>": ["</script><script>alert(1)</script>", "\u2028\u2029\u0001 ufffd \ufffe"],
    "deep": [[[[[[[[[[[[[["bottom"]]]]]]]]]]]]]],
    "long": "x" * 1_000_000,
    "many": list(range(3000)),
}
SPILLED = """
[...document.querySelectorAll('.card table')].filter(table => !table.closest('.scroll')
    && table.getBoundingClientRect().right > table.closest('.card').getBoundingClientRect().right)
    .map(table => table.innerText.slice(0, 200))
"""
"""Tables that are wider than the card around them."""
PAGES = ("/", "/tasks", "/queues", "/schedules", "/workers", "/system", "/new", "/schedule/new", "/login", "/nothing")


@pytest.fixture
def filled(service: QueueService, worker: Program, conn: Connection) -> dict[str, int]:
    """A database in which every name, payload, error and log is hostile; tasks by their state."""
    for name in NAMES:
        service.create_queue(name)
        service.pause_queue(name, TEXT)
    tasks = service.submit_tasks(
        [TaskRequest(task_type=name, queue_name=name, payload=PAYLOAD, user_id=name, project_id=name) for name in NAMES]
    )
    echo = service.submit_task(TaskRequest(task_type="echo", payload=PAYLOAD | {"log": TEXT})).task_id
    failed = service.submit_task(TaskRequest(task_type="fails", payload={"error": TEXT}, max_retries=0)).task_id
    service.wait_for(echo, timeout=20)
    service.wait_for(failed, timeout=20)
    scheduler = SchedulerService(service.db)
    for name in NAMES:
        wanted = ScheduledTaskRequest(
            name=name,
            task_type=name,
            cron_expr="0 4 * * 1-5",
            time_zone="America/Argentina/ComodRivadavia",
            queue_name=name,
            payload=PAYLOAD,
        )
        scheduler.create_scheduled_task(wanted)
        scheduler.run_scheduled_task_now(name)
    conn.execute(
        "insert into pgqueue.workers (hostname, pid, queues, concurrency, status, lease, paused_at, pause_reason) "
        "select %s, 1, %s, '{}', %s, '1 day', now(), %s",
        (NAMES[0], list(NAMES), Jsonb({"note": TEXT}), TEXT),
    )
    service.submit_tasks(
        [TaskRequest(task_type=name, queue_name=name, parent_id=tasks[0].task_id) for name in NAMES]
        + [TaskRequest(task_type="echo", queue_name=NAMES[0], parent_id=failed)]
    )
    service.cancel_task(tasks[1].task_id, TEXT)
    return {"completed": echo, "failed": failed, "cancelled": tasks[1].task_id, "pending": tasks[0].task_id}


def pages_of(filled: dict[str, int]) -> list[str]:
    schedules = [f"/schedules/{quote(name, safe='')}" for name in NAMES[:2]]
    return [
        *PAGES,
        *(f"/tasks/{task_id}" for task_id in filled.values()),
        *schedules,
        f"{schedules[0]}/edit",
        "/tasks?q=%3Cscript%3E&queue=%22%3E%3Cimg%3E",
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible_and_shows_hostile_text_as_text(
    context: BrowserContext, url: str, filled: dict[str, int], console: Console, scheme: Literal["light", "dark"]
) -> None:
    console.allowed = ["status of 404"]
    page = context.new_page()
    page.emulate_media(color_scheme=scheme)
    dialogs: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", dismiss)
    found: dict[str, list[str]] = {}
    for path in pages_of(filled):
        page.goto(url + path)
        if wrong := violations(page):
            found[path] = wrong
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate(SPILLED) == [], path
        assert page.evaluate("document.querySelectorAll('img:not([src*=favicon]), script:not([src])').length") == 0, (
            path
        )
    assert found == {}
    assert dialogs == []


def test_every_page_fits_a_phone(context: BrowserContext, url: str, filled: dict[str, int], console: Console) -> None:
    console.allowed = ["status of 404"]
    page = context.new_page()
    page.set_viewport_size({"width": 360, "height": 740})
    wide = []
    for path in pages_of(filled):
        page.goto(url + path)
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path)
        assert violations(page) == [], path
    assert wide == []


def test_dialogs_are_accessible(page: Page, url: str, filled: dict[str, int]) -> None:
    for path, opener in (
        ("/queues", "Pause"),
        ("/queues", "Limits"),
        ("/queues", "New queue"),
        ("/tasks", "Retry"),
        ("/workers", "Stop"),
        ("/workers", "Pause"),
    ):
        page.goto(url + path)
        page.get_by_role("button", name=opener).first.click()
        expect(page.locator("dialog[open]")).to_be_visible()
        assert violations(page) == [], (path, opener)


def test_the_theme_is_switched_and_remembered(page: Page, url: str) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(url)
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    switch = page.locator("[data-theme-switch]")
    switch.click()
    switch.click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark != light
    page.reload()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_all_pages_of_a_list_together_have_each_task_once(
    page: Page, url: str, service: QueueService, conn: Connection
) -> None:
    tasks = service.submit_tasks([TaskRequest(task_type="echo") for _ in range(120)])
    conn.execute("update pgqueue.tasks set created_at = '2026-01-01'")
    page.goto(f"{url}/tasks")
    seen: list[str] = []
    while True:
        seen += page.locator("[data-tick]").evaluate_all("boxes => boxes.map(box => box.value)")
        older = page.get_by_role("link", name="Older")
        if older.count() == 0:
            break
        older.click()
        page.wait_for_load_state()
    assert seen == [str(task.task_id) for task in reversed(tasks)]
