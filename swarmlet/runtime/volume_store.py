"""Volumes made on demand, as directories of this node, and snapshots of them, as archives. The calls block.

Nothing here is named by a user: directories and files are called by ids. What is half done has another name, so that
a crash leaves nothing that could be taken for whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from swarmlet.errors import DiskFull, NotFound
from swarmlet.model.volume import check_volume_id
from swarmlet.runtime.tree_archive import CHUNK_BYTES, Tally, archive_tree, measure
from swarmlet.runtime.tree_transfer import FREE_BYTES_MIN, sync_disk_of

#: Below it: the volume's own directory, which tasks see. Above it nobody but the agent may enter.
CONTENT = "content"
#: Tasks in containers run as any user.
CONTENT_MODE = 0o777
ARCHIVE_SUFFIX = ".tar"


@dataclass(frozen=True, slots=True)
class Archive:
    """A snapshot that was made."""

    size: int
    sha256: str
    tally: Tally


class VolumeStore:
    """The directory `volumes` of a node's data directory."""

    def __init__(self, directory: Path) -> None:
        """It is made with the first volume."""
        self._volumes = directory
        self._snapshots = directory / "snapshots"

    def create(self, volume_id: str) -> Path:
        """An empty volume; where it is. Again: the same. Raises InvalidInput, OSError."""
        content = self._volume(volume_id) / CONTENT
        if not content.is_dir():
            self._make_private(content.parent)
            content.mkdir()
            content.chmod(CONTENT_MODE)
            sync_disk_of(content)
        return content

    def begin(self, volume_id: str) -> Path:
        """An empty directory for a volume that is to be filled. Raises InvalidInput, OSError."""
        content = self._filling(volume_id) / CONTENT
        shutil.rmtree(content.parent, ignore_errors=True)
        self._make_private(content.parent)
        content.mkdir()
        return content

    def finish(self, volume_id: str) -> Path:
        """What was begun and filled is the volume; where it is. Raises OSError."""
        volume = self._volume(volume_id)
        self._filling(volume_id).rename(volume)
        sync_disk_of(volume)
        return volume / CONTENT

    def abandon(self, volume_id: str) -> None:
        """Remove what was begun and not finished."""
        shutil.rmtree(self._filling(volume_id), ignore_errors=True)

    def remove(self, volume_id: str) -> None:
        """Remove a volume and all that is in it; one that is not there is no error. Raises OSError."""
        volume = self._volume(volume_id)
        going = volume.with_suffix(".going")
        with contextlib.suppress(FileNotFoundError):
            volume.rename(going)
        if going.exists():
            shutil.rmtree(going)

    def content(self, volume_id: str) -> Path:
        """Where a volume is. Raises NotFound."""
        content = self._volume(volume_id) / CONTENT
        if not content.is_dir():
            raise NotFound(f"this node does not hold volume {volume_id} (any more)")
        return content

    def snapshot(self, volume_id: str, snapshot_id: str) -> Archive:
        """Archive a volume as it is now. Raises NotFound, DiskFull, OSError."""
        content, path = self.content(volume_id), self._snapshot(snapshot_id)
        self._make_private(path.parent)
        needed, free = measure([("", content)]).size, shutil.disk_usage(path.parent).free
        if free < needed + FREE_BYTES_MIN:
            raise DiskFull(
                f"the snapshot needs {needed:_} B and {FREE_BYTES_MIN:_} B more, the disk of {path.parent} has {free:_} B free"
            )
        new, tally, digest, size = path.with_suffix(".new"), Tally(), hashlib.sha256(), 0
        try:
            with new.open("wb") as file:
                for chunk in archive_tree([("", content)], tally):
                    digest.update(chunk)
                    size += file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            new.rename(path)
            sync_disk_of(path.parent)
        finally:
            new.unlink(missing_ok=True)
        return Archive(size, digest.hexdigest(), tally)

    def archive(self, snapshot_id: str) -> Path:
        """Where a snapshot's archive is. Raises NotFound."""
        path = self._snapshot(snapshot_id)
        if not path.is_file():
            raise NotFound(f"this node does not hold snapshot {snapshot_id} (any more)")
        return path

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove a snapshot's archive; one that is not there is no error. Raises OSError."""
        self._snapshot(snapshot_id).unlink(missing_ok=True)

    def _make_private(self, path: Path) -> None:
        self._volumes.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)

    def _volume(self, volume_id: str) -> Path:
        check_volume_id(volume_id)
        return self._volumes / volume_id

    def _filling(self, volume_id: str) -> Path:
        return self._volume(volume_id).with_suffix(".filling")

    def _snapshot(self, snapshot_id: str) -> Path:
        check_volume_id(snapshot_id)
        return self._snapshots / f"{snapshot_id}{ARCHIVE_SUFFIX}"


def chunks_of(path: Path) -> Iterator[bytes]:
    """A file's bytes, a chunk at a time. Raises OSError."""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
