"""Durations on the command line: Go's syntax, as in job files."""

from __future__ import annotations

import re

from swarmlet.errors import InvalidInput

_UNITS_NS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86_400 * 10**9,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h|d)")


def nanoseconds(text: str) -> int:
    """Nanoseconds in "90s", "1h30m", "7d", "0". Raises InvalidInput."""
    if text == "0":
        return 0
    total, position = 0.0, 0
    for part in _PART.finditer(text):
        if part.start() != position:
            break
        total += float(part.group(1)) * _UNITS_NS[part.group(2)]
        position = part.end()
    if not text or position != len(text):
        raise InvalidInput(f"'{text}' is not a duration; expected for example 30s, 5m, 1h30m or 7d")
    return int(total)
