"""What is said to people: always on stderr, in colour only where that is wanted."""

from __future__ import annotations

import re

import click

COLORS = {"error": "red"}
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def say(text: str) -> None:
    """Say something that just is so."""
    click.echo(visible(text), err=True, color=color())


def tell(kind: str, text: str) -> None:
    """Say something under a heading: error, warning or hint."""
    click.echo(f"{click.style(f'{kind}:', fg=COLORS.get(kind), bold=True)} {visible(text)}", err=True, color=color())


def visible(text: str) -> str:
    """Return the text with control characters written out, so that none reaches the terminal."""
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def color() -> bool | None:
    """Return what click wants to know: False for never, None for where the stream is a terminal."""
    from pgqueue import settings

    return False if settings.no_color() else None
