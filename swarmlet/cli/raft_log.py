"""`swarmlet operator log …`: the Raft log of a data directory at rest; and recovery where a quorum is lost for ever."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from swarmlet.cli.at_rest import at_rest, chosen
from swarmlet.cli.connection import json_option, wide_option
from swarmlet.cli.output import is_terminal, paint, say, say_json, table
from swarmlet.cli.progress import working
from swarmlet.errors import Conflict, CorruptLog, InvalidInput, Refused, StorageError, SwarmletError

_data_dir = click.option("--data-dir", default="", metavar="DIR", help="The node's data directory.")


@click.group()
def log() -> None:
    """The Raft log of a stopped node, read from its data directory.

    \b
    Example:  swarmlet operator log verify --data-dir /var/lib/swarmlet
    """


@log.command()
@_data_dir
@click.option(
    "--entries", type=click.IntRange(0, 100_000), default=0, metavar="N", help="Show the last N entries."
)
@json_option
@wide_option
def inspect(data_dir: str, entries: int, as_json: bool, wide: bool) -> int:
    """Show segments, snapshots, term, vote and entries. Changes nothing.

    \b
    Example:  swarmlet operator log inspect --entries 20
    """
    from swarmlet.raft.inspection import Tail

    path = chosen(data_dir)
    tail = Tail(entries)
    with at_rest(path), working("reading", quiet=as_json):
        report = _read(path, tail)
    last = [_entry_facts(entry) for entry in tail.entries()] if entries else []
    if as_json:
        say_json({**_facts(report), "Entries": last})
    else:
        _show(report, last, wide=wide)
    return 1 if report.problems else 0


@log.command()
@_data_dir
@json_option
def verify(data_dir: str, as_json: bool) -> int:
    """Check every byte of the log and its snapshots. Changes nothing.

    Exit code 0: an agent would open it, and this version understands all of it.

    \b
    Example:  swarmlet operator log verify
    """
    path = chosen(data_dir)
    with at_rest(path), working("verifying", quiet=as_json):
        report = _read(path, None)
    if as_json:
        say_json(_facts(report))
    else:
        size = sum(item.used for item in report.segments) + sum(item.bytes for item in report.snapshots)
        for problem in report.problems:
            say(paint(f"! {problem}", "red"))
        if not report.problems:
            say(
                f"whole: entries {report.first_index} to {report.last_index} in {len(report.segments)} segments, "
                f"{len(report.snapshots)} snapshots, {size:_} B read"
            )
        for item in report.segments:
            if item.is_torn:
                say(f"{item.name} ends in a write that a crash cut off; opening the log removes it")
    return 1 if report.problems else 0


def _read(path: Path, tail: Any) -> Any:
    """The report; every entry and every snapshot's state is decoded too."""
    from swarmlet.raft.files import OsFiles
    from swarmlet.raft.inspection import inspect_log
    from swarmlet.raft.membership import decode_config_change
    from swarmlet.raft.message import EntryKind
    from swarmlet.state.apply import StateMachine, decode_entry

    directory = path / "raft"
    if not directory.is_dir():
        raise InvalidInput(f"{directory}: no Raft log here; name the node's data directory with --data-dir")

    def check_entry(entry: Any) -> None:
        if tail is not None:
            tail.add(entry)
        try:
            if entry.kind is not EntryKind.NORMAL:
                decode_config_change(entry)
            elif entry.data:
                decode_entry(entry.index, entry.data)
        except SwarmletError as error:
            raise CorruptLog(str(error)) from error

    def check_state(meta: Any, data: bytes) -> None:
        try:
            StateMachine.load([data])
        except StorageError as error:
            raise CorruptLog(f"the snapshot of index {meta.index}: {error}") from error

    return inspect_log(OsFiles(), str(directory), on_entry=check_entry, on_state=check_state)


def _facts(report: Any) -> dict[str, Any]:
    return {
        "Directory": report.directory,
        "ClusterID": report.cluster_id,
        "Term": report.hard_state.term,
        "Vote": str(report.hard_state.vote),
        "Commit": report.hard_state.commit,
        "FirstIndex": report.first_index,
        "LastIndex": report.last_index,
        "LastTerm": report.last_term,
        "Segments": [
            {
                "Name": item.name,
                "Bytes": item.bytes,
                "Used": item.used,
                "Batches": item.batches,
                "Entries": item.entries,
                "BaseIndex": item.base_index,
                "Torn": item.is_torn,
            }
            for item in report.segments
        ],
        "Snapshots": [
            {
                "Name": item.name,
                "Bytes": item.bytes,
                "Index": item.meta.index,
                "Term": item.meta.term,
                "Voters": [str(peer) for peer in item.meta.config.voters],
                "Learners": [str(peer) for peer in item.meta.config.learners],
            }
            for item in report.snapshots
        ],
        "Leftovers": list(report.leftovers),
        "Problems": list(report.problems),
    }


def _entry_facts(entry: Any) -> dict[str, Any]:
    from swarmlet.raft.message import EntryKind
    from swarmlet.state.apply import decode_entry

    what, actor = "", ""
    if entry.kind is not EntryKind.NORMAL:
        what = "members"
    elif not entry.data:
        what = "(new leader)"
    else:
        try:
            command = decode_entry(entry.index, entry.data)
            what, actor = type(command.body).__name__, command.actor
        except StorageError:
            what = "(not understood)"
    return {
        "Index": entry.index,
        "Term": entry.term,
        "Bytes": len(entry.data),
        "Command": what,
        "Actor": actor,
    }


