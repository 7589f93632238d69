"""The functions that need nothing of the world: texts, lists, numbers, encodings, comparisons.

Each takes its arguments in the order of the template; a pipeline's value comes last. Raises BadValue, which names kinds
and never values.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import html
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from swarmlet.jobspec.function_text import compile_pattern
from swarmlet.jobspec.value import BadValue
from swarmlet.template.value import (
    CHARACTERS_MAX,
    equal,
    integer_of,
    is_true,
    kind_of,
    less,
    list_of,
    map_of,
    number_of,
    shown,
    sized,
    text_of,
)

#: A loop that counts further than this writes no configuration.
LOOP_MAX = 10_000
#: Width or precision of a format verb, and columns of indentation.
WIDTH_MAX = 1_000
ANY = -1


@dataclass(frozen=True, slots=True)
class Function:
    """`call` with `least` to `most` arguments (`most` below 0: any number)."""

    call: Callable[..., Any]
    least: int
    most: int = 0

    def fits(self, count: int) -> bool:
        """Whether it takes so many arguments."""
        return count >= self.least and (self.most < 0 or count <= max(self.least, self.most))


# Texts.


def _join(separator: Any, values: Any) -> str:
    return sized(text_of(separator).join(text_of(item) for item in list_of(values)))


def _split(separator: Any, text: Any) -> list[Any]:
    glue, whole = text_of(separator), text_of(text)
    return whole.split(glue) if glue else list(whole)


def _replace(old: Any, new: Any, text: Any) -> str:
    gone, put, whole = text_of(old), text_of(new), text_of(text)
    if len(whole) + whole.count(gone) * len(put) > CHARACTERS_MAX:
        raise BadValue(f"a text of more than {CHARACTERS_MAX:_} characters")
    return whole.replace(gone, put)


def _indent(width: Any, text: Any) -> str:
    columns = integer_of(width)
    if not 0 <= columns <= WIDTH_MAX:
        raise BadValue(f"expected 0 to {WIDTH_MAX} columns")
    space = " " * columns
    return sized("\n".join(space + line if line else line for line in text_of(text).split("\n")))


def _regex_replace(pattern: Any, put: Any, text: Any) -> str:
    whole = text_of(text)
    compiled = compile_pattern(text_of(pattern), whole)
    template = re.sub(r"\$(?:\{(\w+)\}|(\w+))", r"\\g<\1\2>", text_of(put).replace("\\", "\\\\"))
    try:
        return sized(compiled.sub(template, whole))
    except (re.error, IndexError) as error:
        raise BadValue(f"the replacement does not fit the pattern: {error}") from None


def _regex_match(pattern: Any, text: Any) -> bool:
    whole = text_of(text)
    return compile_pattern(text_of(pattern), whole).search(whole) is not None


def _title(text: Any) -> str:
    return re.sub(r"\b\w", lambda found: found.group().upper(), text_of(text))


# Formats.

_VERB = re.compile(r"%(%|([-+# 0]*)([0-9]*)(?:\.([0-9]*))?([a-zA-Z]))")


def _printf(pattern: Any, *arguments: Any) -> str:
    """The verbs of Go's fmt that configuration files use."""
    text, rest = text_of(pattern), list(arguments)
    pieces, at = [], 0
    for found in _VERB.finditer(text):
        pieces.append(text[at : found.start()])
        at = found.end()
        if found[1] == "%":
            pieces.append("%")
        elif not rest:
            raise BadValue(f"no argument for {found.group()}")
        else:
            pieces.append(_formatted(found, rest.pop(0)))
    if rest:
        raise BadValue(f"{len(rest)} arguments without a verb")
    return sized("".join([*pieces, text[at:]]))


