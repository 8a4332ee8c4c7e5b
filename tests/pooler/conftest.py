"""A real PgBouncer in transaction mode before this test's database.

Where the program is not installed, the tests of this folder are not collected; bin/ci-packages installs it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.polling import DEADLINE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
collect_ignore_glob = [] if PROGRAM else ["test_*.py"]
CONNECTIONS = 3
"""Few, so that one client's next transaction is on another's connection."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def pooled_dsn(dsn: str) -> Iterator[str]:
    """The way to the database through the pooler."""
    assert PROGRAM is not None
    known = conninfo_to_dict(dsn)
    port = free_port()
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer"))
    folder.chmod(0o777)
    where = " ".join(f"{name}={known[name]}" for name in ("host", "port", "dbname", "user"))
    lines = [
        *("[databases]", f"pooled = {where}", "[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {port}"),
        *("unix_socket_dir =", "auth_type = any", "pool_mode = transaction", f"default_pool_size = {CONNECTIONS}"),
        *("max_client_conn = 100", f"logfile = {folder}/log"),
        *([f"user = {Path(str(known['host'])).owner()}"] if os.geteuid() == 0 else []),
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines))
    process = subprocess.Popen([PROGRAM, "-q", folder / "pgbouncer.ini"])
    made = make_conninfo("", host="127.0.0.1", port=port, dbname="pooled", user=str(known["user"]))

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            with psycopg.connect(made, connect_timeout=5):
                return True
        except psycopg.OperationalError:
            return False

    try:
        deadline = time.monotonic() + DEADLINE_S
        while not answers():
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.02)
        yield made
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder)
