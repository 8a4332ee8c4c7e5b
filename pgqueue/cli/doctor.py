"""`pgqueue doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import click

from pgqueue.cli import words
from pgqueue.cli.base import common, data_options
from pgqueue.cli.failures import TASK_FAILED
from pgqueue.cli.output import emit_rows, write_table
from pgqueue.cli.session import start_announced
from pgqueue.cli.talk import say, visible
from pgqueue.errors import PgqueueError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from pgqueue.database import Database
    from pgqueue.embedded import Resolved
    from pgqueue.settings import Settings

State = Literal["ok", "warning", "failure"]
OLDEST = 14
OLD_TRANSACTION_S = 600
MANY_DEAD = 100_000
FULL = 0.25
SKEW_S = 2
LAG_S = 600.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to do unless it is well."""

    check: str
    state: State
    detail: str
    fix: str | None = None


@click.command()
@data_options
def doctor() -> None:
    """Check settings, database and schema; say what to do.

    Exits with 1 if something does not work; warnings do not count.
    """
    from pgqueue import log

    log.configure("critical")
    found = asyncio.run(_findings())
    if common().output == "table":
        write_table(_laid_out(found))
    else:
        emit_rows(found, [], empty="")
    failures = sum(finding.state == "failure" for finding in found)
    warnings = sum(finding.state == "warning" for finding in found)
    say(
        f"{words.plural(failures, 'failure')}, {words.plural(warnings, 'warning')}"
        if failures or warnings
        else "all is well"
    )
    click.get_current_context().exit(TASK_FAILED if failures else 0)


def _laid_out(found: list[Finding]) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for finding in found:
        text = Text(visible(finding.detail))
        if finding.fix:
            text.append("\n→ ", "bold").append(visible(finding.fix))
        made.add_row(Text(finding.state, words.STYLES[finding.state]), finding.check, text)
    return made


async def _findings() -> list[Finding]:
    """Look at one thing after another; what stands on something that fails is left out."""
    from pgqueue import settings
    from pgqueue.database import Database

    found: list[Finding] = []
    check = "settings"
    try:
        chosen = settings.load(dsn=common().dsn)
        found.append(_settings())
        check = "database"
        resolved = _resolve()
        found.append(_named(resolved))
        check = "server"
        async with Database(resolved.dsn or None, settings=chosen) as database:
            found += await _inside(database, chosen)
    except PgqueueError as error:
        found.append(_failure(check, error))
    return found


def _failure(check: str, error: PgqueueError) -> Finding:
    return Finding(check, "failure", error.message, error.hint)


def _settings() -> Finding:
    from pgqueue import settings

    origins = settings.origins(dsn=common().dsn)
    given = ", ".join(f"{name} ({origin})" for name, origin in origins.items())
    return Finding("settings", "ok", f"given: {given}" if given else "all have their defaults")


def _resolve() -> Resolved:
    from pgqueue.embedded import resolve_dsn

    with start_announced():
        return resolve_dsn(common().dsn)


def _named(resolved: Resolved) -> Finding:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    known = conninfo_to_dict(resolved.dsn)
    shown = make_conninfo("", **{name: "***" if name == "password" else value for name, value in known.items()})
    return Finding("database", "ok", f"{shown or 'as libpq says'}; named by: {resolved.rule}")


async def _inside(database: Database, chosen: Settings) -> list[Finding]:
    found = [*await _server(database), *await _listen(database, chosen)]
    try:
        found.append(await _schema(database))
        found += await _health(database)
    except PgqueueError as error:
        found.append(_failure("schema", error))
    return found


async def _server(database: Database) -> list[Finding]:
    from pgqueue import calls

    async with database.connection() as conn:
        started = time.perf_counter()
        pid = await database.run(calls.backend_pid(), conn=conn)
        elapsed_ms = (time.perf_counter() - started) * 1000
        info = conn.info
        number = info.server_version
        version = f"PostgreSQL {number // 10_000}.{number % 10_000}, answers in {elapsed_ms:.1f} ms"
        pooled = pid != info.backend_pid
        standby = info.parameter_status("in_hot_standby") == "on"
    return list(_server_findings(number, version, pooled=pooled, standby=standby))


def _server_findings(number: int, version: str, *, pooled: bool, standby: bool) -> Iterator[Finding]:
    if number < OLDEST * 10_000:
        yield Finding("server", "failure", version, f"pgqueue needs PostgreSQL {OLDEST} or newer")
    elif standby:
        yield Finding("server", "failure", f"{version}; it is a read-only standby", "name the primary in the DSN")
    else:
        yield Finding("server", "ok", version)
    if pooled:
        yield Finding("pooler", "ok", "a connection pooler stands between; see listen below for what follows")


