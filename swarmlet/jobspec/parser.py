"""Tokens to the syntax tree: bodies by recursive descent, operators by precedence climbing (Pratt).

Newlines end an argument; inside parentheses, brackets and interpolations they are nothing (HCL native syntax
specification, "Structural elements").
"""

from __future__ import annotations

from swarmlet.jobspec.lexer import Token, tokenize
from swarmlet.jobspec.problem import Fault, Source
from swarmlet.jobspec.syntax import (
    Attribute,
    Binary,
    Block,
    Body,
    Call,
    Conditional,
    Expression,
    ForExpression,
    GetAttribute,
    Index,
    ListExpression,
    Literal,
    ObjectExpression,
    Splat,
    SplatItem,
    Unary,
    Variable,
)
from swarmlet.jobspec.template import parse_template

#: How deep blocks, brackets and parentheses may nest. A job file needs about ten; Python's stack holds 1,000 frames.
DEPTH_MAX = 40
#: Digits of a number; more is no quantity of anything.
DIGITS_MAX = 40

PRECEDENCE = {
    "||": 1,
    "&&": 2,
    "==": 3,
    "!=": 3,
    "<": 4,
    ">": 4,
    "<=": 4,
    ">=": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
}
_LITERALS = {"true": True, "false": False, "null": None}


def parse_body(source: Source) -> Body:
    """The whole file as a body. Raises Fault at the first error."""
    return Parser(source).file()


def parse_expression(source: Source) -> Expression:
    """The whole text as one expression (a `-var` value). Raises Fault at the first error."""
    return Parser(source).lone_expression()


