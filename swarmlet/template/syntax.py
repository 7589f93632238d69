"""The tree of a template. Every node knows its offset in the text, for messages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Text:
    """Copied as it is."""

    start: int
    text: str


@dataclass(frozen=True, slots=True)
class Literal:
    """A string, a number, true, false or nil."""

    start: int
    value: Any


@dataclass(frozen=True, slots=True)
class Dot:
    """`.`, what the template is about here."""

    start: int


@dataclass(frozen=True, slots=True)
class Name:
    """`$name`; the bare `$` is the root."""

    start: int
    name: str


@dataclass(frozen=True, slots=True)
class Field:
    """`operand.name`."""

    start: int
    operand: Operand
    name: str


@dataclass(frozen=True, slots=True)
class Function:
    """A function's name, called with the arguments of its command."""

    start: int
    name: str


@dataclass(frozen=True, slots=True)
class Command:
    """Operands side by side: a call, or one value alone."""

    start: int
    operands: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Commands joined by `|`; `names` are declared (or set) to its value."""

    start: int
    commands: tuple[Command, ...]
    names: tuple[str, ...] = ()
    is_assignment: bool = False


Operand = Literal | Dot | Name | Field | Function | Pipeline


@dataclass(frozen=True, slots=True)
class Action:
    """`{{ pipeline }}`: its value is printed, unless it declares."""

    start: int
    pipeline: Pipeline


@dataclass(frozen=True, slots=True)
class If:
    """`if` and `with`; `with` makes the value the dot."""

    start: int
    pipeline: Pipeline
    then: Body
    otherwise: Body
    is_with: bool = False


@dataclass(frozen=True, slots=True)
class Range:
    """`range`: once per element, `otherwise` where there is none."""

    start: int
    pipeline: Pipeline
    body: Body
    otherwise: Body


@dataclass(frozen=True, slots=True)
class Jump:
    """`break`, or `continue`."""

    start: int
    is_break: bool


@dataclass(frozen=True, slots=True)
class Call:
    """`template "name" pipeline`."""

    start: int
    name: str
    pipeline: Pipeline | None


Node = Text | Action | If | Range | Jump | Call
Body = tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """A whole template, and those that it defines by name."""

    body: Body
    defined: dict[str, Body]
    #: Names of all functions used, in the order of their first use, with that place.
    functions: dict[str, int]