def _formatted(found: re.Match[str], value: Any) -> str:
    flags, width, precision, verb = found[2], found[3], found[4], found[5]
    if any(len(part or "") > 4 or int(part or 0) > WIDTH_MAX for part in (width, precision)):
        raise BadValue(f"{found.group()} asks for more than {WIDTH_MAX} characters")
    digits = "" if precision is None else f".{precision or '0'}"
    plain = flags.replace("0", "").replace("#", "")
    match verb:
        case "s":
            return f"%{plain}{width}{digits}s" % shown(value, missing="<nil>")
        case "v":
            return f"%{plain}{width}s" % shown(value, missing="<nil>")
        case "q":
            return f"%{plain}{width}s" % json.dumps(text_of(value), ensure_ascii=False)
        case "d":
            return f"%{flags.replace('#', '')}{width}d" % integer_of(value)
        case "x" | "X" if isinstance(value, str):
            encoded = value.encode().hex()
            return encoded if verb == "x" else encoded.upper()
        case "x" | "X" | "o":
            return f"%{flags}{width}{verb}" % integer_of(value)
        case "f" | "e" | "g" | "E" | "G":
            return f"%{flags.replace('#', '')}{width}{digits}{verb}" % float(number_of(value))
        case "t":
            if not isinstance(value, bool):
                raise BadValue(f"%t expects a truth value, not {kind_of(value)}")
            return f"%{plain}{width}s" % shown(value)
        case "c":
            return chr(integer_of(value))
        case _:
            raise BadValue(f"{found.group()} is no verb; expected s, v, q, d, x, o, f, e, g, t or c")


def _print(*values: Any) -> str:
    """A space between two values neither of which is a text."""
    pieces: list[str] = []
    for number, value in enumerate(values):
        if number and not isinstance(value, str) and not isinstance(values[number - 1], str):
            pieces.append(" ")
        pieces.append(shown(value, missing="<nil>"))
    return sized("".join(pieces))


def _println(*values: Any) -> str:
    return sized(" ".join(shown(value, missing="<nil>") for value in values) + "\n")


# Lists and maps.


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict):
            value = value.get(text_of(key))
        elif isinstance(value, list | tuple | str):
            at = integer_of(key)
            if not 0 <= at < len(value):
                raise BadValue(f"index {at} of {kind_of(value)} of {len(value)}")
            value = value[at] if not isinstance(value, str) else ord(value[at])
        else:
            raise BadValue(f"{kind_of(value)} has no index")
    return value


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, list | tuple | str):
        raise BadValue(f"{kind_of(value)} cannot be sliced")
    ends = [integer_of(bound) for bound in bounds]
    first, last = (ends[0] if ends else 0), (ends[1] if len(ends) > 1 else len(value))
    if not 0 <= first <= last <= len(value):
        raise BadValue(f"slice {first}:{last} of {kind_of(value)} of {len(value)}")
    return value[first:last]


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list | tuple | dict):
        return len(value)
    raise BadValue(f"{kind_of(value)} has no length")


def _holds(values: Any, wanted: Any) -> bool:
    if isinstance(values, str):
        return text_of(wanted) in str(values)
    if isinstance(values, dict):
        return text_of(wanted) in values
    return any(equal(item, wanted) for item in list_of(values))


def _loop(*bounds: Any) -> list[Any]:
    numbers = [integer_of(bound) for bound in bounds]
    first, last = (0, numbers[0]) if len(numbers) == 1 else (numbers[0], numbers[1])
    if last - first > LOOP_MAX:
        raise BadValue(f"a loop over {last - first} numbers; at most {LOOP_MAX}")
    return list(range(first, last))


def _by_tag(services: Any) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for service in list_of(services):
        for tag in list_of(map_of(service).get("Tags")):
            found.setdefault(text_of(tag), []).append(service)
    return {tag: found[tag] for tag in sorted(found)}


def _by_key(pairs: Any) -> dict[str, Any]:
    """Pairs of key "a/b" as maps: a -> b -> pair."""
    found: dict[str, Any] = {}
    for pair in list_of(pairs):
        head, _, rest = text_of(map_of(pair).get("Key")).partition("/")
        found.setdefault(head, {})[rest] = pair
    return {head: found[head] for head in sorted(found)}