def _show(report: Any, entries: list[dict[str, Any]], *, wide: bool) -> None:
    say(f"cluster  {report.cluster_id}")
    say(f"term     {report.hard_state.term}, vote for {report.hard_state.vote or 'nobody'}")
    say(
        f"entries  {report.first_index} to {report.last_index}, known to be committed to {report.hard_state.commit}"
    )
    say()
    rows = [
        [
            item.name,
            str(item.entries),
            str(item.batches),
            f"{item.used:_} of {item.bytes:_} B",
            "torn" if item.is_torn else "",
        ]
        for item in report.segments
    ]
    rows += [[item.name, f"to {item.meta.index}", "", f"{item.bytes:_} B", ""] for item in report.snapshots]
    table(["FILE", "ENTRIES", "BATCHES", "USED", ""], rows, wide=wide)
    if entries:
        say()
        table(
            ["INDEX", "TERM", "BYTES", "COMMAND", "ACTOR"],
            [[str(item[key]) for key in ("Index", "Term", "Bytes", "Command", "Actor")] for item in entries],
            wide=wide,
        )
    for name in report.leftovers:
        say(f"{name} is prepared, or left by a crash; opening the log takes care of it")
    for problem in report.problems:
        say(paint(f"! {problem}", "red"))


# Recovery.


@click.command()
@_data_dir
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
def recover(data_dir: str, yes: bool, as_json: bool) -> int:
    """Make this stopped node the only voter, where a majority is lost for ever.

    What only the lost nodes had is lost. Do it on ONE node, the one with the
    highest last index, and never start the others with their data again.

    \b
    Example:  sudo swarmlet operator raft recover --data-dir /var/lib/swarmlet
    """
    from swarmlet.ids import peer_id
    from swarmlet.joining.identity import DataDirectory, load
    from swarmlet.raft.bootstrap import complete
    from swarmlet.raft.disk_log import DiskLog
    from swarmlet.raft.recovery import configuration_at_end
    from swarmlet.raft.recovery import recover as recover_log

    path = chosen(data_dir)
    if not (path / "raft").is_dir():
        raise InvalidInput(f"{path} holds no Raft log; name the node's data directory with --data-dir")
    with DataDirectory(path) as directory:
        identity = load(directory.path)
        if identity is None:
            raise InvalidInput(f"{path} holds no node; name the node's data directory with --data-dir")
        with working("opening the log", quiet=as_json):
            raft_log = DiskLog.open(str(path / "raft"), identity.cluster)
        try:
            complete(raft_log)
            survivor = peer_id(identity.node)
            before = configuration_at_end(raft_log)
            if before.voters == (survivor,) and not before.voters_outgoing:
                raise Conflict(f"{identity.name} is the only voter already: start its agent")
            names = _names(raft_log)
            others = {*before.voters, *before.voters_outgoing} - {survivor}
            lost = sorted(names.get(peer, f"peer {peer}") for peer in others)
            if not yes:
                _confirm(identity.name, raft_log.last_index(), lost)
            done = recover_log(raft_log, survivor)
        finally:
            raft_log.close()
    facts = {
        "Node": identity.name,
        "NodeID": identity.node,
        "LastIndex": done.last_index,
        "Term": done.term,
        "EntriesKept": done.entries_kept,
        "Lost": lost,
    }
    if as_json:
        say_json(facts)
        return 0
    say(f"{identity.name} is the only voter from now on: index {done.last_index}, term {done.term}")
    if done.entries_kept:
        say(f"{done.entries_kept} entries that were not known to be committed are kept, and count")
    say(f"never start these with their data again: {', '.join(lost)}")
    say(f"start it:  swarmlet agent --data-dir {path}")
    return 0


def _names(raft_log: Any) -> dict[int, str]:
    """Names of the peers, as far as the newest snapshot and the entries behind it tell."""
    from swarmlet.raft.log import NO_LIMIT
    from swarmlet.raft.message import EntryKind
    from swarmlet.state.apply import StateMachine, decode_entry
    from swarmlet.state.command import RegisterNode

    meta, data = raft_log.read_snapshot()
    names = {int(node.peer): node.name for node in StateMachine.load([data]).snapshot().nodes()}
    for entry in raft_log.entries(meta.index + 1, raft_log.last_index() + 1, NO_LIMIT):
        if entry.kind is EntryKind.NORMAL and entry.data:
            body = decode_entry(entry.index, entry.data).body
            if isinstance(body, RegisterNode):
                names[int(body.node.peer)] = body.node.name
    return names


def _confirm(name: str, last_index: int, lost: list[str]) -> None:
    text = (
        f"{name} has everything up to index {last_index} and becomes the only voter. What only {', '.join(lost)} "
        f"had is lost; they must never start with their data again. Type the node's name to go on: "
    )
    if not (is_terminal() and sys.stdin.isatty()):
        raise InvalidInput(
            f"this makes {name} the only voter, for ever, without {', '.join(lost)}: say --yes to go on"
        )
    sys.stdout.write(text)
    sys.stdout.flush()
    if sys.stdin.readline().strip() != name:
        raise Refused("nothing was changed")
