"""Everything that can be done on the pages, done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect

from pgqueue import ScheduledTaskRequest, TaskRequest
from pgqueue.sync import SchedulerService
from tests.dashboard.browsing import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    import psycopg
    from playwright.sync_api import Locator, Page

    from pgqueue.sync import QueueService
    from tests.dashboard.browsing import Console, Program

    Connection = psycopg.Connection[Any]

FINISH_MANY = """
with gone as (delete from pgqueue.tasks returning *)
insert into pgqueue.finished_tasks (
    id, task_type, queue_name, priority, payload, status, max_retries, run_at, attempt, failures, crashes,
    created_at, started_at, finished_at, error
)
select
    g.id, g.task_type, g.queue_name, g.priority, g.payload, 'failed', 0, g.run_at, 1, 1, 0,
    g.created_at, now(), now(), 'the disk is full'
from gone g
"""


def audited(conn: Connection) -> list[tuple[str, str]]:
    return conn.execute("select action, outcome from pgqueue.audit_log order by id").fetchall()


def notices(page: Page) -> Locator:
    return page.locator("#notices p")


def test_a_failed_task_is_retried_and_a_waiting_one_cancelled_after_a_question(
    page: Page, url: str, worker: Program, service: QueueService, conn: Connection
) -> None:
    task_id = service.submit_task(TaskRequest(task_type="fails", payload={"error": "no luck"}, max_retries=0)).task_id
    service.wait_for(task_id, timeout=20)
    page.goto(f"{url}/tasks/{task_id}")
    expect(page.get_by_text("no luck").first).to_be_visible()
    service.pause_queue("default")
    page.get_by_role("button", name="Retry").click()
    expect(notices(page)).to_contain_text(f"Task {task_id} is pending again")
    expect(page.get_by_text("Why it is not running:")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#confirm")).to_contain_text(f"Cancel task {task_id}?")
    page.locator("#confirm").get_by_role("button", name="Back").click()
    assert service.get_task(task_id).status == "pending"
    page.get_by_role("button", name="Cancel").click()
    page.locator("#confirm-yes").click()
    expect(page.locator(".state.boxed.cancelled")).to_be_visible()
    assert audited(conn) == [("task.retry", "done"), ("task.cancel", "done")]


def test_a_task_is_cloned_with_changes(
    page: Page, url: str, worker: Program, service: QueueService, console: Console
) -> None:
    console.allowed = ["status of 422"]
    task_id = service.submit_task(TaskRequest(task_type="echo", payload={"color": "red"})).task_id
    service.wait_for(task_id, timeout=20)
    page.goto(f"{url}/tasks/{task_id}")
    page.get_by_role("link", name="Clone").click()
    box = page.get_by_label("Payload, JSON")
    expect(box).to_have_value('{\n  "color": "red"\n}')
    box.fill('{"color": ')
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("this is no JSON")
    page.get_by_label("Payload, JSON").fill('{"color": "blue"}')
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".state.boxed.completed")).to_be_visible()
    expect(page.get_by_role("group", name="Result")).to_contain_text("blue")


def test_a_task_leads_to_its_parent_and_its_children(page: Page, url: str, service: QueueService) -> None:
    parent = service.submit_task(TaskRequest(task_type="whole"))
    children = service.submit_tasks([TaskRequest(task_type="part", parent_id=parent.task_id) for _ in range(30)])
    service.cancel_task(children[-1].task_id)
    page.goto(f"{url}/tasks/{parent.task_id}")
    card = page.get_by_role("region", name="Children")
    expect(card.get_by_role("listitem")).to_have_count(10)
    expect(card.get_by_role("listitem").first).to_contain_text("cancelled")
    card.get_by_role("link", name="All 30").click()
    page.wait_for_url(f"**/tasks?q=parent*{parent.task_id}")
    expect(page.get_by_text("30 tasks")).to_be_visible()
    page.locator(f"#task-{children[3].task_id} a[data-open]").click()
    page.get_by_role("link", name=f"whole #{parent.task_id}").click()
    page.wait_for_url(f"{url}/tasks/{parent.task_id}")


def test_a_parent_that_was_cleaned_up_is_gone_not_an_error(page: Page, url: str, service: QueueService) -> None:
    task = service.submit_task(TaskRequest(task_type="part", parent_id=4711))
    page.goto(f"{url}/tasks/{task.task_id}")
    expect(page.get_by_text("#4711, which is gone")).to_be_visible()
    expect(page.get_by_role("heading", name="part")).to_be_visible()


def test_a_task_is_copied_as_json_curl_and_python(page: Page, url: str, service: QueueService) -> None:
    task_id = service.submit_task(TaskRequest(task_type="echo", payload={"it's": ["a", 1]})).task_id
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(f"{url}/tasks/{task_id}")
    for form, known in (("JSON", '"task_type": "echo"'), ("curl", "curl "), ("Python", "TaskRequest(")):
        page.get_by_role("button", name=f"Copy the task as {form}").click()
        page.wait_for_function("known => navigator.clipboard.readText().then(text => text.includes(known))", arg=known)


def test_ticked_tasks_are_cancelled_together(page: Page, url: str, service: QueueService, conn: Connection) -> None:
    tasks = service.submit_tasks([TaskRequest(task_type="echo") for _ in range(5)])
    page.goto(f"{url}/tasks")
    for task in tasks[:2]:
        page.locator(f"#tick-{task.task_id}").check()
    expect(page.locator("[data-bulk-count]")).to_have_text("2 selected")
    page.locator("#bulk-cancel").click()
    expect(page.locator("#sheet h2")).to_have_text("Cancel 2 selected tasks?")
    page.locator("#sheet").get_by_role("button", name="Cancel", exact=True).click()
    expect(notices(page)).to_contain_text("2 tasks cancelled")
    assert [service.get_task(task.task_id).status for task in tasks] == ["cancelled"] * 2 + ["pending"] * 3
    assert audited(conn) == [("task.cancel_selected", "done")]


def test_five_thousand_failed_tasks_are_retried_at_once(
    page: Page, url: str, worker: Program, service: QueueService, conn: Connection
) -> None:
    service.pause_queue("default")
    service.submit_tasks([TaskRequest(task_type="echo", payload={"nr": nr}) for nr in range(5000)])
    conn.execute(FINISH_MANY)
    page.goto(f"{url}/tasks?state=failed")
    expect(page.get_by_text("5,000 tasks")).to_be_visible()
    page.locator("#bulk-retry").click()
    expect(page.locator("#sheet h2")).to_have_text("Retry 5,000 tasks?")
    page.locator("#sheet").get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator("#operation h2")).to_have_text("Done", timeout=120_000)
    expect(page.locator("#operation")).to_contain_text("5,000 started again")
    page.locator("#sheet").get_by_role("button", name="Close").click()
    expect(page.get_by_text("No task matches")).to_be_visible()
    assert audited(conn) == [("task.retry_all", "done")]
    page.goto(f"{url}/system")
    expect(page.get_by_role("region", name="Operations")).to_contain_text("5,000")


def test_ticked_tasks_that_ended_are_deleted_together(
    page: Page, url: str, service: QueueService, conn: Connection
) -> None:
    """Whatever the filter shows; those that live are left as they are."""
    tasks = service.submit_tasks([TaskRequest(task_type="echo") for _ in range(4)])
    for task in tasks[:2]:
        service.cancel_task(task.task_id)
    page.goto(f"{url}/tasks")
    expect(page.locator("#bulk-delete")).to_be_hidden()
    for task in tasks[1:3]:
        page.locator(f"#tick-{task.task_id}").check()
    page.locator("#bulk-delete").click()
    expect(page.locator("#sheet h2")).to_have_text("Delete 2 selected tasks?")
    page.locator("#sheet").get_by_role("button", name="Delete", exact=True).click()
    expect(notices(page)).to_contain_text("1 of 2 tasks deleted")
    expect(page.locator("tr[data-row]")).to_have_count(3)
    page.goto(f"{url}/tasks?state=cancelled")
    page.locator(f"#tick-{tasks[0].task_id}").check()
    page.locator("#bulk-delete").click()
    page.locator("#sheet").get_by_role("button", name="Delete", exact=True).click()
    expect(notices(page)).to_contain_text("1 tasks deleted")
    expect(page.get_by_text("No task matches")).to_be_visible()
    assert audited(conn) == [("task.delete_selected", "done")] * 2


def test_all_that_match_a_search_are_retried_cancelled_and_deleted(
    page: Page, url: str, service: QueueService, conn: Connection
) -> None:
    """By what is in their payload or error, with the filters that such a search needs."""
    wanted = {"customer": {"id": 42}}
    payloads = [wanted] * 60 + [{"customer": {"id": 7}}] * 5
    service.submit_tasks([TaskRequest(task_type="echo", payload=payload) for payload in payloads])
    conn.execute(FINISH_MANY)

    def change(query: str, kind: str, count: int, said: str) -> None:
        page.goto(f"{url}/tasks?{query}")
        page.locator(f"#bulk-{kind}").click()
        expect(page.locator("#sheet h2")).to_have_text(f"{kind.capitalize()} {count} tasks?")
        page.locator("#sheet").get_by_role("button", name=kind.capitalize(), exact=True).click()
        expect(page.locator("#operation h2")).to_have_text("Done")
        expect(page.locator("#operation")).to_contain_text(f"{count} {said}")

    change("state=failed&q=payload.customer.id:42", "retry", 60, "started again")
    change("since=1h&q=payload.customer.id:42", "cancel", 60, "cancelled")
    change("state=failed&since=1h&q=error:DISK", "delete", 5, "deleted")
    change("state=cancelled&type=echo&q=payload.customer.id:42", "delete", 60, "deleted")
    assert service.list_tasks()[1] == 0
    kinds = ["task.retry_all", "task.cancel_all", "task.delete_all", "task.delete_all"]
    assert audited(conn) == [(kind, "done") for kind in kinds]


def test_a_queue_is_made_changed_paused_and_resumed(page: Page, url: str, service: QueueService) -> None:
    page.goto(f"{url}/queues")
    page.get_by_role("button", name="New queue").click()
    sheet = page.locator("#new-queue")
    sheet.get_by_label("Name").fill("a/b 100%")
    sheet.get_by_role("button", name="Create").click()
    row = page.locator("tr", has_text="a/b 100%")
    expect(row).to_be_visible()
    row.get_by_role("button", name="Limits").click()
    page.locator("dialog[open]").get_by_label("Most waiting tasks").fill("70")
    page.locator("dialog[open]").get_by_role("button", name="Save").click()
    expect(row).to_contain_text("70")
    row.get_by_role("button", name="Pause").click()
    page.locator("dialog[open]").get_by_label("Reason").fill("the disk is full")
    page.locator("dialog[open]").get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("the disk is full")
    row.get_by_role("button", name="Resume").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    info = next(info for info in service.list_queues() if info.name == "a/b 100%")
    assert (info.capacity, info.paused_at) == (70, None)


def test_a_schedule_is_made_with_a_preview_changed_run_paused_and_deleted(
    page: Page, url: str, worker: Program, service: QueueService
) -> None:
    page.goto(f"{url}/schedules")
    page.get_by_role("link", name="New schedule").first.click()
    page.get_by_label("Name").fill("tick/tock")
    page.get_by_label("Task type").fill("echo")
    page.get_by_label("Cron expression").fill("nonsense")
    expect(page.locator("#told .problem")).to_be_visible()
    page.get_by_label("Cron expression").fill("0 4 * * *")
    page.get_by_label("Time zone").fill("Europe/Berlin")
    expect(page.locator("#told")).to_contain_text("04:00:00 CE")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="tick/tock")).to_be_visible()
    page.get_by_role("button", name="Run now").click()
    expect(page.get_by_role("region", name="History")).to_contain_text("manual")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("None while it is paused.")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.locator(".runs li")).to_have_count(5)
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Cron expression").fill("0 5 * * *")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("main")).to_contain_text("05:00")
    page.get_by_role("button", name="Delete").click()
    page.locator("#confirm-yes").click()
    expect(page.get_by_text("Nothing runs by the clock yet")).to_be_visible()
    assert SchedulerService(service.db).list_scheduled_tasks() == []


def test_a_worker_is_asked_to_stop(page: Page, url: str, worker: Program) -> None:
    page.goto(f"{url}/workers")
    page.get_by_role("button", name="Stop").click()
    page.locator("#confirm-yes").click()
    wait_for(lambda: worker.process.poll() is not None)
    expect(page.locator(".state.alive")).to_have_count(0)


def test_a_worker_is_paused_with_a_reason_and_resumed(
    page: Page, url: str, worker: Program, service: QueueService, conn: Connection
) -> None:
    page.goto(f"{url}/workers")
    page.get_by_role("button", name="Pause", exact=True).click()
    page.locator("dialog[open]").get_by_label("Reason").fill("the disk is full")
    page.locator("dialog[open]").get_by_role("button", name="Pause").click()
    expect(page.locator("main .state.paused")).to_be_visible()
    expect(page.locator("main")).to_contain_text("the disk is full")
    task = service.submit_task(TaskRequest(task_type="echo"))
    page.goto(f"{url}/tasks/{task.task_id}")
    expect(page.get_by_text("all workers of queue 'default' are paused")).to_be_visible()
    page.goto(f"{url}/queues")
    expect(page.locator("main .state.paused")).to_contain_text("workers paused")
    page.goto(f"{url}/workers")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("main .state.alive")).to_be_visible()
    assert service.wait_for(task.task_id, timeout=20).status == "completed"
    assert audited(conn) == [("worker.pause", "done"), ("worker.resume", "done")]


def test_running_tasks_are_seen_with_their_worker(
    page: Page, url: str, worker: Program, service: QueueService, tmp_path: Path
) -> None:
    path = tmp_path / "steps"
    path.write_text("30")
    task_id = service.submit_task(TaskRequest(task_type="steps", payload={"path": str(path)})).task_id
    page.goto(f"{url}/workers")
    expect(page.locator(f"#running-{task_id}")).to_contain_text("step 30")
    path.write_text("60")
    expect(page.locator(f"#running-{task_id} progress")).to_have_js_property("value", 60)
    path.write_text("end")
    expect(page.locator(f"#running-{task_id}")).to_have_count(0)


def test_keys_do_what_the_list_of_keys_says(page: Page, url: str, service: QueueService) -> None:
    tasks = service.submit_tasks([TaskRequest(task_type="echo") for _ in range(3)])
    page.goto(url)
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("t")
    page.wait_for_url("**/tasks")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator(f"#tick-{tasks[1].task_id}")).to_be_checked()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/tasks/{tasks[2].task_id}")
    for key, place in zip("oqswy", ("/", "/queues", "/schedules", "/workers", "/system"), strict=True):
        page.keyboard.press("g")
        page.keyboard.press(key)
        page.wait_for_url(f"{url}{place}")


def test_filters_live_in_the_address_and_back_goes_back(page: Page, url: str, service: QueueService) -> None:
    service.create_queue("other")
    service.submit_task(TaskRequest(task_type="one"))
    service.submit_task(TaskRequest(task_type="two", queue_name="other", payload={"a": {"b": [7, "x y"]}}))
    page.goto(f"{url}/tasks")
    page.get_by_label("Queue").select_option("other")
    page.wait_for_url("**/tasks?queue=other")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.locator("#search").fill('payload.a.b.1:"x y"')
    page.keyboard.press("Enter")
    page.wait_for_url("**q=payload*")
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.go_back()
    expect(page.locator("#search")).to_have_value("")
    page.go_back()
    expect(page.locator("tr[data-row]")).to_have_count(2)
    page.go_forward()
    expect(page.locator("tr[data-row]")).to_have_count(1)
    page.get_by_label("Queue").select_option("")
    page.locator("#search").fill("payload.a.b.0:7")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("also choose a state, a queue, a type or a time")
    page.locator("#search").fill("needle")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("does not say where to look")


def test_a_schedule_of_a_program_shows_its_words_and_last_result(
    page: Page, url: str, worker: Program, service: QueueService
) -> None:
    scheduler = SchedulerService(service.db)
    wanted = ScheduledTaskRequest(name="nightly", task_type="echo", cron_expr="30 2 * * *", time_zone="Europe/Paris")
    scheduler.create_scheduled_task(wanted)
    service.wait_for(scheduler.run_scheduled_task_now("nightly"), timeout=20)
    page.goto(f"{url}/schedules")
    row = page.locator("tr", has_text="nightly")
    expect(row).to_contain_text("02:30")
    expect(row.locator(".state.completed")).to_be_visible()
