"""Values of templates: what is true, how they print, how they compare. As Go does, where that can be seen.

Values are None, truth values, numbers, texts, lists and maps. Messages name kinds of values, never values: they may be
secrets.
"""

from __future__ import annotations

from typing import Any

from swarmlet.jobspec.value import BadValue

#: A value beyond this is no part of a configuration file.
CHARACTERS_MAX = 4 * 1024 * 1024
#: Floats at and above this print with an exponent.
_EXPONENT_FROM = 1e21
_EXPONENT_BELOW = 1e-4


def kind_of(value: Any) -> str:
    """What kind of value it is, for messages."""
    match value:
        case None:
            return "nil"
        case bool():
            return "a truth value"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list() | tuple():
            return "a list"
        case dict():
            return "a map"
        case _:
            return "no value of a template"


def is_true(value: Any) -> bool:
    """Neither false, zero, nil nor empty."""
    return bool(value)


def shown(value: Any, *, missing: str = "<no value>") -> str:
    """As `{{ value }}` prints it."""
    match value:
        case None:
            return missing
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case float():
            return _float_shown(value)
        case str():
            return str(value)
        case list() | tuple():
            return f"[{' '.join(shown(item, missing='<nil>') for item in value)}]"
        case dict():
            pairs = (f"{key}:{shown(value[key], missing='<nil>')}" for key in sorted(value))
            return f"map[{' '.join(pairs)}]"
        case _:
            raise BadValue("what cannot be printed")


def _float_shown(value: float) -> str:
    if value == int(value) and abs(value) < _EXPONENT_FROM:
        return str(int(value))
    if value and not _EXPONENT_BELOW <= abs(value) < _EXPONENT_FROM:
        return f"{value:e}"
    return repr(value)


def text_of(value: Any) -> str:
    """A text, or what a number or truth value prints as. Raises BadValue."""
    if isinstance(value, str | bool | int | float):
        return shown(value)
    raise BadValue(f"expected a text, not {kind_of(value)}")


def integer_of(value: Any) -> int:
    """A whole number, also one written as a text. Raises BadValue."""
    if isinstance(value, bool):
        raise BadValue("expected a number, not a truth value")
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value == int(value):
        return int(value)
    if isinstance(value, str):
        try:
            return int(value, 10)
        except ValueError:
            raise BadValue("expected a number, not a text that is none") from None
    raise BadValue(f"expected a whole number, not {kind_of(value)}")


def number_of(value: Any) -> int | float:
    """A number, also one written as a text. Raises BadValue."""
    if isinstance(value, float):
        return value
    try:
        return integer_of(value)
    except BadValue:
        try:
            return float(value) if isinstance(value, str) else integer_of(value)
        except ValueError:
            raise BadValue("expected a number, not a text that is none") from None


def list_of(value: Any) -> list[Any]:
    """A list; nil is an empty one. Raises BadValue."""
    if value is None:
        return []
    if isinstance(value, list | tuple):
        return list(value)
    raise BadValue(f"expected a list, not {kind_of(value)}")


def map_of(value: Any) -> dict[str, Any]:
    """A map; nil is an empty one. Raises BadValue."""
    if value is None:
        return {}
    if isinstance(value, dict):
        return value
    raise BadValue(f"expected a map, not {kind_of(value)}")


def equal(left: Any, right: Any) -> bool:
    """Of the same basic kind and the same. Raises BadValue for lists and maps."""
    for value in (left, right):
        if isinstance(value, list | tuple | dict):
            raise BadValue(f"{kind_of(value)} cannot be compared")
    if isinstance(left, bool) != isinstance(right, bool):
        return False
    return bool(left == right)


def less(left: Any, right: Any) -> bool:
    """In order. Raises BadValue where there is none."""
    if isinstance(left, str) and isinstance(right, str):
        return str(left) < str(right)
    numbers = (int, float)
    if isinstance(left, numbers) and isinstance(right, numbers):
        if isinstance(left, bool) or isinstance(right, bool):
            raise BadValue("truth values have no order")
        return left < right
    raise BadValue(f"{kind_of(left)} and {kind_of(right)} have no order")


def sized(text: str) -> str:
    """`text`, unless it is longer than any file may become. Raises BadValue."""
    if len(text) > CHARACTERS_MAX:
        raise BadValue(f"a text of more than {CHARACTERS_MAX:_} characters")
    return text
