"""The functions of the sprig library that job files use, under the names that they have there: `sprig_…`."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from swarmlet.jobspec.value import BadValue
from swarmlet.template.functions import ANY, PURE, Function
from swarmlet.template.value import (
    equal,
    integer_of,
    is_true,
    kind_of,
    list_of,
    map_of,
    shown,
    sized,
    text_of,
)


def _truncated(length: Any, text: Any) -> str:
    count, whole = integer_of(length), text_of(text)
    return whole[:count] if count >= 0 else whole[count:]


def _dictionary(*pairs: Any) -> dict[str, Any]:
    keys = [text_of(key) for key in pairs[::2]]
    values = [*pairs[1::2], ""]
    return dict(zip(keys, values, strict=False))


def _set(target: Any, key: Any, value: Any) -> dict[str, Any]:
    return {**map_of(target), text_of(key): value}


def _quoted(*values: Any) -> str:
    return " ".join(json.dumps(shown(value), ensure_ascii=False) for value in values if value is not None)


def _unique(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in list_of(values):
        if not any(equal(value, other) for other in found):
            found.append(value)
    return found


def _end(values: Any, at: int) -> Any:
    found = list_of(values)
    return found[at] if found else None


def _joined(separator: Any, values: Any) -> str:
    items = list_of(values) if not isinstance(values, str) else [values]
    return sized(text_of(separator).join(shown(item) for item in items))


def _number(value: Any) -> int:
    try:
        return integer_of(value)
    except BadValue:
        return 0


def _summed(*values: Any) -> int:
    return sum(integer_of(value) for value in values)


def _indented(width: Any, text: Any) -> str:
    return str(PURE["indent"].call(width, text))


SPRIG: dict[str, Function] = {
    f"sprig_{name}": function
    for name, function in {
        # Texts.
        "lower": Function(lambda text: text_of(text).lower(), 1),
        "upper": Function(lambda text: text_of(text).upper(), 1),
        "trim": Function(lambda text: text_of(text).strip(), 1),
        "trimAll": Function(lambda cut, text: text_of(text).strip(text_of(cut)), 2),
        "trimPrefix": Function(lambda cut, text: text_of(text).removeprefix(text_of(cut)), 2),
        "trimSuffix": Function(lambda cut, text: text_of(text).removesuffix(text_of(cut)), 2),
        "trunc": Function(_truncated, 2),
        "replace": PURE["replaceAll"],
        "contains": Function(lambda part, text: text_of(part) in text_of(text), 2),
        "hasPrefix": Function(lambda part, text: text_of(text).startswith(text_of(part)), 2),
        "hasSuffix": Function(lambda part, text: text_of(text).endswith(text_of(part)), 2),
        "quote": Function(_quoted, 0, ANY),
        "squote": Function(lambda *values: " ".join(f"'{shown(value)}'" for value in values), 0, ANY),
        "indent": Function(_indented, 2),
        "nindent": Function(lambda width, text: "\n" + _indented(width, text), 2),
        "repeat": Function(lambda count, text: sized(text_of(text) * min(integer_of(count), 10_000)), 2),
        "splitList": PURE["split"],
        "join": Function(_joined, 2),
        "toString": Function(shown, 1),
        # Choices.
        "default": Function(lambda default, value: value if is_true(value) else default, 2),
        "empty": Function(lambda value: not is_true(value), 1),
        "coalesce": Function(
            lambda *values: next((value for value in values if is_true(value)), None), 0, ANY
        ),
        "ternary": Function(lambda yes, no, test: yes if is_true(test) else no, 3),
        # Lists and maps.
        "list": Function(lambda *values: list(values), 0, ANY),
        "append": Function(lambda values, value: [*list_of(values), value], 2),
        "prepend": Function(lambda values, value: [value, *list_of(values)], 2),
        "concat": Function(lambda *lists: [item for values in lists for item in list_of(values)], 0, ANY),
        "first": Function(lambda values: _end(values, 0), 1),
        "last": Function(lambda values: _end(values, -1), 1),
        "rest": Function(lambda values: list_of(values)[1:], 1),
        "has": Function(lambda value, values: any(equal(value, item) for item in list_of(values)), 2),
        "uniq": Function(_unique, 1),
        "sortAlpha": Function(lambda values: sorted(text_of(value) for value in list_of(values)), 1),
        "dict": Function(_dictionary, 0, ANY),
        "set": Function(_set, 3),
        "get": Function(lambda target, key: map_of(target).get(text_of(key), ""), 2),
        "hasKey": Function(lambda target, key: text_of(key) in map_of(target), 2),
        "keys": Function(lambda target: sorted(map_of(target)), 1),
        "values": Function(lambda target: [target[key] for key in sorted(map_of(target))], 1),
        # Encodings.
        "b64enc": PURE["base64Encode"],
        "b64dec": PURE["base64Decode"],
        "toJson": PURE["toJSON"],
        "fromJson": PURE["parseJSON"],
        "toPrettyJson": PURE["toJSONPretty"],
        "sha256sum": PURE["sha256Hex"],
        "sha1sum": Function(
            lambda text: hashlib.sha1(text_of(text).encode(), usedforsecurity=False).hexdigest(), 1
        ),
        "kindOf": Function(kind_of, 1),
        # Numbers.
        "int": Function(_number, 1),
        "add": Function(_summed, 1, ANY),
        "add1": Function(lambda value: integer_of(value) + 1, 1),
        "sub": Function(lambda left, right: integer_of(left) - integer_of(right), 2),
        "mul": PURE["multiply"],
        "div": Function(lambda left, right: PURE["divide"].call(right, left), 2),
        "mod": Function(lambda left, right: PURE["modulo"].call(right, left), 2),
        "max": Function(lambda *values: max(integer_of(value) for value in values), 1, ANY),
        "min": Function(lambda *values: min(integer_of(value) for value in values), 1, ANY),
        "until": PURE["loop"],
    }.items()
}
