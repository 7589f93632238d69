"""What is said of a disk that has no room: which path it was, how much is free there, how much was wanted."""

from __future__ import annotations

import errno
import os
from pathlib import Path

#: No room on the disk, or not for this user.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def free_bytes(path: str | Path) -> int | None:
    """What an ordinary process may still write where `path` is, or would be; None where that cannot be told."""
    place = os.path.abspath(path)
    while True:
        try:
            found = os.statvfs(place)
        except FileNotFoundError:
            above = os.path.dirname(place)
            if above == place:
                return None
            place = above
        except OSError:
            return None
        else:
            return found.f_bavail * found.f_frsize


def sentence(error: OSError, shown: str, at: str | Path, needed: int = 0) -> str:
    """`error` as the user is told of it: `shown` is the path by the user's name for it, `at` where it is on this machine.

    Of a full disk it says how much is free, and how much is `needed` (bytes; 0: nobody knows).
    """
    said = f"{shown}: {error.strerror or error}"
    if error.errno not in FULL:
        return said
    free = free_bytes(at)
    facts = [] if free is None else [f"{size(free)} free"]
    if needed:
        facts.append(f"{size(needed)} needed")
    return f"{said} ({', '.join(facts)})" if facts else said


def size(amount: int) -> str:
    """An amount of bytes as people say it."""
    for limit, unit, one in ((10 * 1024, "B", 1), (1024**2, "KiB", 1024), (1024**3, "MiB", 1024**2)):
        if amount < limit:
            return f"{amount / one:.1f} {unit}" if one > 1 else f"{amount} {unit}"
    return f"{amount / 1024**3:.1f} GiB"
