"""Pages follow what happens, and leave alone what somebody is doing on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

from pgqueue import TaskRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Page

    from pgqueue.sync import QueueService
    from tests.dashboard.browsing import Console, Program


def submit(service: QueueService, task_type: str, **payload: object) -> int:
    return service.submit_task(TaskRequest(task_type=task_type, payload=payload)).task_id


def test_a_task_is_seen_from_its_submit_to_its_end(
    page: Page, url: str, worker: Program, service: QueueService, tmp_path: Path
) -> None:
    path = tmp_path / "steps"
    page.goto(f"{url}/tasks")
    expect(page.get_by_text("There are no tasks yet")).to_be_visible()
    task_id = submit(service, "steps", path=str(path))
    row = page.locator(f"#task-{task_id}")
    expect(row.locator(".running")).to_be_visible()
    path.write_text("40")
    expect(row.locator("progress")).to_have_attribute("value", "40")
    expect(row).to_contain_text("step 40")
    row.get_by_role("link", name="steps").click()
    expect(page.get_by_text("line 40")).to_be_visible()
    path.write_text("80")
    expect(page.locator("main .bar progress")).to_have_js_property("value", 80)
    expect(page.get_by_text("line 80")).to_be_visible()
    path.write_text("end")
    expect(page.locator(".state.boxed.completed")).to_be_visible()
    expect(page.get_by_text("everything")).to_be_visible()


def test_ticks_open_details_scroll_and_focus_stay_while_rows_change(
    page: Page, url: str, worker: Program, service: QueueService
) -> None:
    ids = [submit(service, "echo", nr=nr) for nr in range(40)]
    service.wait_for(ids[-1], timeout=20)
    page.goto(f"{url}/tasks")
    page.locator(f"#tick-{ids[20]}").check()
    page.locator(f"#tick-{ids[10]}").focus()
    page.evaluate("scrollTo(0, 500)")
    new = submit(service, "echo", nr=41)
    expect(page.locator(f"#task-{new} .completed")).to_be_attached()
    assert page.locator(f"#tick-{ids[20]}").is_checked()
    expect(page.locator(f"#tick-{ids[10]}")).to_be_focused()
    assert page.evaluate("scrollY") > 300


def test_an_open_detail_and_what_is_typed_stay(page: Page, url: str, worker: Program, service: QueueService) -> None:
    page.goto(f"{url}/system")
    page.locator("#migrations summary").click()
    with page.expect_response(lambda answer: answer.url.endswith("/system")):
        submit(service, "echo")
    page.wait_for_timeout(200)
    assert page.locator("#migrations").get_attribute("open") is not None
    page.goto(f"{url}/tasks")
    page.locator("#search").fill("payload.nr")
    task_id = submit(service, "echo")
    expect(page.locator(f"#task-{task_id}")).to_be_visible()
    expect(page.locator("#search")).to_have_value("payload.nr")
    expect(page.locator("#search")).to_be_focused()


def test_a_paused_page_stands_still_and_goes_on(page: Page, url: str, worker: Program, service: QueueService) -> None:
    page.goto(f"{url}/tasks")
    page.get_by_role("button", name="Live updates").click()
    task_id = submit(service, "echo")
    service.wait_for(task_id, timeout=20)
    page.wait_for_timeout(1500)
    assert page.locator(f"#task-{task_id}").count() == 0
    page.reload()
    expect(page.locator("[data-live-switch]").get_by_text("Paused")).to_be_visible()
    page.keyboard.press("p")
    second = submit(service, "echo")
    expect(page.locator(f"#task-{second} .completed")).to_be_visible()


def test_a_page_outlives_a_restart_of_the_server(
    page: Page, run: Callable[..., Program], worker: Program, service: QueueService, console: Console
) -> None:
    console.allowed = [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED",
        "Failed to fetch",
        "network error",
        "htmx:error",
        "ERR_EMPTY_RESPONSE",
    ]
    first = run("pgqueue-api", "--port", "0")
    url = first.says(r"serving (http://\S+)/api/v1,")[1]
    page.goto(f"{url}/tasks")
    expect(page.locator("html")).to_have_attribute("data-stream", "stream")
    first.stop()
    expect(page.locator("html")).to_have_attribute("data-stream", "polling")
    task_id = submit(service, "echo")
    run("pgqueue-api", "--port", url.rpartition(":")[2]).says("serving")
    expect(page.locator(f"#task-{task_id} .completed")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("data-stream", "stream")
    second = submit(service, "echo")
    expect(page.locator(f"#task-{second} .completed")).to_be_visible()


def test_where_streams_are_cut_the_page_asks_by_itself(
    page: Page, url: str, worker: Program, service: QueueService, console: Console
) -> None:
    console.allowed = ["/live", "ERR_FAILED", "Failed to fetch"]
    page.route("**/live", lambda route: route.abort())
    page.goto(f"{url}/tasks")
    task_id = submit(service, "echo")
    expect(page.locator(f"#task-{task_id} .completed")).to_be_visible()
    expect(page.locator("[data-live-switch]").get_by_text("Polling")).to_be_visible()
