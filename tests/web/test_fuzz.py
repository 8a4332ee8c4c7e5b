"""schemathesis over the whole OpenAPI document: examples, edges, random data, and sequences along its links."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pgqueue import Database
from pgqueue.services import AccessService

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.web.conftest import Running

FOLDER = Path(__file__).with_name("fuzz")
PROGRAM = Path(sys.executable).with_name("schemathesis")


async def test_the_document_tells_how_the_server_behaves(
    run_api: Callable[..., Running], dsn: str, tmp_path: Path, *, long: bool
) -> None:
    running = run_api()
    report = await fuzz(await running.url(), dsn, tmp_path, "--max-examples", "100" if long else "10")
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in report, report
    assert "Traceback" not in running.log


async def test_what_is_cancelled_is_read_as_cancelled_in_any_sequence(
    run_api: Callable[..., Running], dsn: str, tmp_path: Path
) -> None:
    """Few operations, so that many sequences go from a submit over DELETE to a read."""
    running = run_api()
    chosen = ("--phases", "stateful", "--include-operation-id-regex", "^(submit_task|cancel_task|get_task)$")
    report = await fuzz(await running.url(), dsn, tmp_path, "--max-examples", "100", *chosen)
    assert "✅ Stateful" in report, report


async def fuzz(url: str, dsn: str, folder: Path, *options: str) -> str:
    """Run schemathesis with all checks; return its report, which tells of no failure."""
    async with Database(dsn) as db:
        key = (await AccessService(db).create_api_key("fuzz", ["admin"])).key
    for file in FOLDER.glob("*.*"):
        shutil.copy(file, folder)
    done = subprocess.run(  # noqa: ASYNC221 - the server has a process of its own
        [
            *(PROGRAM, "run", f"{url}/api/v1/openapi.json", "--checks", "all"),
            *("--seed", "1", "--generation-database", "none", *options),
        ],
        cwd=folder,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(folder), "PGQUEUE_FUZZ_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
