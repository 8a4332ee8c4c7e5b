"""Data on stdout: tables for people, JSON and JSON lines for programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import click

from pgqueue.cli.base import common
from pgqueue.cli.talk import color, say, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

R = TypeVar("R")
COLORS = {
    "bar.back": "dim",
    "bar.complete": "green",
    "bar.finished": "green",
    "progress.elapsed": "none",
    "progress.percentage": "none",
}
"""Colours of progress bars that can be read on light and dark."""
HIDDEN = ("service", "created")
RENAMED = {"result_value": "result", "progress_report": "progress"}


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column: its title, the text of a cell, and how it is laid out."""

    title: str
    text: Callable[[R], str]
    style: Callable[[R], str] | None = None
    right: bool = False
    flexible: bool = False
    """Cut where the line would be too long."""


def emit_rows(rows: Sequence[R], columns: Sequence[Column[R]], *, empty: str) -> None:
    """Write rows as the output option says; an empty table is said on stderr, with what to do."""
    output = common().output
    if output == "json":
        click.echo(pretty([plain(row) for row in rows]))
    elif output == "jsonl":
        for row in rows:
            click.echo(line(plain(row)))
    elif rows:
        write_table(table(rows, columns))
    else:
        say(empty)


def emit_ids(rows: Sequence[R], columns: Sequence[Column[R]]) -> None:
    """Write rows as JSON, or where a table is asked for, the bare first column: one a line, for other commands."""
    if common().output == "table":
        for row in rows:
            click.echo(columns[0].text(row))
    else:
        emit_rows(rows, columns, empty="")


def emit_one(value: object, write: Callable[[], None]) -> None:
    """Write one value as JSON, or call `write` where a table is asked for."""
    output = common().output
    if output == "table":
        write()
    else:
        click.echo((pretty if output == "json" else line)(plain(value)))


def plain(value: object) -> Any:
    """Return a value as what JSON knows; a task has the names that the REST interface gives its fields."""
    import msgspec

    from pgqueue.models import TaskRecord

    if isinstance(value, TaskRecord):
        names = TaskRecord.__struct_fields__
        value = {RENAMED.get(name, name): getattr(value, name) for name in names if name not in HIDDEN}
    return msgspec.to_builtins(value)


def pretty(value: object) -> str:
    """Return JSON over several lines."""
    import msgspec

    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def line(value: object) -> str:
    """Return JSON on one line."""
    import msgspec

    return msgspec.json.encode(value).decode()


def table(rows: Sequence[R], columns: Sequence[Column[R]]) -> Table:
    """Lay rows out: no borders, titles in bold, the flexible column cut to the width there is."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column.title, justify="right" if column.right else "left", no_wrap=not column.flexible)
    for row in rows:
        cells = [(visible(column.text(row)), column.style(row) if column.style else "") for column in columns]
        made.add_row(*(Text(text, style, no_wrap=True, overflow="ellipsis") for text, style in cells))
    return made


def facts(pairs: Mapping[str, str | None]) -> Table:
    """Lay names and values out, leaving out what is empty."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in pairs.items():
        if value:
            made.add_row(name, Text(visible(value)))
    return made


def section(title: str, text: str) -> None:
    """Write a text under a title."""
    click.echo(f"\n{click.style(title, bold=True)}", color=color())
    click.echo(visible("\n".join(f"  {part}" for part in text.splitlines())))


def write_table(made: Table) -> None:
    """Print a table: to a terminal in its width, else as wide as it is, without trailing blanks."""
    out = console()
    if is_terminal():
        out.print(made)
        return
    with out.capture() as captured:
        out.print(made)
    click.echo("\n".join(text.rstrip() for text in captured.get().splitlines()))


def is_terminal(*, stderr: bool = False) -> bool:
    """Return whether people look at stdout or stderr as it is written."""
    return (sys.stderr if stderr else sys.stdout).isatty()


def console(*, stderr: bool = False) -> Console:
    """Return a console for stdout or stderr; where that is no terminal, nothing is cut."""
    from rich.console import Console
    from rich.theme import Theme

    stream = sys.stderr if stderr else sys.stdout
    width = None if is_terminal(stderr=stderr) else 10_000
    return Console(file=stream, width=width, theme=Theme(COLORS), highlight=False, markup=False, emoji=False)
