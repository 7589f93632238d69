"""The command line's root: finds the command, loads its module only then, turns errors into sentences."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from swarmlet.cli.catalogue import ADDRESS_HELP, COMMANDS, EXAMPLES, SUMMARY, TOKEN_HELP
from swarmlet.cli.ending import ended
from swarmlet.errors import NoLeader

#: In `alloc exec ID COMMAND …`: so many words, and then somebody else's.
WORDS_BEFORE_FOREIGN = 3
#: Options that such a line may have before, with a word after them that is their value.
OPTIONS_WITH_VALUE = ("address", "token", "task")


class LazyGroup(click.Group):
    """A group whose commands are named here and imported when they run."""

    def __init__(self, *arguments: Any, lazy: dict[str, tuple[str, str]], **options: Any) -> None:
        """`lazy` maps a name to where it is and its help line."""
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table: the order of a first day."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list, without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """An unknown command gets a suggestion."""
        name = args[0] if args else ""
        if name and name not in self.lazy and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.lazy, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise click.UsageError(f"no command '{name}'{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup,
    lazy=COMMANDS,
    help=SUMMARY,
    epilog="\b\n" + EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--address", default="", metavar="ADDR", help=ADDRESS_HELP)
@click.option("--token", default="", metavar="TOKEN", help=TOKEN_HELP)
@click.pass_context
def root(ctx: click.Context, address: str, token: str) -> None:  # noqa: D103 (its help is SUMMARY)
    ctx.obj = {"address": address, "token": token}


def single_dash_to_double(arguments: list[str]) -> list[str]:
    """Nomad writes `-json`, Docker `--json`; both are the same here. Numbers and single letters stay."""
    result: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return result + arguments[position:]
        name = argument[1:].split("=", 1)[0]
        is_long = argument.startswith("-") and not argument.startswith("--") and len(name) > 1
        result.append("-" + argument if is_long and name.replace("-", "").isalpha() else argument)
    return result


def foreign_command_apart(arguments: list[str]) -> list[str]:
    """`--` before the command that is to run in a task: nothing in it is an option of ours, `-h` neither."""
    words: list[str] = []
    is_value = False
    for position, argument in enumerate(arguments):
        if is_value:
            is_value = False
        elif argument == "--":
            break
        elif argument.startswith("-"):
            is_value = argument.lstrip("-") in OPTIONS_WITH_VALUE
        else:
            words.append(argument)
            if len(words) == WORDS_BEFORE_FOREIGN + 1 and words[:2] == ["alloc", "exec"]:
                return [*arguments[:position], "--", *arguments[position:]]
    return arguments


def run(arguments: list[str]) -> int:
    """Run one command; the exit code: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    return ended(lambda: _run(single_dash_to_double(foreign_command_apart(arguments))))


def _run(arguments: list[str]) -> int:
    try:
        with root.make_context("swarmlet", arguments) as context:
            try:
                result = root.invoke(context)
            except NoLeader as error:
                from swarmlet.cli.connection import STALE_KEY

                if context.meta.get(STALE_KEY) is False:
                    error.add_note("add --stale to see what this node last knew")
                raise
    except click.exceptions.NoArgsIsHelpError as error:
        # A group without a command: what it offers is the answer.
        sys.stderr.write(error.format_message() + "\n")
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    return result if isinstance(result, int) else 0
