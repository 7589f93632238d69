"""Strings with `${…}` and `%{…}` inside, quoted or as heredocs: from tokens to a Template.

First a flat list of pieces, on which trimming (`~`) and the indentation of `<<-` work; then the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarmlet.jobspec.lexer import Token
from swarmlet.jobspec.syntax import Expression, Literal, Template, TemplateFor, TemplateIf

if TYPE_CHECKING:
    from swarmlet.jobspec.parser import Parser


@dataclass(slots=True)
class _Piece:
    """`kind` is text, value, if, else, endif, for or endfor."""

    kind: str
    start: int
    end: int
    text: str = ""
    value: Expression | None = None
    names: tuple[str, str] = ("", "")
    is_line_start: bool = False


def parse_template(parser: Parser, opening: Token) -> Expression:
    """The template after its opening quote or heredoc marker."""
    parser.deeper()
    parser.push_newlines(count=True)
    pieces, closing = _pieces(parser)
    parser.pop_newlines()
    parser.shallower()
    if opening.value == "<<-":
        _unindent(pieces)
    tree = _Tree(parser, pieces, opening.start, closing.end)
    return tree.whole()


def _pieces(parser: Parser) -> tuple[list[_Piece], Token]:
    pieces: list[_Piece] = []
    trim_next = False
    while True:
        token = parser.take()
        if token.kind in ("end_quote", "end_heredoc"):
            return pieces, token
        if token.kind == "text":
            text = token.value
            is_line_start = parser.source.text[token.start - 1] == "\n"
            if trim_next:
                text = text.lstrip()
                is_line_start = False
            trim_next = trim_next and not text
            pieces.append(_Piece("text", token.start, token.end, text, is_line_start=is_line_start))
            continue
        if token.value == "~":
            _trim_end(pieces)
        parser.push_newlines(count=False)
        piece = _directive(parser, token) if token.kind == "%{" else _value(parser, token)
        ending = parser.expect("template_end", f"}} to end this {token.kind}")
        parser.pop_newlines()
        trim_next = ending.value == "~}"
        pieces.append(piece)


def _value(parser: Parser, token: Token) -> _Piece:
    expression = parser.expression()
    return _Piece("value", token.start, expression.end, value=expression)


def _directive(parser: Parser, token: Token) -> _Piece:
    word = parser.expect("identifier", "if, else, endif, for or endfor").value
    match word:
        case "if":
            condition = parser.expression()
            return _Piece(word, token.start, condition.end, value=condition)
        case "for":
            first = parser.expect("identifier", "a name after for").value
            second = parser.expect("identifier", "a second name").value if parser.accept(",") else ""
            parser.expect_word("in")
            collection = parser.expression()
            names = (first, second) if second else ("", first)
            return _Piece(word, token.start, collection.end, value=collection, names=names)
        case "else" | "endif" | "endfor":
            return _Piece(word, token.start, token.end)
        case _:
            raise parser.source.fault(
                token.start, f"%{{ {word} is no directive; expected if, else, endif, for or endfor"
            )


def _trim_end(pieces: list[_Piece]) -> None:
    while pieces and pieces[-1].kind == "text":
        pieces[-1].text = pieces[-1].text.rstrip()
        if pieces[-1].text:
            return
        pieces.pop()


def _unindent(pieces: list[_Piece]) -> None:
    """Take from each line what all lines have in front (`<<-`); empty lines don't count."""
    indents = []
    fresh = True
    for piece in pieces:
        if piece.kind == "text":
            if piece.is_line_start and piece.text.strip(" \t") != "\n":
                indents.append(len(piece.text) - len(piece.text.lstrip(" \t")))
            fresh = piece.text.endswith("\n")
        else:
            if fresh:
                indents.append(0)
            fresh = False
    cut = min(indents, default=0)
    for piece in pieces:
        if piece.is_line_start:
            margin = len(piece.text) - len(piece.text.lstrip(" \t"))
            piece.text = piece.text[min(cut, margin) :]


class _Tree:
    """Nests the flat pieces."""

    def __init__(self, parser: Parser, pieces: list[_Piece], start: int, end: int) -> None:
        self._parser = parser
        self._pieces = pieces
        self._start = start
        self._end = end
        self._at = 0

    def whole(self) -> Template:
        """All pieces; a directive left over has no beginning."""
        template = self._until(())
        if self._at < len(self._pieces):
            piece = self._pieces[self._at]
            raise self._parser.source.fault(piece.start, f"%{{ {piece.kind} }} without its beginning")
        return template

    def _until(self, ends: tuple[str, ...]) -> Template:
        parts: list[Expression] = []
        text = ""
        text_start = self._start
        while self._at < len(self._pieces):
            piece = self._pieces[self._at]
            if piece.kind in ends or piece.kind in ("else", "endif", "endfor"):
                break
            self._at += 1
            if piece.kind == "text":
                text_start = text_start if text else piece.start
                text += piece.text
                continue
            if text:
                parts.append(Literal(text_start, piece.start, text))
                text = ""
            parts.append(self._part(piece))
        if text:
            parts.append(Literal(text_start, self._end, text))
        return Template(self._start, self._end, tuple(parts))

    def _part(self, piece: _Piece) -> Expression:
        assert piece.value is not None  # text and endings are handled by the caller
        if piece.kind == "value":
            return piece.value
        self._parser.deeper()
        if piece.kind == "if":
            then = self._until(("else", "endif"))
            otherwise = Template(piece.end, piece.end, ())
            if self._kind() == "else":
                self._at += 1
                otherwise = self._until(("endif",))
            self._close(piece, "endif")
            part: Expression = TemplateIf(piece.start, piece.end, piece.value, then, otherwise)
        else:
            body = self._until(("endfor",))
            self._close(piece, "endfor")
            part = TemplateFor(piece.start, piece.end, piece.names[0], piece.names[1], piece.value, body)
        self._parser.shallower()
        return part

    def _kind(self) -> str:
        return self._pieces[self._at].kind if self._at < len(self._pieces) else ""

    def _close(self, piece: _Piece, ending: str) -> None:
        if self._kind() != ending:
            raise self._parser.source.fault(
                piece.start, f"%{{ {piece.kind} }} has no end; expected %{{ {ending} }} later in the string"
            )
        self._at += 1
