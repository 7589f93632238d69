"""The command line's root: finds the command, loads its module only then, turns errors into sentences."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from swarmlet.errors import SwarmletError

#: Command -> "module:attribute", and its line in --help. Modules load when their command runs: a command must
#: start fast, and `--help` must not import what it lists.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("swarmlet.cli.cluster:init", "Make a cluster of this machine"),
    "join": ("swarmlet.cli.cluster:join", "Add this machine to a cluster"),
    "leave": ("swarmlet.cli.cluster:leave", "Take this machine out of its cluster"),
    "agent": ("swarmlet.cli.cluster:agent", "Run this machine's agent (after init or join)"),
    "dev": ("swarmlet.cli.cluster:dev", "A cluster of one in this terminal, in memory"),
    "status": ("swarmlet.cli.status:status", "The cluster in one look"),
    "explain": ("swarmlet.cli.status:explain", "Why a job is as it is"),
    "job": ("swarmlet.cli.job:job", "Run, validate, stop and look at jobs"),
    "alloc": ("swarmlet.cli.alloc:alloc", "Look at allocations, their logs; stop or restart them"),
    "logs": ("swarmlet.cli.alloc:job_logs", "The logs of a job's tasks"),
    "node": ("swarmlet.cli.node:node", "Look at nodes; drain them"),
    "token": ("swarmlet.cli.token:token", "Create, list and revoke join tokens"),
    "operator": ("swarmlet.cli.operator:operator", "Consensus and other internals"),
    "version": ("swarmlet.cli.status:version", "This program's version"),
}

EXAMPLES = """\b
Examples:
  sudo swarmlet init                        the first machine
  sudo swarmlet join swl1-...@10.0.0.1      every other machine
  swarmlet job run web.hcl                  run something
  swarmlet status"""


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
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--address", default="", metavar="ADDR", help="The node to ask (default: this machine's agent)."
)
@click.option(
    "--token", default="", metavar="TOKEN", help="Admin token (or SWARMLET_TOKEN); not needed on the socket."
)
@click.pass_context
def root(ctx: click.Context, address: str, token: str) -> None:
    """Run containers across machines without a special machine among them."""
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


def run(arguments: list[str]) -> int:
    """Run one command; the exit code: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        result = root.main(args=single_dash_to_double(arguments), prog_name="swarmlet", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    except KeyboardInterrupt:
        return 130
    except SwarmletError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        # `swarmlet logs | head`: the reader has enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return result if isinstance(result, int) else 0
