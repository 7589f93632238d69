"""A data directory that no agent uses, for commands that read it (or change it) without the cluster."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from swarmlet.errors import Conflict, InvalidInput


def chosen(data_dir: str) -> Path:
    """The data directory that was named, or this machine's usual one. Raises InvalidInput where it holds no node."""
    from swarmlet.cli.cluster import default_data_dir

    path = Path(os.path.abspath(data_dir or default_data_dir()))
    if not path.is_dir():
        raise InvalidInput(f"{path}: no such directory; name the node's with --data-dir")
    return path


@contextlib.contextmanager
def at_rest(path: Path) -> Iterator[None]:
    """Nothing is changed inside, and no agent starts meanwhile. Raises Conflict while one runs on `path`."""
    try:
        lock = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        # A copy, or a backup: no agent ever ran on it here.
        yield
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
            raise Conflict(
                f"{path} is in use by the agent with pid {owner or 'unknown'}, which writes to it: what is read now "
                "may be half of something. Stop the agent first, or look at a copy"
            ) from error
        yield
    finally:
        os.close(lock)
