"""What all commands share: groups that import lazily and know near misses, and the common options."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

F = TypeVar("F", bound="Callable[..., Any]")
Format = Literal["table", "json", "jsonl"]
CONTEXT: dict[str, Any] = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


@dataclass
class Common:
    """The options that every command takes, wherever on the line they were given."""

    dsn: str | None = None
    output: Format = "table"


def common() -> Common:
    """Return the common options of the running command."""
    return click.get_current_context().ensure_object(Common)


def near(name: str, known: list[str]) -> str:
    """Return ` Did you mean …?` where one of `known` is close to `name`, else nothing."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class Group(click.Group):
    """A noun; a verb that it does not have is answered with the nearest that it has."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as in click
        """Return the names in the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Fail for a command that does not exist, naming a close one."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            ctx.fail(f"There is no command {args[0]!r}.{near(args[0], known)}")
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
    """A group whose commands are imported when they are asked for; `commands_at` says where and their help."""

    def __init__(self, *args: Any, commands_at: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_at = commands_at

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as in click
        """Return the names in the order in which people need them."""
        return list(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as in click
        """Import the command's module, where there is one."""
        if cmd_name not in self.commands_at:
            return None
        found: click.Command = getattr(importlib.import_module(self.commands_at[cmd_name][0]), cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as in click
        """Write the commands into the help without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.commands_at.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete the names without importing the commands."""
        from click.shell_completion import CompletionItem

        own = [CompletionItem(name, help=text) for name, (_, text) in self.commands_at.items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [item for item in own if item.value.startswith(incomplete)] + options


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def callback(ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        found = ctx.ensure_object(Common)
        if value is not None:
            setattr(found, name, value)
        return value

    return callback


def database_option(command: F, text: str = "Another database than PGQUEUE_DSN names.") -> F:
    """Add --dsn. PGQUEUE_DSN is read by the settings, where it has its place below --dsn."""
    return click.option(
        "--dsn",
        metavar="DSN",
        allow_from_autoenv=False,
        expose_value=False,
        callback=_remember("dsn"),
        help=text,
    )(command)


def output_option(*, root: bool = False) -> Callable[[F], F]:
    """Add -o; only the root reads PGQUEUE_OUTPUT, so that an -o anywhere on the line beats it."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "jsonl"]),
        envvar="PGQUEUE_OUTPUT" if root else None,
        allow_from_autoenv=False,
        expose_value=False,
        callback=_remember("output"),
        help="Format of what goes to stdout.  [default: table]",
    )


def data_options(command: F) -> F:
    """Add --dsn and -o."""
    return database_option(output_option()(command))
