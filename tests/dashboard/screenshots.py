"""Screenshots of every page: an hour of a shop's work, done by real workers while the clock is moved."""

from __future__ import annotations

import contextlib
import io
import math
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from PIL import Image
from playwright.sync_api import sync_playwright

from examples.shop import some_task
from pgqueue import TaskRequest, schema
from pgqueue.embedded import Server, find_binaries
from pgqueue.settings import environment
from pgqueue.sync import Database, QueueService, SchedulerService
from pgqueue.testing import travel

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "screenshots"
MINUTES = 60
LOOKS = {"light": (1280, 800), "dark": (1280, 800), "phone": (390, 844)}
FOLLOW_THE_CLOCK = """
alter table pgqueue.tasks
    alter column created_at set default pgqueue._now(),
    alter column run_at set default pgqueue._now()
"""


def main() -> None:
    """Work for an hour in about two minutes, then take the pictures."""
    home = Path(tempfile.mkdtemp(prefix="pgq"))
    home.chmod(0o755)
    server = Server(home, find_binaries(None), {})
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, home)
        server.start()
        stack.callback(server.stop)
        server.create_database("shop")
        dsn = server.dsn("shop")
        schema.migrate(dsn)
        service = QueueService(stack.enter_context(Database(dsn)))
        work_an_hour(stack, dsn, service)
        run(stack, dsn, "pgqueue-worker", "shop:queue_service", "--queue", "pictures=4")
        tasks = last_touches(service)
        url = run(stack, dsn, "pgqueue-api", "--port", "0").split("/api")[0].split(" ")[-1]
        take_all(url, tasks)


def run(stack: contextlib.ExitStack, dsn: str, *command: str) -> str:
    """Start a program; return the line in which it says that it is there."""
    program = subprocess.Popen(
        [Path(sys.executable).with_name(command[0]), *command[1:]],
        cwd=ROOT / "examples",
        env=environment(PGQUEUE_DSN=dsn, PGQUEUE_LEASE_S="3600", PGQUEUE_API_PORT="0"),
        stderr=subprocess.PIPE,
        text=True,
    )
    stack.callback(program.wait)
    stack.callback(program.terminate)
    assert program.stderr is not None
    return next(line for line in program.stderr if "serving" in line or "worker started" in line)


def work_an_hour(stack: contextlib.ExitStack, dsn: str, service: QueueService) -> None:
    """Submit what comes in minute by minute, and let a worker do it, which has never seen a later time."""
    with contextlib.ExitStack() as clock:
        clock.enter_context(travel(dsn, -timedelta(minutes=MINUTES)))
        conn = clock.enter_context(psycopg.connect(dsn, autocommit=True))
        conn.execute(FOLLOW_THE_CLOCK)
        run(stack, dsn, "pgqueue-worker", "shop:queue_service")
        submit(dsn, 20)
        for minute in range(MINUTES):
            count = round(60 + 35 * math.sin(minute / 9) + 12 * math.sin(minute * 1.7))
            service.submit_tasks([some_task() for _ in range(count)])
            time.sleep(1)
            clock.enter_context(travel(conn, timedelta(seconds=59)))


def submit(dsn: str, count: int) -> None:
    """Let the shop submit tasks and make its schedules."""
    subprocess.run(
        [sys.executable, "-m", "shop", str(count)],
        cwd=ROOT / "examples",
        env=environment(PGQUEUE_DSN=dsn),
        check=True,
    )


def last_touches(service: QueueService) -> dict[str, int]:
    """Leave something running, something waiting, and a queue that is paused; return tasks worth looking at."""
    exports = [
        service.submit_task(
            TaskRequest(
                task_type="monthly_export",
                queue_name="reports",
                payload={"month": f"2026-{month:02}", "seconds": 240, "format": {"type": "parquet", "zip": True}},
                user_id="accounting",
            )
        ).task_id
        for month in (8, 9, 10)
    ]
    broken = service.submit_task(
        TaskRequest(task_type="make_thumbnails", queue_name="pictures", payload={"product": 37_000, "sizes": [64, 256]})
    ).task_id
    told = {"to": "accounting@shop.example", "template": "month_is_ready", "order": 0}
    mail = TaskRequest(task_type="send_email", queue_name="mail", payload=told, parent_id=exports[0])
    service.submit_tasks([mail] * 4)
    submit(str(service.db.dsn), 300)
    service.pause_queue("payments", "the bank is being serviced until 21:00")
    service.pause_worker(service.list_workers()[1].id, "its disk is being replaced")
    scheduler = SchedulerService(service.db)
    service.wait_for(scheduler.run_scheduled_task_now("nightly-thumbnails"), timeout=60)
    scheduler.pause_scheduled_task("newsletter", "until the new text is there")
    service.wait_for(broken, timeout=60)
    while service.get_task(exports[0]).status != "running":
        time.sleep(0.1)
    time.sleep(60)
    return {"running": exports[0], "failed": broken}


def take_all(url: str, tasks: dict[str, int]) -> None:
    """Take every page in every look."""
    pages = {
        "overview": "/",
        "tasks": "/tasks",
        "failed": "/tasks?state=failed&type=send_email",
        "task": f"/tasks/{tasks['running']}",
        "task-failed": f"/tasks/{tasks['failed']}",
        "queues": "/queues",
        "schedules": "/schedules",
        "schedule": "/schedules/nightly-thumbnails",
        "workers": "/workers",
        "system": "/system",
        "login": "/login",
    }
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for look in LOOKS:
            take_look(browser, look, url, pages)
        browser.close()


def take_look(browser: Browser, look: str, url: str, pages: dict[str, str]) -> None:
    """Take every page in one look."""
    width, height = LOOKS[look]
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if look == "dark" else "light",
        is_mobile=look == "phone",
        has_touch=look == "phone",
        device_scale_factor=1.5 if look == "phone" else 1,
        timezone_id="UTC",
    )
    page = context.new_page()
    for name, path in pages.items():
        page.goto(url + path)
        page.wait_for_timeout(1200)
        save(page.screenshot(), FOLDER / f"{name}-{look}.png")
    context.close()


def save(content: bytes, path: Path) -> None:
    """Write a picture with few colours, moved to where most pixels are: a third of the size, and nobody sees it."""
    Image.open(io.BytesIO(content)).convert("RGB").quantize(
        256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE
    ).save(path, optimize=True)


if __name__ == "__main__":
    main()
