"""From pieces to a tree (the grammar of Go's text/template). Raises Fault at the first thing that does not fit."""

from __future__ import annotations

from swarmlet.jobspec.problem import Fault, Source
from swarmlet.template.lexer import Piece, Token, pieces
from swarmlet.template.syntax import (
    Action,
    Body,
    Call,
    Command,
    Dot,
    Field,
    Function,
    If,
    Jump,
    Literal,
    Name,
    Node,
    Operand,
    Pipeline,
    Range,
    Text,
    Tree,
)

#: Blocks in blocks, parentheses in parentheses: deeper is a mistake, and would exhaust the interpreter's stack.
DEPTH_MAX = 50
_WORDS = {"true": True, "false": False, "nil": None}
KEYWORDS = frozenset(
    {"if", "else", "end", "range", "with", "template", "define", "block", "break", "continue"}
)


def parse_tree(source: Source, left: str, right: str) -> Tree:
    """The tree of a template. Raises Fault."""
    return _Parser(source, pieces(source, left, right)).whole()


class _Parser:
    def __init__(self, source: Source, found: list[Piece]) -> None:
        self._source = source
        self._pieces = found
        self._place = 0
        self._depth = 0
        self._ranges = 0
        self._tokens: tuple[Token, ...] = ()
        self._at = 0
        #: Variables in scope; a declaration lives until the end of its block.
        self._names: list[str] = [""]
        self._defined: dict[str, Body] = {}
        self._functions: dict[str, int] = {}

    def whole(self) -> Tree:
        body, ended = self._body(())
        assert ended == "", "the whole text ends with itself"
        return Tree(body, self._defined, self._functions)

    # Blocks.

    def _body(self, ends: tuple[str, ...]) -> tuple[Body, str]:
        """Nodes up to one of `ends` (at the end of the text where there is none); which one it was."""
        nodes: list[Node] = []
        opened = self._pieces[self._place - 1].start if ends else 0
        while self._place < len(self._pieces):
            piece = self._pieces[self._place]
            self._place += 1
            if not piece.tokens:
                nodes.append(Text(piece.start, piece.text))
                continue
            self._tokens, self._at = piece.tokens, 0
            word = self._peek().value if self._peek().kind == "word" else ""
            if word in ("end", "else"):
                if word not in ends:
                    raise self._fault(piece.start, f"{{{{ {word} }}}} without a block that it belongs to")
                self._take()
                if word == "end":
                    self._finish()
                return tuple(nodes), word
            node = self._node(piece.start, word)
            if node is not None:
                nodes.append(node)
        if ends:
            raise self._fault(opened, "the block is not closed; expected {{ end }}")
        return tuple(nodes), ""

    def _node(self, start: int, word: str) -> Node | None:
        match word:
            case "if" | "with":
                self._take()
                return self._branch(start, is_with=word == "with")
            case "range":
                self._take()
                return self._range(start)
            case "define" | "block":
                self._take()
                return self._define(start, is_used=word == "block")
            case "template":
                self._take()
                return self._call(start)
            case "break" | "continue":
                self._take()
                self._finish()
                if not self._ranges:
                    raise self._fault(start, f"{{{{ {word} }}}} outside of a range")
                return Jump(start, word == "break")
            case _:
                pipeline = self._pipeline(names_max=1)
                self._finish()
                return Action(start, pipeline)

    def _branch(self, start: int, *, is_with: bool) -> If:
        self._deeper(start)
        scope = len(self._names)
        pipeline = self._pipeline(names_max=1)
        self._finish()
        then, ended = self._body(("else", "end"))
        otherwise: Body = ()
        if ended == "else":
            if self._peek().kind == "end":
                otherwise, _ = self._body(("end",))
            else:
                word = self._take()
                if word.kind != "word" or word.value not in ("if", "with"):
                    raise self._fault(word.start, "expected {{ else }}, {{ else if … }} or {{ else with … }}")
                otherwise = (self._branch(word.start, is_with=word.value == "with"),)
        del self._names[scope:]
        self._depth -= 1
        return If(start, pipeline, then, otherwise, is_with)

    def _range(self, start: int) -> Range:
        self._deeper(start)
        scope = len(self._names)
        pipeline = self._pipeline(names_max=2)
        self._finish()
        self._ranges += 1
        body, ended = self._body(("else", "end"))
        self._ranges -= 1
        otherwise: Body = ()
        if ended == "else":
            self._finish()
            otherwise, _ = self._body(("end",))
        del self._names[scope:]
        self._depth -= 1
        return Range(start, pipeline, body, otherwise)

    def _define(self, start: int, *, is_used: bool) -> Call | None:
        self._deeper(start)
        name = self._text("the name of a template")
        pipeline = self._pipeline(names_max=0) if is_used else None
        self._finish()
        names, self._names = self._names, [""]
        ranges, self._ranges = self._ranges, 0
        self._defined[name], _ = self._body(("end",))
        self._names, self._ranges = names, ranges
        self._depth -= 1
        return Call(start, name, pipeline) if is_used else None

    def _call(self, start: int) -> Call:
        name = self._text("the name of a template")
        pipeline = None if self._peek().kind == "end" else self._pipeline(names_max=0)
        self._finish()
        return Call(start, name, pipeline)

    def _deeper(self, start: int) -> None:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self._fault(start, f"more than {DEPTH_MAX} blocks or parentheses in each other")

    # Pipelines.

    def _pipeline(self, *, names_max: int) -> Pipeline:
        start = self._peek().start
        names, is_assignment = self._declared(names_max)
        commands = [self._command()]
        while self._is_mark("|"):
            self._take()
            commands.append(self._command())
            if not isinstance(commands[-1].operands[0], Function | Name | Field | Pipeline):
                raise self._fault(commands[-1].start, "expected a function after |")
        if not is_assignment:
            self._names.extend(names)
        return Pipeline(start, tuple(commands), names, is_assignment)

    def _declared(self, names_max: int) -> tuple[tuple[str, ...], bool]:
        """The names before `:=` or `=`, if that is what stands here."""
        tokens = self._tokens[self._at :]
        shapes = [("variable", ":="), ("variable", "="), ("variable", ",", "variable", ":=")]
        for shape in shapes:
            seen = tuple(
                token.value if token.kind == "mark" else token.kind for token in tokens[: len(shape)]
            )
            if seen == shape:
                names = tuple(token.value for token in tokens[: len(shape)] if token.kind == "variable")
                if len(names) > names_max or "" in names:
                    raise self._fault(tokens[0].start, "no variable can be declared here")
                if shape[-1] == "=":
                    self._known(tokens[0])
                self._at += len(shape)
                return names, shape[-1] == "="
        return (), False

    def _command(self) -> Command:
        start = self._peek().start
        operands: list[Operand] = []
        while not (self._peek().kind == "end" or self._is_mark("|") or self._is_mark(")")):
            if operands and self._peek().start == self._tokens[self._at - 1].end:
                raise self._fault(self._peek().start, "expected a space between operands")
            operands.append(self._operand())
        if not operands:
            raise self._fault(start, "a value is missing")
        return Command(start, tuple(operands))

    def _operand(self) -> Operand:
        token = self._take()
        operand: Operand
        match token.kind:
            case "number" | "text":
                operand = Literal(token.start, token.value)
            case "variable":
                self._known(token)
                operand = Name(token.start, token.value)
            case "field":
                operand = Field(token.start, Dot(token.start), token.value)
            case "word":
                operand = self._word(token)
            case "mark" if token.value == ".":
                operand = Dot(token.start)
            case "mark" if token.value == "(":
                self._deeper(token.start)
                operand = self._pipeline(names_max=0)
                closing = self._take()
                if closing.kind != "mark" or closing.value != ")":
                    raise self._fault(closing.start, "expected )")
                self._depth -= 1
            case _:
                raise self._fault(token.start, f"{token.value!r} does not belong here; expected a value")
        while self._peek().kind == "field" and self._peek().start == self._tokens[self._at - 1].end:
            following = self._take()
            operand = Field(following.start, operand, following.value)
        return operand

    def _word(self, token: Token) -> Operand:
        if token.value in _WORDS:
            return Literal(token.start, _WORDS[token.value])
        if token.value in KEYWORDS:
            raise self._fault(token.start, f"{token.value} does not belong here; expected a value")
        self._functions.setdefault(token.value, token.start)
        return Function(token.start, token.value)

    def _known(self, token: Token) -> None:
        if token.value not in self._names:
            raise self._fault(token.start, f"${token.value} is not declared")

    # Tokens.

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._tokens[self._at]
        if token.kind != "end":
            self._at += 1
        return token

    def _is_mark(self, value: str) -> bool:
        return self._peek().kind == "mark" and self._peek().value == value

    def _text(self, what: str) -> str:
        token = self._take()
        if token.kind != "text":
            raise self._fault(token.start, f'expected {what} in "quotes"')
        return str(token.value)

    def _finish(self) -> None:
        token = self._peek()
        if token.kind != "end":
            raise self._fault(
                token.start, f"{token.value!r} does not belong here; expected {token_end(self._tokens)}"
            )

    def _fault(self, offset: int, message: str) -> Fault:
        return self._source.fault(offset, message)


def token_end(tokens: tuple[Token, ...]) -> str:
    """The closing delimiter of an action."""
    return str(tokens[-1].value)
