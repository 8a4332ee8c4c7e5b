"""The OpenAPI document and the page of the manual tell of every route."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest_asyncio

from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    from pgqueue_web import Server

PAGE = (ROOT / "docs" / "rest.md").read_text(encoding="utf-8")


@pytest_asyncio.fixture
async def document(api: Server) -> Any:  # noqa: ANN401 - JSON
    async with httpx.AsyncClient() as client:
        return (await client.get(f"{api.url}/api/v1/openapi.json")).json()


def operations(document: Any) -> list[tuple[str, str, Any]]:  # noqa: ANN401 - JSON
    return [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


async def test_the_manual_has_every_route_and_no_other(document: Any) -> None:  # noqa: ANN401 - JSON
    told = set(re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`?]*)`", PAGE))
    assert told == {(method, path) for method, path, _ in operations(document)}


async def test_every_operation_says_what_it_takes_and_answers(document: Any) -> None:  # noqa: ANN401 - JSON
    assert document["openapi"] == "3.1.0"
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names) > 30
    for method, path, operation in operations(document):
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["tags"], path
        public = path in ("/healthz", "/readyz")
        assert operation["security"] == ([] if public else [{"key": []}])
        answers = operation["responses"]
        if not public:
            assert set(answers) >= {"401", "403", "422", "429", "503"}, path
        if "{" in path:
            assert "404" in answers, path
        if "requestBody" in operation:
            assert set(answers) >= {"400", "413", "415"}, path
            assert operation["requestBody"]["content"]["application/json"]["examples"], path
        for status, answer in answers.items():
            kinds = set(answer.get("content", {}))
            assert status == "204" or kinds, (method, path, status)
            if int(status) >= 400 and path != "/readyz":
                assert kinds == {"application/problem+json"}, (method, path, status)


def test_what_browsers_are_given_is_what_was_vendored() -> None:
    """bin/vendor fetched it in the version and with the hashes of web/vendor.json."""
    for name, package in json.loads((ROOT / "web" / "vendor.json").read_text()).items():
        folder = ROOT / package.get("folder", f"web/pgqueue_web/assets/{name}")
        for path, digest in package["files"].items():
            content = (folder / Path(path).name).read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest, path
        assert any("LICENSE" in path for path in package["files"]), name


async def test_bodies_refuse_unknown_fields(document: Any) -> None:  # noqa: ANN401 - JSON
    for _, path, operation in operations(document):
        if "requestBody" in operation:
            name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert document["components"]["schemas"][name]["additionalProperties"] is False, path
