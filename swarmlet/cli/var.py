"""`swarmlet var …`: encrypted variables. Values are shown when they are asked for, and never repeated."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.connection import (
    client,
    json_option,
    namespace_option,
    namespaces_option,
    stale_option,
    wide_option,
)
from swarmlet.cli.output import age, is_terminal, say, say_json, table
from swarmlet.errors import Conflict, InvalidInput, NotFound

#: Beyond this a file is no variable (items have at most 64 KiB; as JSON they may be longer).
INPUT_BYTES_MAX = 1024 * 1024
STDIN = "-"


@click.group()
def var() -> None:
    """Write and read encrypted variables.

    A job's tasks may read nomad/jobs, nomad/jobs/JOB, nomad/jobs/JOB/GROUP and nomad/jobs/JOB/GROUP/TASK.

    \b
    Example:  swarmlet var put nomad/jobs/shop db_password=@password.txt
    """


@var.command()
@click.argument("path")
@click.argument("items", nargs=-1, metavar="[KEY=VALUE | KEY=@FILE | KEY=- | @FILE | -]...")
@click.option(
    "--cas",
    "--check-index",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Write only over this modify index (0: only a new one).",
)
@click.option("--force", is_flag=True, help="Overwrite whatever is there.")
@namespace_option
@json_option
@click.pass_context
def put(
    ctx: click.Context,
    path: str,
    items: tuple[str, ...],
    cas: int | None,
    force: bool,
    namespace: str,
    as_json: bool,
) -> int:
    """Write a variable, all its items at once. Without --cas or --force it must be a new one.

    A value on the command line is seen by `ps` and kept in the shell's history: KEY=@FILE reads it from a file,
    KEY=- from standard input. @FILE and - alone read all items, as a JSON object.

    \b
    Example:  swarmlet var put nomad/jobs/shop db_password=@password.txt
    """
    if force and cas is not None:
        raise InvalidInput("--cas and --force contradict each other")
    body = {"Path": path, "Items": _items(items)}
    query: dict[str, Any] = {"namespace": namespace}
    if not force:
        query["cas"] = 0 if cas is None else cas
    try:
        kept = client(ctx).put(f"/v1/var/{path}", body, query)
    except Conflict as error:
        hint = "" if cas is not None else "; overwrite it with --force, or --cas INDEX"
        raise Conflict(f"{error}{hint}") from None
    kept["Items"] = sorted(kept["Items"])
    if as_json:
        say_json(kept)
        return 0
    made = "created" if kept["CreateIndex"] == kept["ModifyIndex"] else "changed"
    say(f"{made} {path} at index {kept['ModifyIndex']}: {', '.join(kept['Items'])}")
    return 0


@var.command()
@click.argument("path")
@click.option("--item", default="", metavar="KEY", help="Print this item's value and nothing else.")
@click.option("--show", is_flag=True, help="Show values.")
@namespace_option
@click.option("--json", "as_json", is_flag=True, help="Answer in JSON, with values.")
@stale_option
@click.pass_context
def get(ctx: click.Context, path: str, item: str, show: bool, namespace: str, as_json: bool) -> int:
    """Show a variable; its values with --show, --item or --json.

    \b
    Example:  swarmlet var get --item db_password nomad/jobs/shop
    """
    found = client(ctx).get(f"/v1/var/{path}", {"namespace": namespace})
    if item:
        if item not in found["Items"]:
            raise NotFound(
                f"variable {path} has no item '{item}'; it has: {', '.join(sorted(found['Items']))}"
            )
        sys.stdout.write(found["Items"][item] + ("\n" if is_terminal() else ""))
        return 0
    if as_json:
        say_json(found)
        return 0
    say(f"path          {found['Path']}")
    say(f"namespace     {found['Namespace']}")
    say(f"modify index  {found['ModifyIndex']}")
    say(f"create index  {found['CreateIndex']}")
    say()
    rows = [[key, value if show else "(hidden)"] for key, value in sorted(found["Items"].items())]
    table(["KEY", "VALUE"], rows, wide=show)
    return 0


@var.command(name="list")
@click.argument("prefix", default="")
@namespaces_option
@json_option
@wide_option
@stale_option
@click.pass_context
def list_(ctx: click.Context, prefix: str, namespace: str, as_json: bool, wide: bool) -> int:
    """List variables (never their items).

    \b
    Example:  swarmlet var list nomad/jobs
    """
    import time

    found = client(ctx).get("/v1/vars", {"prefix": prefix, "namespace": namespace})
    if as_json:
        say_json(found)
        return 0
    if not found:
        say("no variables; write one:  swarmlet var put PATH KEY=@FILE")
        return 0
    now = time.time_ns()
    rows = [
        [item["Namespace"], item["Path"], str(item["ModifyIndex"]), age(item["ModifyTime"], now)]
        for item in found
    ]
    table(["NAMESPACE", "PATH", "INDEX", "CHANGED"], rows, wide=wide)
    return 0


@var.command()
@click.argument("path")
@click.option(
    "--cas",
    "--check-index",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Delete only at this modify index.",
)
@namespace_option
@json_option
@click.pass_context
def purge(ctx: click.Context, path: str, cas: int | None, namespace: str, as_json: bool) -> int:
    """Delete a variable for good.

    \b
    Example:  swarmlet var purge nomad/jobs/shop
    """
    api = client(ctx)
    query: dict[str, Any] = {"namespace": namespace, **({} if cas is None else {"cas": cas})}
    _must_exist(api, path, namespace)
    api.delete(f"/v1/var/{path}", query)
    if as_json:
        say_json({"Path": path, "Purged": True})
    else:
        say(f"purged {path}")
    return 0


def _must_exist(api: Client, path: str, namespace: str) -> None:
    """The API deletes what is not there without a word; a person who mistyped a path wants one."""
    found = api.get("/v1/vars", {"prefix": path, "namespace": namespace})
    if not any(item["Path"] == path for item in found):
        raise NotFound(f"no variable '{path}' in namespace '{namespace or 'default'}'")


def _items(arguments: tuple[str, ...]) -> dict[str, str]:
    """The items that the arguments say. Raises InvalidInput; never quotes a value."""
    if not arguments:
        if is_terminal_input():
            raise InvalidInput(
                "no items: give KEY=VALUE, KEY=@FILE, or a JSON object on standard input with -"
            )
        arguments = (STDIN,)
    if sum(1 for argument in arguments if argument == STDIN or argument.endswith("=-")) > 1:
        raise InvalidInput("standard input can be read for one item only")
    items: dict[str, str] = {}
    for number, argument in enumerate(arguments, 1):
        key, equals, value = argument.partition("=")
        if argument == STDIN or (argument.startswith("@") and not equals):
            items |= _object(argument)
        elif not equals or not key:
            raise InvalidInput(f"argument {number} is not KEY=VALUE, KEY=@FILE, KEY=-, @FILE or -")
        elif value == STDIN:
            items[key] = _read(STDIN).removesuffix("\n")
        elif value.startswith("@"):
            items[key] = _read(value[1:]).removesuffix("\n")
        else:
            items[key] = value
    return items


def is_terminal_input() -> bool:
    """Whether standard input is a person's keyboard."""
    return sys.stdin is None or sys.stdin.isatty()


def _read(source: str) -> str:
    """A file's text, or standard input's."""
    name = "standard input" if source == STDIN else source
    try:
        if source == STDIN:
            data = sys.stdin.buffer.read(INPUT_BYTES_MAX + 1)
        else:
            with open(os.path.expanduser(source), "rb") as file:
                data = file.read(INPUT_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {name}: {error.strerror}") from error
    if len(data) > INPUT_BYTES_MAX:
        raise InvalidInput(f"{name} has more than {INPUT_BYTES_MAX:_} B")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"{name} is no text in UTF-8; encode it, for example with base64") from None


def _object(source: str) -> dict[str, str]:
    """All items from JSON: an object of texts, or a whole variable with "Items"."""
    name = "standard input" if source == STDIN else source[1:]
    try:
        value = json.loads(_read(source if source == STDIN else source[1:]))
    except ValueError as error:
        where = f": line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(f"{name} is not JSON{where}") from None
    if isinstance(value, dict) and isinstance(value.get("Items"), dict):
        value = value["Items"]
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidInput(f"{name}: expected a JSON object whose values are texts")
    return value
