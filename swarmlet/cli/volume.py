"""`swarmlet volume …`: directories that are made on nodes on demand, and snapshots of them."""

from __future__ import annotations

from typing import Any

import click

from swarmlet.cli.connection import (
    client,
    json_option,
    namespace_option,
    namespaces_option,
    stale_option,
    wide_option,
)
from swarmlet.cli.output import age, say, say_json, table
from swarmlet.errors import InvalidInput

#: Copying what is in a volume takes as long as it takes; a link that says nothing for so long is broken.
COPY_SECONDS = 24 * 3600.0

node_option = click.option(
    "--node", "node", default="", metavar="NAME", help="The node (default: the one that fits best)."
)
pool_option = click.option("--node-pool", default="", metavar="NAME", help="Only nodes of this pool.")
constraint_option = click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="'ATTRIBUTE OPERAND VALUE'",
    help="Only nodes of which this is true, such as '${meta.disk} = ssd'.",
)


@click.group()
def volume() -> None:
    """Make volumes on nodes, copy and delete them.

    A job gets one with volume "data" { type = "host", source = "NAME" }, and goes where it is.

    \b
    Example:  swarmlet volume create db
    """


@volume.command()
@click.argument("name")
@node_option
@pool_option
@constraint_option
@namespace_option
@json_option
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    node: str,
    node_pool: str,
    constraints: tuple[str, ...],
    namespace: str,
    as_json: bool,
) -> int:
    """Make an empty volume. For `per_alloc` the name ends with an index: data[0], data[1].

    \b
    Example:  swarmlet volume create db --constraint '${meta.disk} = ssd'
    """
    wanted = {"Name": name, **_place(node, node_pool, constraints)}
    made = client(ctx).put("/v1/volume/host/create", {"Volume": wanted}, {"namespace": namespace})
    return _say_made(made["Volume"], as_json=as_json)


@volume.command()
@click.argument("name", default="")
@namespaces_option
@json_option
@wide_option
@stale_option
@click.pass_context
def status(ctx: click.Context, name: str, namespace: str, as_json: bool, wide: bool) -> int:
    """List volumes, or show one with its users and snapshots.

    \b
    Example:  swarmlet volume status db
    """
    api, query = client(ctx), {"namespace": namespace}
    if name:
        found = api.get(f"/v1/volume/host/{name}", query)
        if as_json:
            say_json(found)
        else:
            _say_one(found, wide=wide)
        return 0
    rows = api.get("/v1/volumes", {"type": "host", **query})
    if as_json:
        say_json(rows)
        return 0
    if not rows:
        say("no volumes; make one:  swarmlet volume create NAME")
        return 0
    table(
        ["ID", "NAME", "NAMESPACE", "NODE", "STATE", "USED BY", "AGE"],
        [
            [
                row["ID"][:8],
                row["Name"],
                row["Namespace"],
                row["NodeName"] or row["NodeID"][:8],
                row["State"],
                ", ".join(user["Name"] for user in row["Allocations"]) or "-",
                _age(row),
            ]
            for row in rows
        ],
        wide=wide,
    )
    return 0


@volume.command()
@click.argument("name")
@namespace_option
@json_option
@click.pass_context
def snapshot(ctx: click.Context, name: str, namespace: str, as_json: bool) -> int:
    """Archive a volume as it is now, on its node.

    Stop what uses it first: else files may be in the middle of a change, and the snapshot is marked so.

    \b
    Example:  swarmlet volume snapshot db
    """
    made = client(ctx).put(
        f"/v1/volume/host/{name}/snapshot", {}, {"namespace": namespace}, timeout=COPY_SECONDS
    )
    if as_json:
        say_json(made)
        return 0
    say(
        f"snapshot {made['ID'][:8]} of volume {made['VolumeName']} on node {made['NodeName']}: "
        f"{made['Entries']} files and directories, {made['SizeBytes']:_} B"
    )
    if not made["IsConsistent"]:
        say("something used the volume meanwhile: files may be in the middle of a change")
    return 0


@volume.command()
@namespaces_option
@json_option
@wide_option
@stale_option
@click.pass_context
def snapshots(ctx: click.Context, namespace: str, as_json: bool, wide: bool) -> int:
    """List snapshots of volumes.

    \b
    Example:  swarmlet volume snapshots
    """
    found = client(ctx).get("/v1/volumes/snapshots", {"namespace": namespace})
    if as_json:
        say_json(found)
    elif not found:
        say("no snapshots; make one:  swarmlet volume snapshot NAME")
    else:
        _say_snapshots(found, wide=wide)
    return 0