class Parser:
    """The state of one run over the tokens of a source."""

    def __init__(self, source: Source) -> None:
        """Lex everything first: job files are small."""
        self.source = source
        self._tokens = tokenize(source)
        self._at = 0
        self._depth = 0
        #: Whether newlines count, innermost last.
        self._newlines = [True]

    # Tokens ---------------------------------------------------------------------------------------------

    def peek(self) -> Token:
        """The next token that counts."""
        while self._tokens[self._at].kind == "newline" and not self._newlines[-1]:
            self._at += 1
        return self._tokens[self._at]

    def take(self) -> Token:
        """The next token that counts, consumed; `eof` is never consumed."""
        token = self.peek()
        if token.kind != "eof":
            self._at += 1
        return token

    def accept(self, kind: str) -> Token | None:
        """The next token if it is of this kind."""
        return self.take() if self.peek().kind == kind else None

    def expect(self, kind: str, what: str) -> Token:
        """The next token, which must be of this kind."""
        if self.peek().kind != kind:
            raise self.unexpected(self.peek(), what)
        return self.take()

    def unexpected(self, token: Token, expected: str) -> Fault:
        """`found X; expected Y` at the token."""
        return self.source.fault(token.start, f"found {describe(token)}; expected {expected}")

    def push_newlines(self, *, count: bool) -> None:
        """From here on newlines count, or not."""
        self._newlines.append(count)

    def pop_newlines(self) -> None:
        """As before the last push."""
        self._newlines.pop()

    def skip_newlines(self) -> None:
        """Go past empty lines."""
        while self._tokens[self._at].kind == "newline":
            self._at += 1

    def deeper(self) -> None:
        """Count one level of nesting."""
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise self.source.fault(self.peek().start, f"nested deeper than {DEPTH_MAX} levels; use locals")

    def shallower(self) -> None:
        """Leave one level of nesting."""
        self._depth -= 1

    # Structure ------------------------------------------------------------------------------------------

    def file(self) -> Body:
        """A body up to the end of the text."""
        return self._lines("eof", "")

    def lone_expression(self) -> Expression:
        """One expression and nothing else."""
        self.push_newlines(count=False)
        expression = self.expression()
        if self.peek().kind != "eof":
            raise self.unexpected(self.peek(), "the end of the value")
        return expression

    def _lines(self, end: str, name: str) -> Body:
        """Arguments and blocks, a line each, up to the token `end`, which stays."""
        start = self.peek().start
        attributes: dict[str, Attribute] = {}
        blocks: list[Block] = []
        while True:
            self.skip_newlines()
            token = self.peek()
            if token.kind == end:
                return Body(start, token.start, attributes, tuple(blocks))
            if token.kind == "eof":
                raise self.unexpected(token, f"}} for the block {name}")
            item = self._item(token)
            if isinstance(item, Attribute):
                self._add(attributes, item)
            else:
                blocks.append(item)
            if self.peek().kind not in ("newline", "eof"):
                raise self.unexpected(self.peek(), f"the end of the line after {_describe_item(item)}")

    def _add(self, attributes: dict[str, Attribute], item: Attribute) -> None:
        if item.name in attributes:
            first = self.source.problem(attributes[item.name].start, "").line
            raise self.source.fault(
                item.start, f"{item.name} is set twice, first on line {first}; expected it once"
            )
        attributes[item.name] = item

    def _item(self, token: Token) -> Attribute | Block:
        if token.kind == "quote":
            raise self.source.fault(
                token.start,
                "an argument's name is not quoted in HCL2 (this is HCL1); expected a bare name, "
                'or a map: env = { "a.b" = "c" }',
            )
        if token.kind != "identifier":
            raise self.unexpected(token, "an argument (name = value) or a block (name { … })")
        name = self.take()
        following = self.peek()
        if following.kind == "=":
            self.take()
            value = self.expression()
            return Attribute(name.start, value.end, name.value, value)
        if following.kind in ("quote", "identifier", "{"):
            return self._block(name)
        if following.kind == ":":
            raise self.source.fault(
                following.start, f"found :; expected = between {name.value} and its value"
            )
        raise self.unexpected(following, f"= or {{ after {name.value}")

    def _block(self, name: Token) -> Block:
        labels: list[str] = []
        starts: list[int] = []
        while self.peek().kind != "{":
            token = self.take()
            starts.append(token.start)
            if token.kind == "identifier":
                labels.append(token.value)
            elif token.kind == "quote":
                labels.append(self._plain_string(token))
            else:
                raise self.unexpected(token, f"{{ or a label in quotes after {name.value}")
        self.take()
        self.deeper()
        body = self._block_body(name)
        self.shallower()
        closing = self.expect("}", f"}} for the block {name.value}")
        return Block(name.start, closing.end, name.value, tuple(labels), tuple(starts), body)

    def _block_body(self, name: Token) -> Body:
        """Either lines, or on one line nothing or a single argument."""
        if self.peek().kind == "newline":
            line = self.source.problem(name.start, "").line
            return self._lines("}", f"{name.value} of line {line}")
        start = self.peek()
        if start.kind == "}":
            return Body(start.start, start.start, {}, ())
        if start.kind == "eof":
            raise self.unexpected(start, f"}} for the block {name.value}")
        item = self._item(start)
        if isinstance(item, Block):
            raise self.source.fault(
                item.start,
                f"a block on one line holds one argument and no block; expected a new line before {item.kind}",
            )
        if self.peek().kind != "}":
            raise self.unexpected(
                self.peek(), "}: a block on one line holds one argument; put each on a line of its own"
            )
        return Body(item.start, item.end, {item.name: item}, ())

    def _plain_string(self, opening: Token) -> str:
        """A quoted string without interpolation (a label)."""
        pieces = []
        while (token := self.take()).kind == "text":
            pieces.append(token.value)
        if token.kind != "end_quote":
            raise self.source.fault(token.start, "a label is plain text; expected no ${…} here")
        if not pieces:
            raise self.source.fault(opening.start, "an empty label; expected a name")
        return "".join(pieces)

    # Expressions ----------------------------------------------------------------------------------------

    def expression(self) -> Expression:
        """A conditional or anything that binds tighter."""
        self.deeper()
        condition = self._operation(1)
        if self.accept("?"):
            then = self.expression()
            self.expect(":", "the : of the conditional")
            otherwise = self.expression()
            condition = Conditional(condition.start, otherwise.end, condition, then, otherwise)
        self.shallower()
        return condition

    def _operation(self, minimum: int) -> Expression:
        left = self._unary()
        while (power := PRECEDENCE.get(self.peek().kind, 0)) >= minimum:
            operator = self.take()
            right = self._operation(power + 1)
            left = Binary(left.start, right.end, operator.kind, operator.start, left, right)
        return left

    def _unary(self) -> Expression:
        operators = []
        while self.peek().kind in ("-", "!"):
            operators.append(self.take())
            if len(operators) > DEPTH_MAX:
                raise self.source.fault(operators[-1].start, f"more than {DEPTH_MAX} signs in a row")
        operand = self._postfix()
        for operator in reversed(operators):
            operand = Unary(operator.start, operand.end, operator.kind, operand)
        return operand

    def _postfix(self) -> Expression:
        value = self._primary()
        while True:
            kind = self.peek().kind
            if kind == ".":
                self.take()
                if self.accept("*"):
                    return self._splat(value, full=False)
                value = self._dotted(value)
            elif kind == "[":
                self.take()
                self.push_newlines(count=False)
                if self.accept("*"):
                    self.pop_newlines_after("]")
                    return self._splat(value, full=True)
                key = self.expression()
                closing = self.pop_newlines_after("]")
                value = Index(value.start, closing.end, value, key)
            else:
                return value

    def pop_newlines_after(self, kind: str) -> Token:
        """The closing token, after which newlines count as before."""
        if self.peek().kind != kind:
            raise self.unexpected(self.peek(), kind)
        self.pop_newlines()
        # Not `take` before the pop: it would look past the newline that ends the argument.
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _dotted(self, value: Expression) -> Expression:
        token = self.take()
        if token.kind == "identifier":
            return GetAttribute(value.start, token.end, value, token.value)
        if token.kind == "number":
            # Legacy index `a.0`; `a.0.1` lexes as one number with a point.
            for piece in token.value.split("."):
                if not piece.isdigit() or len(piece) > DIGITS_MAX:
                    raise self.unexpected(token, "a name or an index after .")
                value = Index(value.start, token.end, value, Literal(token.start, token.end, int(piece)))
            return value
        raise self.unexpected(token, "a name after .")

    def _splat(self, source: Expression, *, full: bool) -> Expression:
        end = self._tokens[self._at - 1].end
        each: Expression = SplatItem(end, end)
        while True:
            if self.peek().kind == ".":
                self.take()
                each = self._dotted(each)
            elif full and self.peek().kind == "[":
                self.take()
                self.push_newlines(count=False)
                key = self.expression()
                closing = self.pop_newlines_after("]")
                each = Index(each.start, closing.end, each, key)
            else:
                return Splat(source.start, max(end, each.end), source, each)

    def _primary(self) -> Expression:
        token = self.take()
        match token.kind:
            case "number":
                return Literal(token.start, token.end, self._number(token))
            case "quote" | "heredoc":
                return parse_template(self, token)
            case "identifier":
                return self._named(token)
            case "(":
                self.push_newlines(count=False)
                inner = self.expression()
                self.pop_newlines_after(")")
                return inner
            case "[":
                return self._list(token)
            case "{":
                return self._object(token)
            case _:
                raise self.unexpected(token, "a value")

    def _number(self, token: Token) -> int | float:
        text = token.value
        if len(text) > DIGITS_MAX:
            raise self.source.fault(token.start, f"a number of more than {DIGITS_MAX} digits; expected fewer")
        if text.isdigit():
            return int(text)
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise self.source.fault(token.start, f"{text} is too large for a number")
        return int(number) if number.is_integer() and abs(number) < 2**53 else number

    def _named(self, token: Token) -> Expression:
        if token.value in _LITERALS:
            return Literal(token.start, token.end, _LITERALS[token.value])
        name = token.value
        while self.peek().kind == "::":
            self.take()
            name += "::" + self.expect("identifier", "a function's name after ::").value
        if self.peek().kind != "(":
            return Variable(token.start, token.end, name)
        self.take()
        self.push_newlines(count=False)
        arguments: list[Expression] = []
        is_expanded = False
        while self.peek().kind != ")":
            arguments.append(self.expression())
            if self.accept("..."):
                is_expanded = True
                break
            if not self.accept(","):
                break
        if self.peek().kind != ")":
            raise self.unexpected(self.peek(), f") or , in the arguments of {name}")
        closing = self.pop_newlines_after(")")
        return Call(token.start, closing.end, name, tuple(arguments), is_expanded)

    def _list(self, opening: Token) -> Expression:
        self.push_newlines(count=False)
        if self._is_for():
            return self._for(opening, "]")
        items: list[Expression] = []
        while self.peek().kind != "]":
            items.append(self.expression())
            if not self.accept(","):
                break
        if self.peek().kind != "]":
            raise self.unexpected(self.peek(), "] or , in the list")
        closing = self.pop_newlines_after("]")
        return ListExpression(opening.start, closing.end, tuple(items))

    def _is_for(self) -> bool:
        token = self.peek()
        return token.kind == "identifier" and token.value == "for"

    def _object(self, opening: Token) -> Expression:
        self.push_newlines(count=False)
        if self._is_for():
            return self._for(opening, "}")
        self.pop_newlines()
        self.push_newlines(count=True)
        items: list[tuple[Expression, Expression]] = []
        self.skip_newlines()
        while self.peek().kind != "}":
            items.append(self._object_item())
            if self.peek().kind not in (",", "newline", "}"):
                raise self.unexpected(self.peek(), "a comma, a new line or } in the map")
            self.accept(",")
            self.skip_newlines()
        closing = self.pop_newlines_after("}")
        return ObjectExpression(opening.start, closing.end, tuple(items))

    def _object_item(self) -> tuple[Expression, Expression]:
        token = self.peek()
        if token.kind == "identifier" and self._tokens[self._at + 1].kind in ("=", ":"):
            self.take()
            key: Expression = Literal(token.start, token.end, token.value)
        elif token.kind in ("{", "newline", "eof", ","):
            raise self.unexpected(token, "a key, or } to end the map")
        else:
            key = self.expression()
        if not (self.accept("=") or self.accept(":")):
            raise self.unexpected(self.peek(), "= after the key")
        return key, self.expression()

    def _for(self, opening: Token, end: str) -> Expression:
        """After `[` or `{`, at `for`; newlines do not count."""
        self.take()
        first = self.expect("identifier", "a name after for").value
        second = self.expect("identifier", "a second name after ,").value if self.accept(",") else ""
        self.expect_word("in")
        collection = self.expression()
        self.expect(":", ": after the collection of for")
        result = self.expression()
        result_key: Expression | None = None
        if end == "}":
            self.expect("=>", "=> between key and value")
            result_key, result = result, self.expression()
        is_grouped = end == "}" and self.accept("...") is not None
        condition = None
        token = self.peek()
        if token.kind == "identifier" and token.value == "if":
            self.take()
            condition = self.expression()
        closing = self.pop_newlines_after(end)
        return ForExpression(
            opening.start,
            closing.end,
            first if second else "",
            second or first,
            collection,
            result_key,
            result,
            condition,
            is_grouped,
        )

    def expect_word(self, word: str) -> None:
        """The next token must be this word."""
        token = self.peek()
        if token.kind != "identifier" or token.value != word:
            raise self.unexpected(token, word)
        self.take()


def describe(token: Token) -> str:
    """How a token is named to people."""
    match token.kind:
        case "eof":
            return "the end of the file"
        case "newline":
            return "the end of the line"
        case "quote" | "heredoc":
            return "a string"
        case "template_end":
            return "}"
        case "text":
            return "text"
        case _:
            return token.value or token.kind


def _describe_item(item: Attribute | Block) -> str:
    return f"the argument {item.name}" if isinstance(item, Attribute) else f"the block {item.kind}"
