"""Functions on strings, formats and regular expressions."""

from __future__ import annotations

import json
import math
import re

from swarmlet.jobspec.signature import Function
from swarmlet.jobspec.value import (
    STRING_CHARACTERS_MAX,
    BadValue,
    Value,
    sized,
    to_boolean,
    to_integer,
    to_list,
    to_number,
    to_text,
)

#: Python's engine backtracks: subject length and variable repeats together may cost at most this many steps.
PATTERN_COST_MAX = 20_000_000
PATTERN_CHARACTERS_MAX = 1_000
#: The width or precision of a format verb.
FORMAT_WIDTH_MAX = 1_000

_VERB = re.compile(r"%(%|([-+# 0]*)([0-9]*)(?:\.([0-9]*))?([a-zA-Z]))")


# Plain strings ------------------------------------------------------------------------------------------


def _join(separator: Value, *lists: Value) -> str:
    texts = [to_text(item) for values in lists for item in to_list(values)]
    glue = to_text(separator)
    if sum(map(len, texts)) + len(glue) * len(texts) > STRING_CHARACTERS_MAX:
        raise BadValue(f"a string of more than {STRING_CHARACTERS_MAX:_} characters")
    return glue.join(texts)


def _split(separator: Value, text: Value) -> list[Value]:
    glue, whole = to_text(separator), to_text(text)
    return whole.split(glue) if glue else list(whole)


def _replace(text: Value, old: Value, new: Value) -> str:
    whole, gone, put = to_text(text), to_text(old), to_text(new)
    count = whole.count(gone)
    if len(whole) + count * len(put) > 2 * STRING_CHARACTERS_MAX:
        raise BadValue(f"a string of more than {STRING_CHARACTERS_MAX:_} characters")
    return whole.replace(gone, put)


def _substr(text: Value, offset: Value, length: Value) -> str:
    whole, start, count = to_text(text), to_integer(offset), to_integer(length)
    if start < 0:
        start = max(0, len(whole) + start)
    return whole[start:] if count < 0 else whole[start : start + count]


def _indent(spaces: Value, text: Value) -> str:
    width, whole = to_integer(spaces), to_text(text)
    if not 0 <= width <= FORMAT_WIDTH_MAX:
        raise BadValue(f"expected 0 to {FORMAT_WIDTH_MAX} spaces")
    return _replace(whole, "\n", "\n" + " " * width)


def _chomp(text: Value) -> str:
    return to_text(text).rstrip("\r\n")


def _title(text: Value) -> str:
    return re.sub(r"\b\w", lambda found: found.group().upper(), to_text(text))


# Formats ------------------------------------------------------------------------------------------------


def _format(pattern: Value, *arguments: Value) -> str:
    text = to_text(pattern)
    pieces: list[str] = []
    at = used = length = 0
    for found in _VERB.finditer(text):
        pieces.append(text[at : found.start()])
        at = found.end()
        if found.group(1) == "%":
            pieces.append("%")
            continue
        if used >= len(arguments):
            raise BadValue(f"no argument for {found.group()}")
        pieces.append(_verb(found, arguments[used]))
        used += 1
        length += len(pieces[-1])
        if length > STRING_CHARACTERS_MAX:
            raise BadValue(f"a string of more than {STRING_CHARACTERS_MAX:_} characters")
    if used < len(arguments):
        raise BadValue(f"{len(arguments)} arguments for {used} verbs")
    return "".join([*pieces, text[at:]])


def _verb(found: re.Match[str], value: Value) -> str:
    flags, width, precision, verb = found.group(2), found.group(3), found.group(4), found.group(5)
    if any(len(part or "") > 4 or int(part or 0) > FORMAT_WIDTH_MAX for part in (width, precision)):
        raise BadValue(f"{found.group()} asks for more than {FORMAT_WIDTH_MAX} characters")
    digits = "" if precision is None else "." + (precision or "0")
    match verb:
        case "d":
            shown = f"%{flags}{width}d" % to_integer(value)
        case "s":
            shown = f"%{flags.replace('0', '')}{width}{digits}s" % to_text(value)
        case "q":
            shown = f"%{width}s" % _quoted(to_text(value))
        case "v":
            shown = f"%{flags.replace('0', '')}{width}s" % _any(value)
        case "t":
            shown = f"%{width}s" % to_text(to_boolean(value))
        case "f" | "e" | "g" | "E" | "G":
            shown = f"%{flags}{width}{digits}{verb}" % to_number(value)
        case "x" | "X" | "o":
            shown = f"%{flags}{width}{verb}" % to_integer(value)
        case "b":
            shown = format(to_integer(value), "b").rjust(int(width or 0), "0" if "0" in flags else " ")
        case _:
            raise BadValue(f"{found.group()} is no verb; expected d, s, q, v, t, f, e, g, x, o or b")
    return shown


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _any(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, (list, dict)):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return to_text(value)


def _format_list(pattern: Value, *arguments: Value) -> list[Value]:
    lengths = {len(item) for item in arguments if isinstance(item, list)}
    if len(lengths) > 1:
        raise BadValue("expected lists of equal length")
    count = lengths.pop() if lengths else 1
    results: list[Value] = []
    total = 0
    for number in range(count):
        row = [item[number] if isinstance(item, list) else item for item in arguments]
        results.append(_format(pattern, *row))
        total += len(results[-1])
        if total > STRING_CHARACTERS_MAX:
            raise BadValue(f"strings of more than {STRING_CHARACTERS_MAX:_} characters")
    return results


# Regular expressions ------------------------------------------------------------------------------------


