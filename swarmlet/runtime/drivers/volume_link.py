"""Volumes for tasks that see the machine's own files: each is a symbolic link in the task's directory.

The link is where the job file says (`destination`), below the task's directory, where the task starts. Blocking.
"""

from __future__ import annotations

import os
from pathlib import Path

from swarmlet.errors import DriverError
from swarmlet.runtime.drivers.driver import TaskSpec
from swarmlet.runtime.task_directory import Place, opened_directory


def link_volumes(spec: TaskSpec) -> None:
    """Make the links, where they are not there yet. Raises DriverError."""
    task_directory = Path(spec.directories.local).parent
    for volume in spec.volumes:
        if volume.is_read_only:
            raise DriverError(
                f"volume {volume.source} is offered for reading only, which raw_exec cannot enforce; "
                "use another driver",
                temporary=False,
            )
        names = tuple(name for name in volume.destination.split("/") if name not in {"", "."})
        if not names or ".." in names or "\0" in volume.destination:
            raise DriverError(
                f"volume_mount destination {volume.destination[:200]!r} is no path below the task's directory",
                temporary=False,
            )
        try:
            _link(task_directory, names, volume.source)
        except OSError as error:
            raise DriverError(
                f"the volume cannot be linked at {volume.destination[:200]}: {error.strerror}",
                temporary=False,
            ) from error


def _link(base: Path, names: tuple[str, ...], source: str) -> None:
    *parents, last = names
    with opened_directory(Place(base, tuple(parents))) as directory:
        try:
            os.symlink(source, last, dir_fd=directory)
        except FileExistsError:
            if not _is_link_to(last, directory, source):
                raise


def _is_link_to(name: str, directory: int, source: str) -> bool:
    try:
        return os.readlink(name, dir_fd=directory) == source
    except OSError:
        return False
