"""A file of an allocation, as who looks at it from outside sees it."""

from __future__ import annotations

from swarmlet.wire import Record


class FileInfo(Record):
    """One file or directory. `mode` as `ls -l` writes it; the time is wall time."""

    name: str
    is_directory: bool
    size: int
    mode: str
    modified_at_ns: int
