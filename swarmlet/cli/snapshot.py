"""`swarmlet operator snapshot …`: the cluster's state as a file, and back."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from swarmlet.cli.connection import client, json_option
from swarmlet.cli.output import counted, is_terminal, say, say_json, say_now, table
from swarmlet.cli.progress import PROGRESS_SECONDS, working
from swarmlet.errors import Conflict, InvalidInput, Refused, Unavailable

READ_BYTES = 256 * 1024
#: The last step of a restore, on a large cluster.
RESTORE_SECONDS = 300.0
MIB = 1024 * 1024
#: Rows that only make others faster to find.
_INNER = {"node_name", "plan_index", "port_cursor", "purging", "incoming", "incoming_piece"}


@click.group()
def snapshot() -> None:
    """Save the cluster's state to a file, look into one, bring one back.

    \b
    Example:  swarmlet operator snapshot save backup.snap
    """


class _Progress:
    """A line per second while bytes pass, for people."""

    def __init__(self, what: str, *, quiet: bool) -> None:
        self._what, self._quiet = what, quiet
        self._next = time.monotonic() + PROGRESS_SECONDS
        self._done = 0

    def add(self, size: int) -> None:
        self._done += size
        now = time.monotonic()
        if now >= self._next and not self._quiet:
            self._next = now + PROGRESS_SECONDS
            say_now(f"{self._what}: {self._done / MIB:.1f} MiB")


@snapshot.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--stale", is_flag=True, help="What this node has, where no leader answers.")
@json_option
@click.pass_context
def save(ctx: click.Context, file: str, force: bool, stale: bool, as_json: bool) -> int:
    """Save the state, everything acknowledged before included, to FILE.

    FILE holds what jobs were given, their environment included: keep it safe.

    \b
    Example:  swarmlet operator snapshot save backup.snap
    """
    from swarmlet.state.archive import ArchiveReader

    if os.path.exists(file) and not force:
        raise Conflict(f"{file} is there already: choose another name, or replace it with --force")
    reader = ArchiveReader(file)
    progress = _Progress("saving", quiet=as_json)
    temporary = file + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as output:
            os.fchmod(output.fileno(), 0o600)
            for piece in client(ctx).stream("/v1/operator/snapshot", {"stale": "true"} if stale else {}):
                reader.feed(piece)
                output.write(piece)
                progress.add(len(piece))
            header = _finished(reader)
            output.flush()
            os.fsync(output.fileno())
        os.rename(temporary, file)
        _sync_directory(file)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:
            # A write does not know what it writes to.
            error.filename = file
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    facts = {
        "File": file,
        "Index": header.index,
        "Term": header.term,
        "ClusterID": header.cluster_id,
        "Bytes": os.path.getsize(file),
    }
    if as_json:
        say_json(facts)
    else:
        say(f"saved {file}: index {header.index}, {facts['Bytes'] / MIB:.1f} MiB")
    return 0


def _finished(reader: Any) -> Any:
    """The header of what came, which has to be whole: the node may have gone in the middle."""
    try:
        return reader.finish()
    except InvalidInput as error:
        raise Unavailable(f"the node stopped sending in the middle ({error}); nothing was saved") from error


def _sync_directory(file: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(file)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@snapshot.command()
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
def inspect(file: str, as_json: bool) -> int:
    """Check FILE and show what is in it. Needs no cluster.

    \b
    Example:  swarmlet operator snapshot inspect backup.snap
    """
    with working("checking", quiet=as_json):
        header, counts = _read(file)
    size = os.path.getsize(file)
    if as_json:
        say_json({**_facts(header), "File": file, "Bytes": size, "Rows": counts})
        return 0
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(header.saved_at_ns // 10**9))
    for name, value in (
        ("cluster", header.cluster_id),
        ("index", header.index),
        ("term", header.term),
        ("saved", f"{saved} UTC on {header.node}, version {header.version}"),
        ("level", header.feature_level),
        ("voters", ", ".join(header.voters)),
        (
            "stale",
            "yes: saved without a leader, what others had acknowledged may be missing"
            if header.is_stale
            else "",
        ),
        ("size", f"{size:_} B, checksums fit"),
    ):
        if value != "":
            say(f"{name:<8} {value}")
    say()
    shown = [[name, str(count)] for name, count in counts.items() if count and name not in _INNER]
    table(["TABLE", "ROWS"], shown or [["(none)", "0"]])
    return 0


def _facts(header: Any) -> dict[str, Any]:
    return {
        "ClusterID": header.cluster_id,
        "Index": header.index,
        "Term": header.term,
        "FeatureLevel": header.feature_level,
        "SavedAtNs": header.saved_at_ns,
        "SavedOn": header.node,
        "Version": header.version,
        "Voters": list(header.voters),
        "Stale": header.is_stale,
    }


def _pieces(file: str) -> Iterator[bytes]:
    with open(file, "rb") as source:
        while data := source.read(READ_BYTES):
            yield data


def _read(file: str) -> tuple[Any, dict[str, int]]:
    """The header of a whole file and the rows of each table. Raises InvalidInput where it is damaged."""
    from swarmlet.errors import StorageError
    from swarmlet.state import snapshot_bytes
    from swarmlet.state.apply import StateMachine
    from swarmlet.state.archive import ArchiveReader

    reader = ArchiveReader(file)
    blocks = [block for data in _pieces(file) for block in reader.feed(data)]
    header = reader.finish()
    try:
        counts = snapshot_bytes.count_rows(blocks)
        allocations = sum(1 for _ in StateMachine.load(blocks).snapshot().allocations())
    except StorageError as error:
        raise InvalidInput(f"{file}: its checksums fit, but this version can't read it: {error}") from error
    rows = {name: count for name, count in counts.items() if not name.startswith("allocation")}
    return header, {**rows, "allocation": allocations}


@snapshot.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--new-cluster", is_flag=True, help="FILE is of another cluster: bring its jobs here.")
@click.option("--identity", default="", metavar="FILE", help="With it: opens the old cluster's variables.")
@click.option("--without-variables", is_flag=True, help="With it: leave the old cluster's variables behind.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def restore(
    ctx: click.Context,
    file: str,
    new_cluster: bool,
    identity: str,
    without_variables: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Put the state in FILE in the place of the cluster's.

    Jobs, namespaces and settings come back as they were; nodes, tokens and
    keys stay as they are. What was done since the save is undone: allocations
    that FILE does not know are stopped.

    \b
    Example:  swarmlet operator snapshot restore backup.snap
    """
    with working("checking", quiet=as_json):
        header, counts = _read(file)
    api = client(ctx)
    present = str(api.get("/v1/swarmlet/status")["ClusterID"])
    if header.cluster_id != present and not new_cluster:
        raise Conflict(
            f"{file} is of cluster {header.cluster_id}, this is {present}: to bring its jobs here, add --new-cluster"
        )
    if not yes:
        _ask(file, header, counts, present)
    size = os.path.getsize(file)
    query = {"foreign": "true"} if new_cluster else {}
    if without_variables:
        query["without_variables"] = "true"
    headers = {"X-Swarmlet-Cluster-Key": _cluster_key(identity, header.cluster_id)} if identity else {}
    with working("restoring", quiet=as_json):
        answered = api.upload(
            "/v1/operator/snapshot", _pieces(file), size, query, timeout=RESTORE_SECONDS, headers=headers
        )
    if as_json:
        say_json(answered)
    else:
        say(
            f"restored the state of index {answered['SnapshotIndex']} at index {answered['Index']}: "
            f"{counted(answered['Jobs'], 'job')}, {counted(answered['Allocations'], 'allocation')}; every job is being looked at"
        )
    return 0


def _cluster_key(identity: str, cluster: str) -> str:
    from pathlib import Path

    from swarmlet.joining.identity import read_cluster_key

    found, key = read_cluster_key(Path(identity))
    if found != cluster:
        raise InvalidInput(f"{identity} is of cluster {found}, the snapshot of {cluster}")
    return key.hex()


def _ask(file: str, header: Any, counts: dict[str, int], present: str) -> None:
    saved = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(header.saved_at_ns // 10**9))
    question = f"{file} (saved {saved} UTC, {counts['job']} jobs) replaces the state of cluster {present}. Go on? [y/N] "
    if not (is_terminal() and sys.stdin.isatty()):
        raise InvalidInput(f"this replaces the state of cluster {present}: say --yes to go on")
    sys.stdout.write(question)
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise Refused("nothing was changed")