async def _listen(database: Database, chosen: Settings) -> list[Finding]:
    from pgqueue.listen import hub_of

    hub = hub_of(database)
    await hub.start()
    if hub.is_alive:
        return [Finding("listen", "ok", "notifications arrive: idle workers are woken at once")]
    fix = "set PGQUEUE_LISTEN_DSN to a direct connection"
    if not chosen.pooler:
        fix += ", and PGQUEUE_POOLER=1 if the pooler works by transaction"
    detail = f"notifications do not arrive: workers look every {min(chosen.poll_s, 0.25):g} s instead"
    return [Finding("listen", "warning", detail, fix)]


async def _schema(database: Database) -> Finding:
    from pgqueue import schema

    async with database.connection() as conn:
        status = await schema.check_async(conn)
    newer = f", newer than this pgqueue ({status.code_release})" if status.newer else ""
    return Finding("schema", "ok", f"release {status.database_release}{newer}")


async def _health(database: Database) -> list[Finding]:
    from pgqueue import calls

    row = (await database.run(calls.overview("health")))[0]
    skew = (await database.run(calls.clock()) - datetime.now(UTC)).total_seconds()
    found = [*_about_workers(row), *_about_tables(row), *_about_history(row), *_about_clock(skew)]
    return found or [Finding("health", "ok", "workers are alive, nothing is in the way")]


def _about_workers(row: dict[str, Any]) -> Iterator[Finding]:
    if not row["workers_alive"]:
        yield Finding("workers", "warning", "no worker runs", "start one: pgqueue worker MODULE:QUEUE_SERVICE")
    if row["workers_lost"]:
        lost = f"{words.plural(row['workers_lost'], 'worker')} not heard any more; their tasks go on elsewhere"
        yield Finding(
            "workers", "warning", lost, "`pgqueue workers` says where they ran; their logs say why they ended"
        )
    if row["stuck_tasks"]:
        stuck = f"{words.plural(row['stuck_tasks'], 'task')} should not run any more"
        yield Finding("tasks", "warning", stuck, "`pgqueue db psql -c 'table pgqueue.stuck_tasks'` says which and why")


def _about_tables(row: dict[str, Any]) -> Iterator[Finding]:
    open_for = words.interval(row["oldest_transaction"]) or 0
    if open_for > OLD_TRANSACTION_S:
        text = f"a transaction is open for {words.duration(open_for)}: no dead row since can be removed"
        yield Finding("transactions", "warning", text, "find it in pg_stat_activity (xact_start), and end it")
    dead, live = row["dead_tasks"] or 0, row["live_tasks"] or 0
    if dead > MANY_DEAD and dead > live:
        vacuumed = f"last vacuumed: {row['last_autovacuum'] or 'never'}"
        text = f"pgqueue.tasks holds {dead:,} dead rows to {live:,} live ones; {vacuumed}"
        fix = "vacuum pgqueue.tasks; is autovacuum on, or an old transaction in its way?"
        yield Finding("vacuum", "warning", text, fix)
    if row["missing_partitions"]:
        text = f"{words.plural(row['missing_partitions'], 'partition')} of the next days are missing"
        yield Finding("partitions", "warning", text, "a running worker makes them, and so does pgqueue migrate")
    if row["notify_queue_usage"] > FULL:
        text = f"the notification queue is {row['notify_queue_usage']:.0%} full; at half, wake-ups are held back"
        yield Finding("notify", "warning", text, "end the session that listens inside an open transaction")


def _about_history(row: dict[str, Any]) -> Iterator[Finding]:
    """What has to be kept up with: retention, statistics, and operations that nobody goes on with."""
    if row["overdue_days"]:
        text = f"{words.plural(row['overdue_days'], 'day')} of history should have been dropped by now"
        fix = "a running worker drops them, and so does pgqueue cleanup, unless an open transaction reads them"
        yield Finding("retention", "warning", text, fix)
    lag = words.interval(row["statistics_lag"])
    if lag is not None and lag > LAG_S:
        text = f"statistics were last folded {words.duration(lag)} ago: figures stay exact, but cost more"
        fix = "run a worker; where one runs, end the transaction that has been writing for so long"
        yield Finding("statistics", "warning", text, fix)
    if row["forgotten_operations"]:
        text = f"left halfway: {words.plural(row['forgotten_operations'], 'operation')}"
        yield Finding("operations", "warning", text, "start a worker: it goes on; or pgqueue operation cancel ID")


def _about_clock(skew_s: float) -> Iterator[Finding]:
    if abs(skew_s) > SKEW_S:
        text = f"the server's clock differs from this machine's by {words.duration(abs(skew_s))}"
        yield Finding(
            "clock", "warning", text, "a run_at made with this machine's clock is off by that: run NTP on both"
        )
