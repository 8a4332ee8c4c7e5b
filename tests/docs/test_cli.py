"""The page of the command line names every command, and no other; its examples would be accepted."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import click
import pytest

from pgqueue.cli import root
from tests.docs.snippets import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([a-z ]+)`: .* \| `pgqueue (.+)` \|$", TEXT, re.MULTILINE)


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield path + name, command


KNOWN = dict(commands(root.root))


def test_every_command_has_a_row() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(KNOWN)


@pytest.mark.parametrize(("name", "example"), ROWS)
def test_an_example_is_one_that_the_command_takes(name: str, example: str) -> None:
    words = shlex.split(example)
    parts = name.split()
    assert words[: len(parts)] == parts
    KNOWN[name].make_context(name, words[len(parts) :])
