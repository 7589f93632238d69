"""`swarmlet job logs` and `swarmlet logs`: what all tasks of a job write, in one stream."""

from __future__ import annotations

import base64
import json
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.connection import client, find_job, stale_option
from swarmlet.cli.output import paint, say
from swarmlet.errors import NotFound

#: One allocation keeps its colour, whatever else is in the stream and whenever it is looked at.
COLORS = (
    *("cyan", "yellow", "green", "magenta", "blue", "red"),
    *("bright cyan", "bright yellow", "bright green", "bright magenta", "bright blue", "bright red"),
)
#: Prefixes line up as far as they are no longer than this.
PREFIX_WIDTH_MAX = 40


@click.command(name="logs")
@click.argument("name", metavar="JOB")
@click.argument("group", required=False, default="")
@click.option("-f", "--follow", is_flag=True, help="Go on as the tasks write; new allocations join.")
@click.option("--task", default="", help="Only this task of each allocation.")
@click.option("--stdout", "is_stdout", is_flag=True, help="Only standard output.")
@click.option("--stderr", "is_stderr", is_flag=True, help="Only standard error.")
@click.option(
    "-n",
    "--tail",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Only the last N lines of each that runs already.",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object per line.")
@stale_option
@click.pass_context
def job_logs(
    ctx: click.Context,
    name: str,
    group: str,
    follow: bool,
    task: str,
    is_stdout: bool,
    is_stderr: bool,
    tail: int | None,
    as_json: bool,
) -> int:
    """The logs of all tasks of a job (or of one GROUP), on all nodes, in one stream.

    Each line begins with where it came from: group[index]/task and node. Following ends when the job has ended;
    of batch work, what has ended already is shown as well.

    \b
    Examples:
      swarmlet job logs -f --tail 10 web
      swarmlet job logs --stderr --task server web frontend
    """
    api = client(ctx)
    kind = "" if is_stdout == is_stderr else "stdout" if is_stdout else "stderr"
    try:
        job = find_job(api, name)
    except NotFound:
        if group or task:
            raise
        try:
            return _one_allocation(ctx, name, follow=follow, kind=kind, tail=tail)
        except NotFound:
            raise NotFound(f"no job '{name}', and no allocation whose id begins with that") from None
    query = {
        "follow": "true" if follow else "",
        "tail": "" if tail is None else tail,
        "type": kind,
        "group": group,
        "task": task,
    }
    has_any = False
    printed = _Printed(as_json=as_json)
    for frame in _frames(api, f"/v1/swarmlet/job/{job['ID']}/logs", query):
        has_any = printed.take(frame) or has_any
    if not has_any and not as_json:
        is_over = job["Status"] == "dead"
        say(
            f"{job['ID']} has ended; what is left of its logs: swarmlet alloc logs ALLOC"
            if is_over
            else f"{job['ID']} has no running tasks"
        )
    return 1 if printed.is_failed else 0


def _one_allocation(ctx: click.Context, name: str, *, follow: bool, kind: str, tail: int | None) -> int:
    """An allocation's id is what people have in their clipboard."""
    from swarmlet.cli.alloc import logs

    return int(
        ctx.invoke(logs, identifier=name, task=None, follow=follow, stderr=kind == "stderr", tail=tail)
    )


def _frames(api: Client, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
    rest = b""
    for chunk in api.stream(path, query):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield json.loads(line)


class _Printed:
    """Writes the stream, line by line."""

    def __init__(self, *, as_json: bool) -> None:
        self.is_failed = False
        self._as_json = as_json
        self._sources: dict[int, dict[str, Any]] = {}
        self._width = 0

    def take(self, frame: dict[str, Any]) -> bool:
        """One frame; whether it is about a log at all."""
        number = frame.get("Source")
        if number is None:
            return False
        if "AllocID" in frame:
            self._sources[number] = frame
            self._width = min(max(self._width, len(_label(frame))), PREFIX_WIDTH_MAX)
        elif "Data" in frame:
            data = base64.b64decode(frame["Data"])
            self._write(self._sources[number], data)
        else:
            source = self._sources.pop(number)
            if frame["Reason"]:
                self.is_failed = True
                sys.stdout.flush()
                sys.stderr.write(f"{_label(source)} | {frame['Reason']}\n")
        return True

    def _write(self, source: dict[str, Any], data: bytes) -> None:
        lines = data.removesuffix(b"\n").split(b"\n")
        out = sys.stdout.buffer
        if self._as_json:
            shown = {key: source[key] for key in ("AllocID", "Group", "Index", "Node", "Task", "Type")}
            for line in lines:
                text = line.decode(errors="replace")
                out.write(json.dumps({**shown, "Line": text}).encode() + b"\n")
        else:
            prefix = _prefix(source, self._width)
            out.write(b"".join(prefix + line + b"\n" for line in lines))
        out.flush()


def _label(source: dict[str, Any]) -> str:
    return f"{source['Group']}[{source['Index']}]/{source['Task']} {source['Node']}"


def _prefix(source: dict[str, Any], width: int) -> bytes:
    color = COLORS[zlib.crc32(source["AllocID"].encode()) % len(COLORS)]
    return (paint(_label(source).ljust(width), color) + " | ").encode()