def _explode(pairs: Any) -> dict[str, Any]:
    """Pairs of key "a/b" as nested maps of values."""
    tree: dict[str, Any] = {}
    for pair in list_of(pairs):
        here = tree
        *heads, last = text_of(map_of(pair).get("Key")).split("/")
        for head in heads:
            here = here.setdefault(head, {})
            if not isinstance(here, dict):
                raise BadValue("one key is another one's folder")
        here[last] = pair.get("Value")
    return tree


def _merged(right: Any, left: Any) -> dict[str, Any]:
    return {**map_of(left), **map_of(right)}


# Encodings.


def _decoded(text: Any, decode: Callable[[bytes], bytes], what: str) -> str:
    try:
        return decode(text_of(text).encode()).decode()
    except (binascii.Error, ValueError):
        raise BadValue(f"expected a text in {what}") from None


def _padded(data: bytes) -> bytes:
    return data + b"=" * (-len(data) % 4)


def _from_json(text: Any) -> Any:
    written = text_of(text)
    if not written:
        return {}
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        raise BadValue("expected a text in JSON") from None


def _to_json(value: Any) -> str:
    # As Go's encoder does: such characters could end a script in a page.
    plain = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return sized(plain.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _to_plain_json(value: Any) -> str:
    return sized(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def _to_pretty_json(value: Any) -> str:
    return sized(json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False))


_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False", ""})


def _boolean(text: Any) -> bool:
    written = text_of(text)
    if written in _TRUE or written in _FALSE:
        return written in _TRUE
    raise BadValue("expected true or false")


def _float(text: Any) -> float:
    return float(number_of(text)) if text_of(text) else 0.0


def _integer(text: Any) -> int:
    return integer_of(text) if text_of(text) else 0


def _natural(text: Any) -> int:
    number = _integer(text)
    if number < 0:
        raise BadValue("expected a number from 0 on")
    return number


# Numbers. A pipeline's value is the left one: {{ 10 | divide 2 }} is 5.


def _divided(right: Any, left: Any) -> int | float:
    over, under = number_of(left), number_of(right)
    if under == 0:
        raise BadValue("a division by zero")
    if isinstance(over, int) and isinstance(under, int):
        quotient = abs(over) // abs(under)
        return quotient if (over < 0) == (under < 0) else -quotient
    return over / under


def _modulo(right: Any, left: Any) -> int:
    over, under = integer_of(left), integer_of(right)
    if under == 0:
        raise BadValue("a division by zero")
    rest = abs(over) % abs(under)
    return rest if over >= 0 else -rest


#: Numbers stay within what 64 bits hold: a product of products must not grow for ever.
NUMBER_MAX = 2**63


def _bounded(number: float) -> int | float:
    if abs(number) > NUMBER_MAX:
        raise BadValue("a number beyond 64 bits")
    return number


# Truth.


def _equal(first: Any, *others: Any) -> bool:
    return any(equal(first, other) for other in others)


def _digest(name: str) -> Callable[[Any], str]:
    def digest(text: Any) -> str:
        return hashlib.new(name, text_of(text).encode(), usedforsecurity=False).hexdigest()

    return digest


PURE: dict[str, Function] = {
    # Go's own; `and`, `or` are the evaluator's, which asks for no more than it needs.
    "not": Function(lambda value: not is_true(value), 1),
    "eq": Function(_equal, 2, ANY),
    "ne": Function(lambda left, right: not equal(left, right), 2),
    "lt": Function(less, 2),
    "le": Function(lambda left, right: less(left, right) or equal(left, right), 2),
    "gt": Function(lambda left, right: less(right, left), 2),
    "ge": Function(lambda left, right: less(right, left) or equal(left, right), 2),
    "len": Function(_length, 1),
    "index": Function(_index, 1, ANY),
    "slice": Function(_slice, 1, 3),
    "print": Function(_print, 0, ANY),
    "printf": Function(_printf, 1, ANY),
    "println": Function(_println, 0, ANY),
    "html": Function(lambda text: html.escape(text_of(text)), 1),
    "urlquery": Function(lambda text: quote_plus(text_of(text)), 1),
    # Texts.
    "toLower": Function(lambda text: text_of(text).lower(), 1),
    "toUpper": Function(lambda text: text_of(text).upper(), 1),
    "toTitle": Function(_title, 1),
    "trimSpace": Function(lambda text: text_of(text).strip(), 1),
    "trim": Function(lambda cut, text: text_of(text).strip(text_of(cut)), 2),
    "trimPrefix": Function(lambda cut, text: text_of(text).removeprefix(text_of(cut)), 2),
    "trimSuffix": Function(lambda cut, text: text_of(text).removesuffix(text_of(cut)), 2),
    "split": Function(_split, 2),
    "join": Function(_join, 2),
    "replaceAll": Function(_replace, 3),
    "regexReplaceAll": Function(_regex_replace, 3),
    "regexMatch": Function(_regex_match, 2),
    "indent": Function(_indent, 2),
    # Lists and maps.
    "contains": Function(lambda wanted, values: _holds(values, wanted), 2),
    "containsAll": Function(lambda wanted, values: all(_holds(values, item) for item in list_of(wanted)), 2),
    "containsAny": Function(lambda wanted, values: any(_holds(values, item) for item in list_of(wanted)), 2),
    "containsNone": Function(
        lambda wanted, values: not any(_holds(values, item) for item in list_of(wanted)), 2
    ),
    "containsNotAll": Function(
        lambda wanted, values: not all(_holds(values, item) for item in list_of(wanted)), 2
    ),
    "in": Function(_holds, 2),
    "loop": Function(_loop, 1, 2),
    "byTag": Function(_by_tag, 1),
    "byKey": Function(_by_key, 1),
    "explode": Function(_explode, 1),
    "mergeMap": Function(_merged, 2),
    # Encodings.
    "base64Encode": Function(lambda text: base64.b64encode(text_of(text).encode()).decode(), 1),
    "base64Decode": Function(
        lambda text: _decoded(text, lambda data: base64.b64decode(data, validate=True), "base64"), 1
    ),
    "base64URLEncode": Function(lambda text: base64.urlsafe_b64encode(text_of(text).encode()).decode(), 1),
    "base64URLDecode": Function(
        lambda text: _decoded(text, lambda data: base64.urlsafe_b64decode(_padded(data)), "base64"), 1
    ),
    "parseJSON": Function(_from_json, 1),
    "toJSON": Function(_to_json, 1),
    "toJSONPretty": Function(_to_pretty_json, 1),
    "toUnescapedJSON": Function(_to_plain_json, 1),
    "toUnescapedJSONPretty": Function(_to_pretty_json, 1),
    "parseBool": Function(_boolean, 1),
    "parseFloat": Function(_float, 1),
    "parseInt": Function(_integer, 1),
    "parseUint": Function(_natural, 1),
    "sha256Hex": Function(_digest("sha256"), 1),
    "md5sum": Function(_digest("md5"), 1),
    "hmacSHA256Hex": Function(
        lambda text, key: hmac.digest(text_of(key).encode(), text_of(text).encode(), "sha256").hex(), 2
    ),
    # Numbers.
    "add": Function(lambda right, left: _bounded(number_of(left) + number_of(right)), 2),
    "subtract": Function(lambda right, left: _bounded(number_of(left) - number_of(right)), 2),
    "multiply": Function(lambda right, left: _bounded(number_of(left) * number_of(right)), 2),
    "divide": Function(_divided, 2),
    "modulo": Function(_modulo, 2),
    "minimum": Function(lambda right, left: min(number_of(left), number_of(right)), 2),
    "maximum": Function(lambda right, left: max(number_of(left), number_of(right)), 2),
}
