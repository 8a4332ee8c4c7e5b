"""Help is there for everything, and quick: it imports nothing that only commands need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from pgqueue import __version__
from pgqueue.cli.base import LazyGroup
from pgqueue.cli.root import COMMANDS, root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Cli

HEAVY = {"psycopg", "rich", "msgspec", "structlog", "psycopg_pool", "pgqueue.services", "pgqueue.queue_service"}


def commands(group: click.Group = root, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command with its path."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))


ALL = list(commands())


@pytest.mark.parametrize("noun", [(), ("task",), ("submit",), ("schedule",), ("scheduler",), ("doctor",)], ids=" ".join)
def test_help_imports_nothing_heavy(bare_cli: Cli, noun: tuple[str, ...]) -> None:
    shown = bare_cli(*noun, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert shown.code == 0
    imported = {line.rpartition("|")[2].strip() for line in shown.err.splitlines()}
    assert imported.isdisjoint(HEAVY), imported & HEAVY


def test_the_list_of_commands_says_what_their_own_help_says() -> None:
    assert isinstance(root, LazyGroup)
    own = {path[0]: command.get_short_help_str(limit=200) for path, command in ALL if len(path) == 1}
    assert {name: text for name, (_, text) in COMMANDS.items()} == own


@pytest.mark.parametrize(("path", "command"), ALL, ids=[" ".join(path) for path, _ in ALL])
def test_every_command_and_option_is_explained_and_has_a_variable(
    path: tuple[str, ...], command: click.Command
) -> None:
    context = click.Context(command, info_name=path[-1], auto_envvar_prefix="_".join(("PGQUEUE", *path)).upper())
    assert command.help
    assert len(command.get_short_help_str(limit=45)) == len(command.get_short_help_str(limit=200)) or len(path) == 1
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert option.allow_from_autoenv or option.name in ("dsn", "output", "host", "port"), option.name
    assert len(command.get_help(context)) > 50


def test_options_follow_their_variables(bare_cli: Cli) -> None:
    refused = bare_cli("task", "list", PGQUEUE_TASK_LIST_STATUS="lost")
    assert (refused.code, "'lost' is not one of" in refused.err) == (2, True)
    refused = bare_cli("task", "list", PGQUEUE_OUTPUT="xml")
    assert (refused.code, "'xml' is not one of" in refused.err) == (2, True)


def test_a_command_that_does_not_exist_is_answered_with_a_close_one(bare_cli: Cli) -> None:
    for arguments, close in (("taks",), "task"), (("task", "lst"), "list"), (("queue", "pauze"), "pause"):
        wrong = bare_cli(*arguments)
        assert wrong.code == 2
        assert f"There is no command {arguments[-1]!r}. Did you mean {close!r}?" in wrong.err
        assert wrong.out == ""


def test_shells_complete_commands_and_values(bare_cli: Cli) -> None:
    def completed(words: str, index: int) -> str:
        return bare_cli(_PGQUEUE_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(index)).out

    assert completed("pgqueue wor", 1).split() == ["plain,worker", "plain,workers"]
    assert "plain,watch" in completed("pgqueue task w", 2)
    assert "plain,completed" in completed("pgqueue task list --status comp", 4)


def test_the_version_is_that_of_the_package(bare_cli: Cli) -> None:
    assert bare_cli("--version").out == f"pgqueue {__version__}\n"
    assert "MODULE:QUEUE_SERVICE" in bare_cli("--help", program="pgqueue-worker").out
