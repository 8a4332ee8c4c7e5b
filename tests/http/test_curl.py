"""The page of curl shows every endpoint, and each example is answered with the status that it shows."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import httpx
import pytest_asyncio

from pgqueue import Database, QueueService
from pgqueue.services import AccessService
from tests.docs.snippets import ROOT
from tests.web.conftest import working

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.web.conftest import Running

TEXT = (ROOT / "docs" / "curl.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```bash\n(?P<script>.*?)^```\n(?:\n`(?P<status>\d{3})`$)?", re.MULTILINE | re.DOTALL)
EXAMPLES = [(found["script"], found["status"]) for found in BLOCK.finditer(TEXT)]
ADDRESS = re.compile(r'"(?:\$API|\$\{API%(/api/v1)\})(/[^"?]*)')
PRELUDE = """
curl() { command curl -sS -o /dev/null -w '%{http_code}\\n' "$@"; }
API=$1
KEY=$2
"""


@pytest_asyncio.fixture
async def address(run_api: Callable[..., Running], db: Database) -> AsyncIterator[tuple[str, str]]:
    """The interface of a server process with a key, beside a worker: URL and key."""
    made = await AccessService(db).create_api_key("example", ["admin"])
    service = QueueService(db)
    service.register_handler("greet", lambda _ctx, payload: f"Hello, {payload['name']}!")
    async with working(service):
        yield f"{await run_api().url()}/api/v1", made.key


def shown() -> set[tuple[str, str]]:
    """Return method and path of each example."""
    found = set()
    for script, _ in EXAMPLES:
        for root, path in ADDRESS.findall(script):
            method = re.search(r"-X ([A-Z]+)", script)
            default = "POST" if "--json" in script else "GET"
            found.add((method[1] if method else default, path if root else f"/api/v1{path}"))
    return found


async def run(script: str, api: str, key: str) -> list[str]:
    """Run a script in bash; return the lines that it writes."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", PRELUDE + script, "bash", api, key), stdout=asyncio.subprocess.PIPE
    )
    written, _ = await process.communicate()
    return written.decode().split()


async def test_each_example_is_answered_as_shown(address: tuple[str, str]) -> None:
    assert EXAMPLES[0][0].startswith("API=")
    asking = [(script, status) for script, status in EXAMPLES[1:] if "curl " in script]
    assert all(status for _, status in asking)
    answers = await run("\n".join(script for script, _ in EXAMPLES[1:]), *address)
    assert len(answers) == len(asking)
    assert [
        (script, status, answer) for (script, status), answer in zip(asking, answers, strict=True) if status != answer
    ] == []


async def test_every_endpoint_has_an_example(address: tuple[str, str]) -> None:
    api, key = address
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as client:
        paths = (await client.get(f"{api}/openapi.json")).json()["paths"]
    for path, methods in paths.items():
        pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
        for method in methods.keys() & {"get", "post", "put", "patch", "delete"}:
            assert any(verb == method.upper() and pattern.fullmatch(where) for verb, where in shown()), (method, path)
