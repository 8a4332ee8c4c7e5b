"""The payload of a task, as options: --arg and --json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgqueue.cli.parameters import Pair
from pgqueue.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")


def payload_options(command: F) -> F:
    """Add --arg (`pairs`) and --json (`text`)."""
    arg = click.option(
        "--arg",
        "pairs",
        type=Pair(),
        multiple=True,
        metavar="KEY=VALUE",
        help="A field of the payload; may be repeated. VALUE is JSON where it reads as JSON (3, true, [1]), else text.",
    )
    return arg(click.option("--json", "text", metavar="TEXT", help="The payload as JSON.")(command))


def payload_of(text: str | bytes | None, pairs: tuple[tuple[str, Any], ...]) -> Any:
    """Return the payload that the options make; an empty object where they say nothing. Raises InvalidInput."""
    payload = _decoded(text)
    if not pairs:
        return payload
    if not isinstance(payload, dict):
        raise click.UsageError("--arg adds fields to an object; the payload given is none.")
    return payload | dict(pairs)


def _decoded(text: str | bytes | None) -> Any:
    import msgspec

    try:
        return {} if text is None else msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        msg = f"the payload is no JSON: {error}"
        raise InvalidInput(
            msg, hint='JSON has no NaN, and texts stand in double quotes: \'{"name": "Ada"}\''
        ) from error
