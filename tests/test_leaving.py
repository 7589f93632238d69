"""What a node that has left does with its data directory."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from swarmlet.daemon import Daemon


def _left(folder: Path) -> list[tuple[str, ...]]:
    """What is in a data directory with an identity after its node has left; without the time in the names."""
    (folder / "identity").write_text("mine")
    (folder / "raft").mkdir()
    daemon = cast("Daemon", SimpleNamespace(directory=SimpleNamespace(path=folder)))
    Daemon._retire_data(daemon)
    found = (path.relative_to(folder).parts for path in folder.rglob("*"))
    return sorted(tuple(part.partition("left-")[0] for part in parts) for parts in found)


def test_its_files_go_into_a_directory_of_their_own(tmp_path: Path) -> None:
    assert _left(tmp_path) == [("",), ("", "identity"), ("", "raft")]


def test_on_a_full_disk_they_get_other_names_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the agent stayed, out of its cluster, and would come back as the node that left."""
    make = Path.mkdir

    def full(path: Path, mode: int = 0o777) -> None:
        if path.name.startswith("left-"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        make(path, mode)

    monkeypatch.setattr(Path, "mkdir", full)
    assert _left(tmp_path) == [("identity.",), ("raft.",)]
