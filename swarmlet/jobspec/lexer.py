"""Characters to tokens (HCL native syntax specification, "Lexical elements").

A template's inside is lexed in a mode of its own: a stack remembers which string or heredoc the code of an
interpolation belongs to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from swarmlet.jobspec.problem import Source

#: How deep strings and interpolations may nest. People write two levels; the bound keeps the stack small.
TEMPLATE_DEPTH_MAX = 32

_IDENTIFIER = re.compile(r"[^\W\d][\w-]*")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_SPACE = re.compile(r"[ \t\r]+")
_LINE_COMMENT = re.compile(r"(?:#|//)[^\n]*")
_HEREDOC = re.compile(r"<<(-?)([^\W\d][\w-]*)[ \t]*\n")
_PUNCTUATION = re.compile(r"\.\.\.|&&|\|\||==|!=|<=|>=|=>|::|[{}\[\]()=<>!+\-*/%?:,.]")
_QUOTED_TEXT = re.compile(r'[^"\\$%\n]+')
_HEREDOC_TEXT = re.compile(r"[^$%\n]*\n|[^$%\n]+")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_UNICODE_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")


class Token(NamedTuple):
    """`kind` is the text itself for punctuation, else identifier, number, newline, eof, quote, end_quote,
    heredoc, end_heredoc, text, `${`, `%{` or template_end.
    """

    kind: str
    value: str
    start: int
    end: int


@dataclass(slots=True)
class _Mode:
    """Code (with its open braces), the inside of a quoted string, or of a heredoc (with its marker)."""

    kind: str
    start: int
    braces: int = 0
    marker: str = ""


def tokenize(source: Source) -> list[Token]:
    """All tokens, ending with `eof`. Raises Fault at the first character that fits nothing."""
    return _Lexer(source).run()


class _Lexer:
    """The state of one run."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._text = source.text
        self._at = 0
        self._tokens: list[Token] = []
        self._modes = [_Mode("code", 0)]

    def run(self) -> list[Token]:
        """Dispatch on the mode until the text ends."""
        steps = {"code": self._code, "quoted": self._quoted, "heredoc": self._heredoc}
        while self._at < len(self._text):
            steps[self._modes[-1].kind]()
        mode = self._modes[-1]
        if mode.kind == "quoted":
            raise self._source.fault(mode.start, 'this string has no end; expected a closing "')
        if mode.kind == "heredoc":
            raise self._source.fault(
                mode.start, f"this heredoc has no end; expected a line with {mode.marker} alone"
            )
        if len(self._modes) > 1:
            raise self._source.fault(mode.start, "this interpolation has no end; expected }")
        self._emit("eof", "", 0)
        return self._tokens

    def _emit(self, kind: str, value: str, length: int) -> None:
        self._tokens.append(Token(kind, value, self._at, self._at + length))
        self._at += length

    def _push(self, mode: _Mode) -> None:
        if len(self._modes) > TEMPLATE_DEPTH_MAX:
            raise self._source.fault(self._at, f"strings nest deeper than {TEMPLATE_DEPTH_MAX}; use locals")
        self._modes.append(mode)

    def _code(self) -> None:
        text, at = self._text, self._at
        character = text[at]
        if found := _SPACE.match(text, at):
            self._at = found.end()
        elif character == "\n":
            self._emit("newline", "\n", 1)
        elif found := _IDENTIFIER.match(text, at):
            self._emit("identifier", found.group(), len(found.group()))
        elif found := _LINE_COMMENT.match(text, at):
            self._at = found.end()
        elif text.startswith("/*", at):
            end = text.find("*/", at + 2)
            if end < 0:
                raise self._source.fault(at, "this comment has no end; expected */")
            self._at = end + 2
        elif character == '"':
            self._push(_Mode("quoted", at))
            self._emit("quote", '"', 1)
        elif character in "0123456789":
            self._number()
        elif text.startswith("<<", at):
            self._open_heredoc()
        elif text.startswith("~}", at) and len(self._modes) > 1 and not self._modes[-1].braces:
            self._modes.pop()
            self._emit("template_end", "~}", 2)
        elif found := _PUNCTUATION.match(text, at):
            self._punctuation(found.group())
        else:
            raise self._source.fault(at, _stray(character))

    def _number(self) -> None:
        found = _NUMBER.match(self._text, self._at)
        assert found is not None  # the caller saw a digit
        suffix = _IDENTIFIER.match(self._text, found.end())
        if suffix is not None:
            written = found.group() + suffix.group()
            raise self._source.fault(
                self._at,
                f'{written[:40]} is not a number; expected a number, or a string such as "{written[:40]}"',
            )
        after = self._text[found.end() : found.end() + 2]
        last = self._tokens[-1] if self._tokens else None
        # `1.5.2` is no number; `a.0.1.2` is an index after an index.
        is_member = last is not None and last.kind == "." and last.end == self._at
        if after[:1] == "." and after[1:].isdecimal() and not is_member:
            raise self._source.fault(
                self._at, f"{found.group()[:40]}{after} is not a number; expected one point"
            )
        self._emit("number", found.group(), len(found.group()))

    def _open_heredoc(self) -> None:
        found = _HEREDOC.match(self._text, self._at)
        if found is None:
            raise self._source.fault(
                self._at, "<< starts a heredoc; expected a marker such as EOT and then the end of the line"
            )
        self._push(_Mode("heredoc", self._at, marker=found.group(2)))
        self._emit("heredoc", "<<" + found.group(1), len(found.group()))

    def _punctuation(self, symbol: str) -> None:
        mode = self._modes[-1]
        if symbol == "{":
            mode.braces += 1
        elif symbol == "}":
            if mode.braces:
                mode.braces -= 1
            elif len(self._modes) > 1:
                self._modes.pop()
                self._emit("template_end", "}", 1)
                return
        self._emit(symbol, symbol, len(symbol))

    def _quoted(self) -> None:
        text, at = self._text, self._at
        if text[at] == '"':
            self._modes.pop()
            self._emit("end_quote", '"', 1)
        elif text[at] == "\n":
            raise self._source.fault(
                self._modes[-1].start,
                'this string has no end on its line; expected a closing ", or \\n, or a heredoc (<<EOT)',
            )
        elif text[at] == "\\":
            self._escape()
        elif not self._template():
            found = _QUOTED_TEXT.match(text, at)
            piece = found.group() if found else text[at]
            self._emit("text", piece, len(piece))

    def _escape(self) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        if following in _ESCAPES and following:
            self._emit("text", _ESCAPES[following], 2)
            return
        if found := _UNICODE_ESCAPE.match(self._text, self._at):
            number = int(found.group(1) or found.group(2), 16)
            if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF:
                raise self._source.fault(self._at, f"{found.group()} is no Unicode character")
            self._emit("text", chr(number), len(found.group()))
            return
        raise self._source.fault(
            self._at,
            f'\\{following.strip()} is no escape; expected \\n, \\r, \\t, \\", \\\\, \\uNNNN or \\UNNNNNNNN',
        )

    def _heredoc(self) -> None:
        text, at = self._text, self._at
        mode = self._modes[-1]
        if text[at - 1] == "\n":
            end = text.find("\n", at)
            line = text[at : end if end >= 0 else len(text)]
            if line.strip() == mode.marker:
                self._modes.pop()
                self._emit("end_heredoc", mode.marker, len(line))
                return
        if self._template():
            return
        found = _HEREDOC_TEXT.match(text, at)
        piece = found.group() if found else text[at]
        self._emit("text", piece, len(piece))

    def _template(self) -> bool:
        """Take `$${`, `%%{`, `${` or `%{` here, if one is."""
        text, at = self._text, self._at
        sign = text[at]
        if sign not in "$%":
            return False
        if text.startswith((f"{sign}{sign}{{"), at):
            self._emit("text", sign + "{", 3)
            return True
        if not text.startswith("{", at + 1):
            return False
        self._push(_Mode("code", at))
        trim = text[at + 2 : at + 3] == "~"
        self._emit(sign + "{", "~" if trim else "", 3 if trim else 2)
        return True


def _stray(character: str) -> str:
    """What to say about a character that starts nothing."""
    if character == "'":
        return "' does not quote; expected a string in double quotes"
    if character == ";":
        return "; separates nothing; expected each argument on a line of its own"
    if character in "&|":
        return f"{character} alone is no operator; expected {character * 2}"
    if character in "“”":
        return f'{character} is a typographic quote; expected a plain "'
    shown = character if character.isprintable() else f"U+{ord(character):04X}"
    return f"{shown} has no meaning here; expected a name, a value or a block"
