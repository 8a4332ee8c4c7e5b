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
    async with Database(dsn) as db:
        key = (await AccessService(db).create_api_key("fuzz", ["admin"])).key
    running = run_api()
    url = await running.url()
    for file in FOLDER.glob("*.*"):
        shutil.copy(file, tmp_path)
    done = subprocess.run(  # noqa: ASYNC221 - the server has a process of its own
        [
            *(PROGRAM, "run", f"{url}/api/v1/openapi.json", "--checks", "all"),
            *("--max-examples", "100" if long else "10", "--seed", "1", "--generation-database", "none"),
        ],
        cwd=tmp_path,
        env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path), "PGQUEUE_FUZZ_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in running.log
    check_phases(done.stdout)


def check_phases(report: str) -> None:
    """Fail where a phase did not run."""
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in report, report
