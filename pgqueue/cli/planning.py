"""`pgqueue schedule add` and `update`: what is submitted, when, and what becomes of ticks that clash or were missed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgqueue.cli.base import data_options
from pgqueue.cli.parameters import Moment, PriorityNumber, WholeSeconds
from pgqueue.cli.payload import payload_of, payload_options
from pgqueue.cli.schedules import NAME, Shown, emit, run_scheduling, shown
from pgqueue.cli.talk import say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pgqueue.models import ScheduledTask, ScheduledTaskRequest
    from pgqueue.services import SchedulerService

    Option = Callable[[Any], Any]
    Change = Callable[[SchedulerService, object], Awaitable[ScheduledTask]]

F = TypeVar("F", bound="Callable[..., Any]")
CLEARABLE = ("timeout", "user-id", "project-id", "starts-at", "ends-at", "max-runs")


def cron_option(text: str, *, required: bool = False) -> Callable[[F], F]:
    """Add --cron."""
    return click.option("--cron", "cron_expr", metavar="EXPR", required=required, help=text)


def zone_option(text: str) -> Callable[[F], F]:
    """Add --zone."""
    return click.option("--zone", "time_zone", metavar="ZONE", help=text)


def plan_options(*, defaults: bool) -> Callable[[F], F]:
    """Add what `add` and `update` have in common; only what is given is sent, so the defaults are the database's."""

    def told(text: str, default: str) -> str:
        return f"{text}  [default: {default}]" if defaults else text

    options = (
        zone_option(told("The IANA zone whose clocks the expression is about.", "UTC")),
        *_task_options(told),
        *_policy_options(told),
        *_bounds(),
        click.option("--dry-run", is_flag=True, help="Check it and show its next runs; change nothing."),
    )

    def extend(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return extend


def _task_options(told: Callable[[str, str], str]) -> tuple[Option, ...]:
    retries = told("How many failures of a task are followed by another attempt.", "3")
    priority = told("Of its tasks: a number, or low, normal, high, urgent.", "normal")
    timeout = told("How long an attempt may run.", "no limit")
    return (
        click.option("--queue", "queue_name", metavar="NAME", help=told("The queue of its tasks.", "default")),
        click.option("--priority", type=PriorityNumber(), metavar="N", help=priority),
        click.option("--timeout", type=WholeSeconds(), metavar="DURATION", help=timeout),
        click.option("--max-retries", type=click.IntRange(0, 10_000), metavar="N", help=retries),
        click.option("--user-id", metavar="ID", help="The user its tasks work for."),
        click.option("--project-id", metavar="ID", help="The project its tasks work for."),
    )


def _policy_options(told: Callable[[str, str], str]) -> tuple[Option, ...]:
    missed = told("Of ticks that nobody fired within a minute: run none, the newest, or all.", "once")
    overlap = told("Of a tick while a task of an earlier one has not ended.", "allow")
    window, jitter = (
        told("How far back --missed looks.", "1d"),
        told("Most by which a task is later than its tick.", "0"),
    )
    return (
        click.option("--missed", type=click.Choice(["skip", "once", "all"]), help=missed),
        click.option("--catch-up-window", type=WholeSeconds(least=0), metavar="DURATION", help=window),
        click.option("--overlap", type=click.Choice(["allow", "skip", "queue", "cancel_previous"]), help=overlap),
        click.option("--jitter", type=WholeSeconds(least=0), metavar="DURATION", help=jitter),
    )


def _bounds() -> tuple[Option, ...]:
    most = click.IntRange(1, 2**31 - 1)
    return (
        click.option("--starts-at", type=Moment(), metavar="TIME", help="No tick before this moment."),
        click.option("--ends-at", type=Moment(), metavar="TIME", help="No tick after this moment."),
        click.option("--max-runs", type=most, metavar="N", help="It has ended after so many ticks."),
    )


@click.command()
@NAME
@click.argument("task_type", metavar="TYPE")
@cron_option("Minute, hour, day, month, weekday, as in '0 9 * * MON-FRI'; or @hourly and the like.", required=True)
@payload_options
@plan_options(defaults=True)
@click.option("--paused", is_flag=True, help="Make it paused.")
@click.option(
    "--on-conflict",
    type=click.Choice(["raise", "return", "replace"]),
    default="raise",
    help="Where the name is taken: fail, leave that schedule as it is, or replace its settings.",
)
@data_options
def add(*, text: str | None, pairs: tuple[tuple[str, Any], ...], dry_run: bool, paused: bool, **given: Any) -> None:
    """Add a schedule.

    It submits tasks of TYPE whenever the expression says so, with the payload of --arg and --json. Any
    worker fires it. Prints the schedule, what the expression means, and the next runs.

    \b
      pgqueue schedule add hourly_report report --cron "0 * * * *" --arg kind=hourly
      pgqueue schedule add wake_up call --cron "30 7 * * MON-FRI" --zone Europe/Berlin --dry-run
    """  # noqa: D301 - click reads the character
    request = _request(given, text, pairs, is_active=not paused)
    _change(lambda service, conn: service.create_scheduled_task(request, conn=conn), dry_run=dry_run)


@click.command()
@NAME
@click.option("--name", "new_name", metavar="NAME", help="Call it so from now on.")
@click.option("--type", "task_type", metavar="TYPE", help="The type of its tasks.")
@cron_option("Minute, hour, day, month, weekday; or @hourly and the like.")
@payload_options
@plan_options(defaults=False)
@click.option(
    "--clear",
    type=click.Choice(CLEARABLE),
    multiple=True,
    help="Take this value away; may be repeated.",
)
@data_options
def update(  # noqa: PLR0913 - one parameter an option
    *,
    name: str,
    new_name: str | None,
    text: str | None,
    pairs: tuple[tuple[str, Any], ...],
    clear: tuple[str, ...],
    dry_run: bool,
    **given: Any,
) -> None:
    """Change a schedule.

    Only what is given changes; --arg and --json make a new payload. A new expression or zone counts from now on.
    """
    cleared = {field.replace("-", "_"): None for field in clear}
    if twice := [field for field in cleared if given[field] is not None]:
        raise click.UsageError(f"--{twice[0].replace('_', '-')} is given and cleared at once.")
    request = _request(given | {"name": new_name}, text, pairs, **cleared)
    if request == _request({}, None, ()):
        raise click.UsageError(f"Nothing says what to change; `pgqueue schedule update {name} --help` lists what can.")
    _change(lambda service, conn: service.update_scheduled_task(name, request, conn=conn), dry_run=dry_run)


def _request(
    given: dict[str, Any], text: str | None, pairs: tuple[tuple[str, Any], ...], **more: Any
) -> ScheduledTaskRequest:
    """Return what the options say; what they do not say is not set."""
    from pgqueue.models import ScheduledTaskRequest

    fields = {name: value for name, value in given.items() if value is not None} | more
    if text is not None or pairs:
        fields["payload"] = payload_of(text, pairs)
    return ScheduledTaskRequest(**fields)


def _change(change: Change, *, dry_run: bool) -> None:
    """Change a schedule and show it; with `dry_run` in a transaction that is rolled back."""

    async def work(service: SchedulerService) -> Shown:
        if not dry_run:
            return await shown(service, await change(service, None))
        async with service.db.connection() as conn, conn.transaction(force_rollback=True):
            return await shown(service, await change(service, conn))

    emit(run_scheduling(work))
    if dry_run:
        say("only a dry run: nothing was changed")
