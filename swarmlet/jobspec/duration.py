"""Durations as Go writes them ("1h30m", "500ms"), in nanoseconds."""

from __future__ import annotations

import re
from fractions import Fraction

from swarmlet.jobspec.value import BadValue, Value

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})(ns|us|µs|μs|ms|s|m|h)")
#: Nanoseconds in 63 bits: 292 years, Go's own limit.
DURATION_NS_MAX = 2**63 - 1


def to_duration_ns(value: Value) -> int:
    """A string such as "30s", or a whole number of nanoseconds. Raises BadValue."""
    if isinstance(value, int) and not isinstance(value, bool):
        total = value
    elif isinstance(value, str):
        total = _parse(value)
    else:
        raise BadValue('expected a duration such as "30s" or "1h30m"')
    if not 0 <= total <= DURATION_NS_MAX:
        raise BadValue("a duration is not negative and below 292 years")
    return total


def _parse(text: str) -> int:
    if text == "0":
        return 0
    total = Fraction(0)
    at = 0
    for found in _PART.finditer(text[:200]):
        if found.start() != at:
            break
        total += Fraction(found.group(1).rstrip(".")) * _UNITS_NS[found.group(2)]
        at = found.end()
    if at != len(text) or not text:
        raise BadValue(f'"{text[:40]}" is no duration; expected one such as "30s" or "1h30m"')
    return int(total)
