"""The syntax tree of HCL2. Every node knows where it starts and ends (offsets into its source)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """Anything with a place."""

    start: int
    end: int


class Expression(Node):
    """Anything that has a value."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Literal(Expression):
    """A number, `true`, `false`, `null`, or a piece of text of a template."""

    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Template(Expression):
    """A quoted string or heredoc. One part alone keeps its own type, as HCL wants."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class TemplateIf(Expression):
    """`%{ if c }…%{ else }…%{ endif }`."""

    condition: Expression
    then: Template
    otherwise: Template


@dataclass(frozen=True, slots=True)
class TemplateFor(Expression):
    """`%{ for k, v in c }…%{ endfor }`."""

    key: str
    value: str
    collection: Expression
    body: Template


@dataclass(frozen=True, slots=True)
class Variable(Expression):
    """A name alone: the root of a traversal."""

    name: str


@dataclass(frozen=True, slots=True)
class GetAttribute(Expression):
    """`source.name`."""

    source: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Index(Expression):
    """`source[key]`."""

    source: Expression
    key: Expression


@dataclass(frozen=True, slots=True)
class SplatItem(Expression):
    """Stands for one element inside a splat."""


@dataclass(frozen=True, slots=True)
class Splat(Expression):
    """`source[*].x` or `source.*.x`; `each` is evaluated per element, which `SplatItem` stands for."""

    source: Expression
    each: Expression


@dataclass(frozen=True, slots=True)
class ForExpression(Expression):
    """`[for v in c : x if y]`, or with `result_key` `{for k, v in c : x => y...}`."""

    key: str
    value: str
    collection: Expression
    result_key: Expression | None
    result: Expression
    condition: Expression | None
    is_grouped: bool


@dataclass(frozen=True, slots=True)
class Unary(Expression):
    """`-x`, `!x`."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Expression):
    """`left operator right`; `at` is where the operator stands."""

    operator: str
    at: int
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Conditional(Expression):
    """`condition ? then : otherwise`."""

    condition: Expression
    then: Expression
    otherwise: Expression


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """`name(arguments)`; with `is_expanded` the last argument is a list of further arguments (`...`)."""

    name: str
    arguments: tuple[Expression, ...]
    is_expanded: bool


@dataclass(frozen=True, slots=True)
class ListExpression(Expression):
    """`[a, b]`."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class ObjectExpression(Expression):
    """`{ key = value }`; a bare key is a literal."""

    items: tuple[tuple[Expression, Expression], ...]


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    """`name = value` in a body."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Block(Node):
    """`kind "label" { … }`; `label_starts` are the places of the labels."""

    kind: str
    labels: tuple[str, ...]
    label_starts: tuple[int, ...]
    body: Body


@dataclass(frozen=True, slots=True)
class Body(Node):
    """Attributes by name and blocks, both in the order of the file. `end` is where its `}` stands."""

    attributes: dict[str, Attribute]
    blocks: tuple[Block, ...]