@volume.command()
@click.argument("snapshot_id", metavar="SNAPSHOT")
@click.argument("name", default="")
@node_option
@pool_option
@constraint_option
@namespace_option
@json_option
@click.pass_context
def restore(
    ctx: click.Context,
    snapshot_id: str,
    name: str,
    node: str,
    node_pool: str,
    constraints: tuple[str, ...],
    namespace: str,
    as_json: bool,
) -> int:
    """Make a volume of what a snapshot holds, on any node.

    \b
    Example:  swarmlet volume restore 3f2a91c0 db --node worker3
    """
    body = {"SnapshotID": snapshot_id, "Name": name, **_place(node, node_pool, constraints)}
    made = client(ctx).put("/v1/volume/host/restore", body, {"namespace": namespace}, timeout=COPY_SECONDS)
    return _say_made(made["Volume"], as_json=as_json)


@volume.command()
@click.argument("name")
@click.option("--snapshot", "is_snapshot", is_flag=True, help="NAME is a snapshot's id.")
@click.option("--force", is_flag=True, help="Also where its node cannot be reached to remove the data.")
@namespace_option
@json_option
@click.pass_context
def delete(
    ctx: click.Context, name: str, is_snapshot: bool, force: bool, namespace: str, as_json: bool
) -> int:
    """Delete an unused volume and its content, or a snapshot.

    \b
    Example:  swarmlet volume delete db
    """
    path = f"/v1/volumes/snapshot/{name}" if is_snapshot else f"/v1/volume/host/{name}/delete"
    query: dict[str, Any] = {"namespace": namespace, **({"force": "true"} if force else {})}
    done = client(ctx).delete(path, query)
    if as_json:
        say_json({"ID": name, "Deleted": True, "Left": done["Left"]})
        return 0
    say(f"deleted {'snapshot' if is_snapshot else 'volume'} {name}")
    if done["Left"]:
        say(done["Left"])
    return 0


def _place(node: str, node_pool: str, constraints: tuple[str, ...]) -> dict[str, Any]:
    return {
        "NodeID": node,
        "NodePool": node_pool,
        "Constraints": [_constraint(text) for text in constraints],
    }


def _constraint(text: str) -> dict[str, str]:
    parts = text.split(maxsplit=2)
    if len(parts) == 3:
        return {"LTarget": parts[0], "Operand": parts[1], "RTarget": parts[2]}
    if len(parts) == 2 and parts[1] in {"is_set", "is_not_set"}:
        return {"LTarget": parts[0], "Operand": parts[1], "RTarget": ""}
    raise InvalidInput(f"--constraint {text[:80]!r}: expected 'ATTRIBUTE OPERAND VALUE'")


def _say_made(made: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        say_json(made)
    else:
        say(f"volume {made['Name']} ({made['ID'][:8]}) on node {made['NodeName']}: {made['HostPath']}")
    return 0


def _say_one(found: dict[str, Any], *, wide: bool) -> None:
    say(f"id         {found['ID']}")
    say(f"name       {found['Name']}")
    say(f"namespace  {found['Namespace']}")
    say(f"node       {found['NodeName'] or found['NodeID']}")
    say(f"path       {found['HostPath']}")
    say(f"state      {found['State']}")
    if found["SnapshotID"]:
        say(f"restored   from snapshot {found['SnapshotID'][:8]}")
    users = [f"{user['Name']} ({user['ID'][:8]}, {user['ClientStatus']})" for user in found["Allocations"]]
    say(f"used by    {', '.join(users) or 'nothing'}")
    if found["Snapshots"]:
        say()
        _say_snapshots(found["Snapshots"], wide=wide)


def _say_snapshots(found: list[dict[str, Any]], *, wide: bool) -> None:
    table(
        ["SNAPSHOT", "VOLUME", "NODE", "BYTES", "FILES", "CONSISTENT", "AGE"],
        [
            [
                row["ID"][:8],
                row["VolumeName"],
                row["NodeName"] or row["NodeID"][:8],
                f"{row['SizeBytes']:_}",
                str(row["Entries"]),
                "yes" if row["IsConsistent"] else "no",
                _age(row),
            ]
            for row in found
        ],
        wide=wide,
    )


def _age(row: dict[str, Any]) -> str:
    import time

    return age(row["CreateTime"], time.time_ns())