def compile_pattern(pattern: Value, text: str) -> re.Pattern[str]:
    """A pattern that is cheap on `text`. Raises BadValue for what could take for ever.

    A group that is repeated may not itself repeat or branch; and the product of subject length and repeats is
    bounded. Back-references and lookarounds do not exist in Nomad's language either (Go's RE2).
    """
    written = to_text(pattern)
    if len(written) > PATTERN_CHARACTERS_MAX:
        raise BadValue(f"a pattern of {len(written)} characters exceeds {PATTERN_CHARACTERS_MAX}")
    repeats = _repeats(written)
    cost = math.comb(len(text) + repeats, repeats) * max(1, len(text))
    if cost > PATTERN_COST_MAX:
        raise BadValue(f"the pattern may be slow on {len(text)} characters; expected fewer *, + and ?")
    try:
        return re.compile(written)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadValue(f"not a regular expression: {error}") from error


def _repeats(pattern: str) -> int:
    """How many variable repeats a pattern has; raises BadValue where one holds another."""
    count = 0
    busy = [False]
    closed: bool | None = None
    at = 0
    while at < len(pattern):
        character = pattern[at]
        previous, closed = closed, None
        if character == "\\":
            if pattern[at + 1 : at + 2] in "123456789" and at + 1 < len(pattern):
                raise BadValue("back-references are not supported")
            at += 1
        elif character == "[":
            at = _class_end(pattern, at)
        elif character == "(":
            if pattern.startswith(("(?=", "(?!", "(?<=", "(?<!", "(?P=", "(?("), at):
                raise BadValue("lookarounds are not supported")
            busy.append(False)
            at += 1 if pattern.startswith("(?", at) else 0
        elif character == ")" and len(busy) > 1:
            closed = busy.pop()
            busy[-1] = busy[-1] or closed
        elif character == "|":
            busy[-1] = True
        elif character in "*+?{":
            end = pattern.find("}", at) if character == "{" else at
            if previous and character != "?":
                raise BadValue("a repeated group may not repeat or branch inside")
            count += 1
            busy[-1] = True
            at = end if end >= 0 else at
            if pattern[at + 1 : at + 2] == "?":
                at += 1
        at += 1
    return count


def _class_end(pattern: str, at: int) -> int:
    """Where the character class that opens at `at` ends."""
    at += 1
    if pattern[at : at + 1] == "^":
        at += 1
    if pattern[at : at + 1] == "]":
        at += 1
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at


def _found(match: re.Match[str]) -> Value:
    named = match.groupdict()
    if named:
        return dict(named)
    return list(match.groups()) if match.groups() else match.group()


def _regex(pattern: Value, text: Value) -> Value:
    subject = to_text(text)
    match = compile_pattern(pattern, subject).search(subject)
    if match is None:
        raise BadValue("the pattern does not match")
    return _found(match)


def _regex_all(pattern: Value, text: Value) -> list[Value]:
    subject = to_text(text)
    return [_found(match) for match in compile_pattern(pattern, subject).finditer(subject)]


def _regex_replace(text: Value, pattern: Value, replacement: Value) -> str:
    subject, put = to_text(text), to_text(replacement)
    compiled = compile_pattern(pattern, subject)
    # Go writes $1, ${name}; Python \g<1>.
    template = re.sub(r"\$(?:\{(\w+)\}|(\w+))", r"\\g<\1\2>", put.replace("\\", "\\\\"))
    if (len(subject) + 1) * (len(put) + 1) > 64 * STRING_CHARACTERS_MAX:
        raise BadValue(f"a string of more than {STRING_CHARACTERS_MAX:_} characters")
    try:
        return str(sized(compiled.sub(template, subject)))
    except (re.error, IndexError) as error:
        raise BadValue(f"the replacement does not fit the pattern: {error}") from error


TEXT_FUNCTIONS: dict[str, Function] = {
    "chomp": Function(_chomp, 1, 1),
    "endswith": Function(lambda text, end: to_text(text).endswith(to_text(end)), 2, 2),
    "format": Function(_format, 1, None),
    "formatlist": Function(_format_list, 1, None),
    "indent": Function(_indent, 2, 2),
    "join": Function(_join, 2, None),
    "lower": Function(lambda text: to_text(text).lower(), 1, 1),
    "regex": Function(_regex, 2, 2),
    "regexall": Function(_regex_all, 2, 2),
    "regex_replace": Function(_regex_replace, 3, 3),
    "replace": Function(_replace, 3, 3),
    "split": Function(_split, 2, 2),
    "startswith": Function(lambda text, start: to_text(text).startswith(to_text(start)), 2, 2),
    "strcontains": Function(lambda text, part: to_text(part) in to_text(text), 2, 2),
    "strlen": Function(lambda text: len(to_text(text)), 1, 1),
    "strrev": Function(lambda text: to_text(text)[::-1], 1, 1),
    "substr": Function(_substr, 3, 3),
    "title": Function(_title, 1, 1),
    "trim": Function(lambda text, cutset: to_text(text).strip(to_text(cutset)), 2, 2),
    "trimprefix": Function(lambda text, prefix: to_text(text).removeprefix(to_text(prefix)), 2, 2),
    "trimspace": Function(lambda text: to_text(text).strip(), 1, 1),
    "trimsuffix": Function(lambda text, suffix: to_text(text).removesuffix(to_text(suffix)), 2, 2),
    "upper": Function(lambda text: to_text(text).upper(), 1, 1),
}

__all__ = ["TEXT_FUNCTIONS", "compile_pattern"]
