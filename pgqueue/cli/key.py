"""`pgqueue key`: who may use the HTTP interface."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

import click

from pgqueue.cli import words
from pgqueue.cli.base import Group, common, data_options
from pgqueue.cli.output import Column, emit_rows
from pgqueue.cli.parameters import Duration
from pgqueue.cli.session import run
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueue.models import ApiKey, Scope
    from pgqueue.services import AccessService, QueueOperations

T = TypeVar("T")


@click.group(cls=Group)
def key() -> None:
    """Make, list and revoke keys of the HTTP interface."""


@key.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["read", "submit", "manage", "admin"]),
    multiple=True,
    required=True,
    help="What it may do; may be repeated. admin may do everything.",
)
@click.option(
    "--queue", "queues", multiple=True, metavar="QUEUE", help="A queue it is for; may be repeated.  [default: all]"
)
@click.option(
    "--rate-limit",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    help="Requests a minute.  [default: no limit]",
)
@click.option("--expires-in", type=Duration(), metavar="DURATION", help="Such as 90d.  [default: never]")
@data_options
def create(
    *,
    name: str,
    scopes: tuple[Scope, ...],
    queues: tuple[str, ...],
    rate_limit: int | None,
    expires_in: float | None,
) -> None:
    """Make a key and print it.

    It is shown this once: the database keeps only its hash. Clients send it as `Authorization: Bearer KEY`.
    """
    expires_at = None if expires_in is None else datetime.now(UTC) + timedelta(seconds=expires_in)
    made = _run(
        lambda access: access.create_api_key(
            name, scopes, queues=queues or None, rate_limit=rate_limit, expires_at=expires_at
        )
    )
    if common().output == "table":
        click.echo(made.key)
        say(f"key {made.id} for {name}: keep it well, it is not shown again")
    else:
        emit_rows([{"id": made.id, "name": name, "key": made.key}], [], empty="")


@key.command("list")
@data_options
def list_() -> None:
    """List the keys.

    Without their secrets, which nobody has but their holders.
    """
    found = _run(lambda access: access.list_api_keys())
    emit_rows(found, _columns(), empty="there is no key; make one: pgqueue key create NAME --scope read")


@key.command()
@click.argument("which", metavar="KEY")
@data_options
def revoke(which: str) -> None:
    """Refuse a key from now on.

    KEY is its name, its number, or the part of it that the list shows.
    """
    number = _run(lambda access: access.revoke_api_key(which))
    if common().output == "table":
        say(f"revoked key {number}")
    else:
        emit_rows([{"id": number, "revoked": True}], [], empty="")


def _run(work: Callable[[AccessService], Awaitable[T]]) -> T:
    from pgqueue.services import AccessService

    async def within(operations: QueueOperations) -> T:
        return await work(AccessService(operations.db))

    return run(within)


def _columns() -> list[Column[ApiKey]]:
    now = datetime.now(UTC)
    return [
        Column("ID", lambda found: str(found.id), right=True),
        Column("NAME", lambda found: found.name, flexible=True),
        Column("KEY", lambda found: f"pgq_{found.selector}_…"),
        Column("SCOPES", lambda found: " ".join(found.scopes)),
        Column("QUEUES", lambda found: " ".join(found.queues or ["all"]), flexible=True),
        Column("LIMIT", lambda found: f"{found.rate_limit}/min" if found.rate_limit else "-", right=True),
        Column("USED", lambda found: words.age(found.last_used_at, now) if found.last_used_at else "never", right=True),
        Column("STATE", lambda found: _state(found, now)),
    ]


def _state(found: ApiKey, now: datetime) -> str:
    if found.revoked_at is not None:
        return "revoked"
    return "expired" if found.expires_at is not None and found.expires_at <= now else "live"
