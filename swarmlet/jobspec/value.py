"""Values of the job language: null, booleans, numbers, strings, lists and maps; conversions as in HCL.

Sets are lists without duplicates, in the order of their texts. Everything here is bounded: a few lines of a job
file can ask for more than any memory holds.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

#: null, bool, int, float, str, list, dict. `Any` because JSON-like data has no finite type.
Value = Any

#: Characters of one string, as long as a whole job may be.
STRING_CHARACTERS_MAX = 1024 * 1024
#: Elements of one list or map.
ITEMS_MAX = 65_536
#: Elements of a value counted through all levels: shared parts count each time they are seen.
WEIGHT_MAX = 1_000_000
#: Magnitude of numbers: HCL's are exact beyond this, a quantity is not.
NUMBER_MAX = 2**127
#: How deep a value may nest: more overflows the stacks of those that read it.
VALUE_DEPTH_MAX = 64


class BadValue(Exception):
    """A value is of the wrong kind or too large; the message says what was expected."""


def describe(value: Value) -> str:
    """A value's kind, for messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a map"


def to_text(value: Value) -> str:
    """Strings as they are, numbers and booleans as HCL writes them."""
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return format(Decimal(repr(value)), "f")
        case _:
            raise BadValue(f"{describe(value)} is not a string")


def to_number(value: Value) -> int | float:
    """Numbers, and strings that are written as one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        text = value.strip()
        if len(text) <= 40 and text.isascii() and "_" not in text:
            try:
                return bounded(int(text))
            except ValueError:
                pass
            try:
                return bounded(float(text))
            except ValueError:
                pass
        raise BadValue(f'"{value[:40]}" is not a number')
    raise BadValue(f"{describe(value)} is not a number")


def to_integer(value: Value) -> int:
    """Whole numbers."""
    number = to_number(value)
    if isinstance(number, float):
        raise BadValue(f"{to_text(number)} is not a whole number")
    return number


def to_boolean(value: Value) -> bool:
    """Booleans and the strings "true" and "false"."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    shown = f'"{value[:40]}"' if isinstance(value, str) else describe(value)
    raise BadValue(f"{shown} is not true or false")


def to_list(value: Value) -> list[Value]:
    """Lists."""
    if isinstance(value, list):
        return value
    raise BadValue(f"{describe(value)} is not a list")


def to_map(value: Value) -> dict[str, Value]:
    """Maps."""
    if isinstance(value, dict):
        return value
    raise BadValue(f"{describe(value)} is not a map")


def bounded(number: float) -> int | float:
    """The number, whole where it is; raises BadValue when too large."""
    if not -NUMBER_MAX <= number <= NUMBER_MAX:
        raise BadValue("the number is too large")
    if isinstance(number, float) and number.is_integer() and abs(number) < 2**53:
        return int(number)
    return number


def sized(value: Value) -> Value:
    """The value; raises BadValue when a string, list or map is too long."""
    if isinstance(value, str) and len(value) > STRING_CHARACTERS_MAX:
        raise BadValue(f"a string of {len(value):_} characters exceeds {STRING_CHARACTERS_MAX:_}")
    if isinstance(value, (list, dict)) and len(value) > ITEMS_MAX:
        raise BadValue(f"{len(value):_} elements exceed {ITEMS_MAX:_}")
    return value


def weight(value: Value) -> int:
    """Elements through all levels; raises BadValue when there are too many, or too deep, to be walked through."""
    if not isinstance(value, (list, dict, str)):
        return 1
    left = WEIGHT_MAX
    pending = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        left -= 1 + (len(item) // 16 if isinstance(item, str) else 0)
        if left < 0:
            raise BadValue(f"a value of more than {WEIGHT_MAX:_} elements")
        if isinstance(item, (list, dict)):
            if depth >= VALUE_DEPTH_MAX:
                raise BadValue(f"a value nests deeper than {VALUE_DEPTH_MAX} levels")
            children = item.values() if isinstance(item, dict) else item
            if len(item) > left:
                raise BadValue(f"a value of more than {WEIGHT_MAX:_} elements")
            pending.extend((child, depth + 1) for child in children)
    return WEIGHT_MAX - left


def equal(left: Value, right: Value) -> bool:
    """Same kind and same content; unlike Python, true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(item, right[key]) for key, item in left.items())
    return bool(left == right)


def unique(values: list[Value]) -> list[Value]:
    """Without repetitions, in the order of first appearance."""
    seen: dict[str, Value] = {}
    for value in values:
        seen.setdefault(identity(value), value)
    return list(seen.values())


def identity(value: Value) -> str:
    """A text that is equal for equal values."""
    if isinstance(value, list):
        return "[" + ",".join(map(identity, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{identity(value[key])}" for key in sorted(value)) + "}"
    return repr(value)


def as_set(values: list[Value]) -> list[Value]:
    """Without repetitions, in the order of their texts."""
    return sorted(unique(values), key=identity)
