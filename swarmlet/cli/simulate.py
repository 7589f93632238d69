"""`swarmlet simulate …`: the real scheduler on nodes that do not exist, or on a copy of the cluster's state."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from swarmlet.cli.connection import client, json_option, wide_option
from swarmlet.cli.job import read_job, refusal_shown, show_problems
from swarmlet.cli.output import say, say_json, table
from swarmlet.errors import InvalidInput, InvalidJob

if TYPE_CHECKING:
    from swarmlet.model.job import Job
    from swarmlet.model.node import Node

#: Of one invented cluster.
NODES_MAX = 20_000
#: Of one core, unless its node says how many it has.
CORE_MHZ = 1_000
_AMOUNTS = {"cpu": 4_000, "memory": 8_192, "disk": 100_000}
_KEYS = ("cpu", "cores", "memory", "disk", "zone", "datacenter", "pool", "class", "name", "volume")


@click.command()
@click.argument("files", nargs=-1, metavar="FILE...", type=click.Path(dir_okay=False))
@click.option("--nodes", "specs", multiple=True, metavar="SPEC", help="Invent nodes: COUNT[:KEY=VALUE,...].")
@click.option("--live", is_flag=True, help="Use a copy of the running cluster's state.")
@click.option("--lose", multiple=True, metavar="NODE|ZONE", help="Then let these die, all at once.")
@click.option("--var", "variables", multiple=True, metavar="NAME=VALUE", help="Set a variable.")
@click.option("--var-file", "variable_files", multiple=True, metavar="FILE", help="Variables from a file.")
@json_option
@wide_option
@click.pass_context
def simulate(
    ctx: click.Context,
    files: tuple[str, ...],
    specs: tuple[str, ...],
    live: bool,
    lose: tuple[str, ...],
    variables: tuple[str, ...],
    variable_files: tuple[str, ...],
    as_json: bool,
    wide: bool,
) -> int:
    """Where jobs would go, what would not fit, what survives a loss.

    Nothing is started. Exit code 3: something waits for room.

    \b
    Keys of SPEC: cpu (MHz), cores (unless given one per 1,000 MHz), memory
    and disk (MiB), zone, datacenter, pool, class, name, volume, attr.NAME,
    meta.NAME. Of values a|b|c each node takes the next.

    \b
    Examples:
      swarmlet simulate web.hcl --nodes '6:cpu=8000,zone=a|b|c' --lose a
      swarmlet simulate web.hcl --live --lose node-3
    """
    if live == bool(specs):
        raise InvalidInput("expected either --nodes SPEC (an invented cluster) or --live (the running one)")
    jobs = []
    for file in files:
        try:
            jobs.append(read_job(file, variables, variable_files)[0].job)
        except InvalidJob as error:
            show_problems(error, as_json=as_json)
            return 1
    if live:
        from swarmlet.jobspec.json_writing import job_to_json

        body = {"Jobs": [job_to_json(job) for job in jobs], "Lose": list(lose)}
        with refusal_shown(as_json=as_json):
            found = client(ctx).put("/v1/operator/simulate", body)
    else:
        found = _invented(jobs, specs, lose)
    if as_json:
        say_json(found)
    else:
        _show(found, wide=wide)
    last = found.get("After") or found["Groups"]
    return 3 if any(group["Placed"] < group["Wanted"] for group in last) else 0


def _invented(jobs: list[Job], specs: tuple[str, ...], lose: tuple[str, ...]) -> dict[str, Any]:
    from swarmlet.api.what_if import tried
    from swarmlet.scheduler.what_if import WhatIf

    nodes: list[Node] = []
    for spec in specs:
        nodes += parse_nodes(spec, len(nodes))
    trial = WhatIf.invented(nodes, [job.namespace for job in jobs], time.time_ns())
    return tried(trial, jobs, list(lose))


def parse_nodes(spec: str, start: int = 0) -> list[Node]:
    """The nodes that SPEC describes; names are counted from `start` + 1. Raises InvalidInput."""
    from swarmlet.ids import NodeId
    from swarmlet.model.node import DriverInfo, HostVolumeInfo, Node
    from swarmlet.model.resources import CORES_MAX, Quantity

    number, _, rest = spec.partition(":")
    if not number.isdigit() or not 0 < int(number) <= NODES_MAX:
        raise InvalidInput(f'--nodes {spec}: "{number}" is no number of nodes; expected 1 to {NODES_MAX}')
    values: dict[str, list[str]] = {}
    for pair in filter(None, rest.split(",")):
        key, equals, value = pair.partition("=")
        if not equals or not (key in _KEYS or key.startswith(("attr.", "meta."))):
            raise InvalidInput(
                f'--nodes {spec}: "{pair}"; expected KEY=VALUE with {", ".join(_KEYS)}, attr.…, meta.…'
            )
        values[key] = value.split("|")
    nodes = []
    driver = DriverInfo(is_detected=True, is_healthy=True)
    for index in range(int(number)):
        own = {key: each[index % len(each)] for key, each in values.items()}
        amounts = {
            name: _amount(spec, name, own.get(name, str(default))) for name, default in _AMOUNTS.items()
        }
        cores = _amount(spec, "cores", own.get("cores", str(max(1, amounts["cpu"] // CORE_MHZ))))
        if cores > CORES_MAX:
            raise InvalidInput(f"--nodes {spec}: cores is {cores}; expected at most {CORES_MAX}")
        attributes = {key[5:]: each for key, each in own.items() if key.startswith("attr.")}
        if "class" in own:
            attributes["node.class"] = own["class"]
        name = f"{own.get('name', 'node')}-{start + index + 1}"
        nodes.append(
            Node(
                id=NodeId(name),
                name=name,
                datacenter=own.get("datacenter", "dc1"),
                node_pool=own.get("pool", "default"),
                zone=own.get("zone", ""),
                attributes={
                    "kernel.name": "linux",
                    "cpu.arch": "amd64",
                    "unique.hostname": name,
                    **attributes,
                },
                meta={key[5:]: each for key, each in own.items() if key.startswith("meta.")},
                resources=Quantity(**amounts),
                cores=tuple(range(cores)),
                core_mhz=amounts["cpu"] // max(1, cores),
                drivers={"docker": driver, "raw_exec": driver, "exec": driver},
                host_volumes={own["volume"]: HostVolumeInfo(path="/")} if "volume" in own else {},
            )
        )
    return nodes


def _amount(spec: str, name: str, text: str) -> int:
    if not text.isdigit():
        raise InvalidInput(f'--nodes {spec}: {name} is "{text}"; expected a whole number')
    return int(text)


def _show(found: dict[str, Any], *, wide: bool) -> None:
    _groups("Where everything goes", found["Groups"], wide=wide)
    _nodes(found["Nodes"], wide=wide)
    if "After" in found:
        say()
        _groups(f"After the loss of {', '.join(found['Lost'])}", found["After"], wide=wide)
        _nodes(found["NodesAfter"], wide=wide)


def _groups(title: str, groups: list[dict[str, Any]], *, wide: bool) -> None:
    say(title)
    has_lost = any("Survived" in group for group in groups)
    table(
        ["JOB", "GROUP", "PLACED", *(["SURVIVED", "MOVED"] if has_lost else []), "NODES"],
        [
            [
                group["JobID"],
                group["TaskGroup"],
                f"{group['Placed']} of {group['Wanted']}",
                *([str(group["Survived"]), str(group["Moved"])] if has_lost else []),
                ", ".join(
                    name if count == 1 else f"{name} x{count}" for name, count in group["Nodes"].items()
                ),
            ]
            for group in groups
        ],
        wide=wide,
    )
    for group in groups:
        if group["Placed"] >= group["Wanted"]:
            continue
        name = f"{group['JobID']}.{group['TaskGroup']}"
        missing = group["Wanted"] - group["Placed"]
        say(f"  {name}: {missing} wait{'s' if missing == 1 else ''}")
        if group["Sentence"]:
            say(f"    {group['Sentence']}")
        for refusal in (group["Failure"] or {}).get("Refusals", [])[:10]:
            say(f"    {refusal['NodeName']}: {refusal['Reason']}")


def _nodes(nodes: list[dict[str, Any]], *, wide: bool) -> None:
    say()
    table(
        ["NODE", "ZONE", "STATUS", "ALLOCATIONS", "CPU", "MEMORY"],
        [
            [
                node["Name"],
                node["Zone"],
                node["Status"],
                str(node["Allocations"]),
                _share(node["CPU"]),
                _share(node["MemoryMB"]),
            ]
            for node in nodes
        ],
        wide=wide,
    )


def _share(pair: list[int]) -> str:
    used, available = pair
    return f"{100 * used // available if available else 0} %"
