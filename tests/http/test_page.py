"""What the page of the client shows works."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from pgqueue import Database, QueueService, Settings, TaskContext
from pgqueue.http import Client
from pgqueue.services import AccessService
from tests.docs.snippets import ROOT, snippets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.web.conftest import Running


@pytest.fixture
def worker(dsn: str) -> Iterator[None]:
    """A worker in a thread: what the page shows may block."""

    async def work() -> None:
        async with Database(settings=Settings(dsn=dsn)) as db:
            service = QueueService(db)

            @service.handler("greet")
            async def greet(ctx: TaskContext, payload: dict[str, Any]) -> str:
                await ctx.update_progress(50, "half")
                return f"Hello, {payload['name']}!"

            running = service.worker()
            stop.append((asyncio.get_running_loop(), running.stop))
            await running.run()

    stop: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    yield
    loop, end = stop[0]
    loop.call_soon_threadsafe(end)
    thread.join()


@pytest.mark.usefixtures("worker")
async def test_the_page_runs_from_top_to_bottom(
    run_api: Callable[..., Running],
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PGQUEUE_API_URL", "")
    monkeypatch.setenv("PGQUEUE_API_KEY", "")
    made = await AccessService(db).create_api_key("page", ["read", "submit"])
    namespace: dict[str, Any] = {"api_url": await run_api().url(), "api_key": made.key}
    for snippet in snippets("docs/http-client.md"):
        await snippet.run(namespace)
    assert namespace["total"] == 2
    assert [line for line in capsys.readouterr().out.splitlines() if "Hello" in line] == ["Hello, Ann!", "Hello, Bob!"]


def test_the_page_names_every_method() -> None:
    page = (ROOT / "docs" / "http-client.md").read_text(encoding="utf-8")
    methods = {name for name in dir(Client) if not name.startswith("_")} - {"close", "drive", "request", "run"}
    assert {name for name in methods if f"`{name}`" not in page} - {"stream_request"} == set()
