"""From text to pieces: plain text, and actions between delimiters as tokens with offsets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from swarmlet.jobspec.problem import Source

#: White space of the template language.
SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    |(?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][+-]?[0-9]+)?|\.[0-9]+))
    |(?P<field>\.[A-Za-z_]\w*)
    |(?P<variable>\$\w*)
    |(?P<word>[A-Za-z_]\w*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")
    |(?P<raw>`[^`]*`)
    |(?P<character>'(?:[^'\\\n]|\\.)+')
    |(?P<mark>:=|[|(),=.])""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'",
}  # fmt: skip
_UNICODE_MAX = 0x10FFFF


@dataclass(frozen=True, slots=True)
class Token:
    """`kind` is number, field, variable, word, text (a string), character, mark or end; `value` what it means."""

    kind: str
    start: int
    end: int
    value: Any


@dataclass(frozen=True, slots=True)
class Piece:
    """Plain `text`, or the `tokens` of an action (their last one is of kind end)."""

    start: int
    text: str = ""
    tokens: tuple[Token, ...] = ()


def pieces(source: Source, left: str = "{{", right: str = "}}") -> list[Piece]:
    """The text cut into pieces; the white space that `{{-` and `-}}` trim is gone. Raises Fault."""
    text, found = source.text, []
    at, is_trimming = 0, False
    while True:
        opening = text.find(left, at)
        plain = text[at : opening if opening >= 0 else len(text)]
        if is_trimming:
            plain = plain.lstrip(SPACE)
        inside = opening + len(left)
        trims_before = (
            opening >= 0 and text[inside : inside + 1] == "-" and text[inside + 1 : inside + 2] in SPACE
        )
        trims_before = trims_before and len(text) > inside + 1
        if trims_before:
            plain = plain.rstrip(SPACE)
        if plain:
            found.append(Piece(at, plain))
        if opening < 0:
            return found
        piece, at, is_trimming = _action(source, opening, inside + trims_before, right)
        if piece is not None:
            found.append(piece)


def _action(source: Source, opening: int, at: int, right: str) -> tuple[Piece | None, int, bool]:
    """One action: itself (None for a comment), where it ends, and whether it trims what follows."""
    text = source.text
    begin = at
    while begin < len(text) and text[begin] in SPACE:
        begin += 1
    if text.startswith("/*", begin):
        return _comment(source, opening, begin, right)
    tokens: list[Token] = []
    while True:
        if text.startswith(right, at):
            tokens.append(Token("end", at, at, right))
            return Piece(opening, tokens=tuple(tokens)), at + len(right), False
        if text[at : at + 1] in SPACE and text.startswith("-" + right, at + 1):
            tokens.append(Token("end", at, at, right))
            return Piece(opening, tokens=tuple(tokens)), at + 2 + len(right), True
        found = _TOKEN.match(text, at)
        if found is None:
            raise source.fault(*_stray(text, opening, at, right))
        kind = str(found.lastgroup)
        if kind == "space":
            # A dash before the closing belongs to the closing.
            at = found.end() - (1 if text.startswith("-" + right, found.end()) else 0)
            if at == found.start():
                at = found.end()
            continue
        tokens.append(_token(source, kind, found))
        at = found.end()


def _comment(source: Source, opening: int, at: int, right: str) -> tuple[None, int, bool]:
    end = source.text.find("*/", at + 2)
    if end < 0:
        raise source.fault(opening, "the comment is not closed; expected */")
    rest = source.text[end + 2 :]
    spaces = len(rest) - len(rest.lstrip(SPACE))
    after = rest[spaces:]
    if spaces and after.startswith("-" + right):
        return None, end + 2 + spaces + 1 + len(right), True
    if not after.startswith(right):
        raise source.fault(end, f"expected {right} after the comment")
    return None, end + 2 + spaces + len(right), False


def _stray(text: str, opening: int, at: int, right: str) -> tuple[int, str]:
    if at >= len(text) or text[at] == "\n":
        return opening, f"the action is not closed; expected {right}"
    if text[at] in "\"'`":
        return at, f"the string is not closed; expected another {text[at]}"
    return at, f"{text[at]!r} does not belong here"


def _token(source: Source, kind: str, found: re.Match[str]) -> Token:
    start, end, text = found.start(), found.end(), found.group()
    value: Any = text
    match kind:
        case "number":
            value = _number(source, start, text)
        case "field" | "variable":
            value = text[1:]
        case "string":
            kind, value = "text", _unescaped(source, start, text[1:-1])
        case "raw":
            kind, value = "text", text[1:-1]
        case "character":
            character = _unescaped(source, start, text[1:-1])
            if len(character) != 1:
                raise source.fault(start, "expected one character between '; a string stands between \"")
            kind, value = "number", ord(character)
        case _:
            pass
    return Token(kind, start, end, value)


def _number(source: Source, start: int, text: str) -> int | float:
    try:
        if text.lower().lstrip("+-").startswith(("0x", "0o", "0b")):
            return int(text, 0)
        return int(text) if text.replace("_", "").lstrip("+-").isdigit() else float(text)
    except ValueError:
        raise source.fault(start, f"{text[:40]} is no number") from None


def _unescaped(source: Source, start: int, text: str) -> str:
    def character(found: re.Match[str]) -> str:
        escape = found[1]
        if escape in _ESCAPES:
            return _ESCAPES[escape]
        if escape[0] in "xuU" and len(escape) > 1:
            code = int(escape[1:], 16)
        elif len(escape) == 3:
            code = int(escape, 8)
        else:
            code = _UNICODE_MAX + 1
        if code > _UNICODE_MAX:
            raise source.fault(start + 1 + found.start(), f"\\{escape} is no escape")
        return chr(code)

    return _ESCAPE.sub(character, text)
