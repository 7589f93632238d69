"""A parsed template, and what it is worth for one allocation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from swarmlet.errors import InvalidInput
from swarmlet.jobspec.problem import Fault, Source
from swarmlet.jobspec.value import BadValue
from swarmlet.template.functions import PURE, Function
from swarmlet.template.lookup import Fields, Item, Items, Lookups, Waiting
from swarmlet.template.parser import parse_tree
from swarmlet.template.sprig import SPRIG
from swarmlet.template.syntax import (
    Action,
    Body,
    Call,
    Command,
    Dot,
    Field,
    If,
    Jump,
    Literal,
    Name,
    Operand,
    Pipeline,
    Range,
    Text,
    Tree,
)
from swarmlet.template.syntax import Function as FunctionName
from swarmlet.template.value import is_true, kind_of, shown
from swarmlet.template.world import REFUSED, SECRET, World
from swarmlet.template.world import known as known_lookups

#: A template's text, and what it makes of it.
SOURCE_BYTES_MAX = 1024 * 1024
OUTPUT_CHARACTERS_MAX = 4 * 1024 * 1024
#: Nodes evaluated for one rendering: some tens of milliseconds of the agent's only thread.
STEPS_MAX = 100_000
#: Templates that call templates.
CALLS_MAX = 50
#: Evaluated by the evaluator itself: their arguments are not all needed.
_LAZY = ("and", "or")
_DOUBLE = re.compile(r'"(?:[^"\\]|\\.)*"')
_SINGLE = re.compile(r"'[^']*'")
KNOWN = frozenset({*PURE, *SPRIG, *known_lookups(), *_LAZY})


@dataclass(frozen=True)
class Template:
    """A template that parsed, and whose functions exist."""

    source: Source
    tree: Tree

    @property
    def may_show_secrets(self) -> bool:
        """Whether it reads values of variables."""
        return any(name in SECRET for name in self.tree.functions)

    def variables(self) -> dict[str, int]:
        """Paths of variables that it names itself, with the place of each; others are known when it is rendered."""
        return dict(_named_variables(self.tree))

    def render(self, lookups: Lookups, *, is_strict: bool = False) -> str:
        """What it makes of what it sees. `is_strict`: a missing key is an error, and no "<no value>".

        Raises Waiting for what is not there yet, InvalidInput with file, line and column, and without any value.
        """
        world = World(lookups)
        evaluation = _Evaluation(self.source, self.tree, world, is_strict=is_strict)
        try:
            evaluation.body(self.tree.body, _Scope(None, {"": None}))
        except Fault as fault:
            raise InvalidInput(world.redacted(str(fault.problem))) from None
        except Waiting as missing:
            raise Waiting(world.redacted(missing.what)) from None
        return "".join(evaluation.output)


def parse(text: str, *, name: str = "template", left: str = "{{", right: str = "}}") -> Template:
    """The template in `text`; `left` and `right` delimit actions. Raises InvalidInput with the place."""
    if len(text.encode(errors="surrogatepass")) > SOURCE_BYTES_MAX:
        raise InvalidInput(f"{name}: a template has at most {SOURCE_BYTES_MAX:_} B")
    source = Source(name, text)
    try:
        tree = parse_tree(source, left or "{{", right or "}}")
        for function, start in tree.functions.items():
            if function not in KNOWN:
                raise source.fault(start, _unknown(function))
    except Fault as fault:
        raise InvalidInput(str(fault.problem)) from None
    return Template(source, tree)


def _unknown(name: str) -> str:
    if name in REFUSED:
        return f"function {name} does not exist here: {REFUSED[name]}"
    near = get_close_matches(name, sorted(KNOWN), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"function {name[:40]} is unknown{hint}"


#: Functions whose first argument is the path of a variable; `key` and its kin have an item after it.
_BY_PATH = frozenset({"nomadVar", "nomadVarExists", "secret", "ls", "tree"})
_BY_ITEM = frozenset({"key", "keyOrDefault", "keyExists"})


def _named_variables(tree: Tree) -> Iterator[tuple[str, int]]:
    for command in _commands(tree):
        first, *rest = command.operands
        if not isinstance(first, FunctionName) or not rest or not isinstance(rest[0], Literal):
            continue
        path = str(rest[0].value).rstrip("/")
        if first.name in _BY_PATH:
            yield path, rest[0].start
        elif first.name in _BY_ITEM and "/" in path:
            yield path.rpartition("/")[0], rest[0].start


def _commands(node: Any) -> Iterator[Command]:
    """Every command in a tree. The parser bounds its depth."""
    match node:
        case Tree():
            yield from _commands((node.body, *node.defined.values()))
        case tuple():
            for item in node:
                yield from _commands(item)
        case Action() | If() | Range() | Call():
            yield from _commands(node.pipeline)
            if isinstance(node, If):
                yield from _commands((node.then, node.otherwise))
            if isinstance(node, Range):
                yield from _commands((node.body, node.otherwise))
        case Pipeline():
            yield from _commands(node.commands)
        case Command():
            yield node
            yield from _commands(node.operands)
        case Field():
            yield from _commands(node.operand)
        case _:
            return


def environment_of(text: str, name: str = "template") -> dict[str, str]:
    """The variables in a rendered file of `KEY=value` lines (`env = true`). Raises InvalidInput without values."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        key, equals, value = stripped.removeprefix("export ").partition("=")
        key = key.strip()
        if not equals or not key or any(character.isspace() for character in key):
            raise InvalidInput(f"{name}: line {number} of the result is not KEY=value")
        found[key] = _unquoted(value.strip())
    return found


def _unquoted(value: str) -> str:
    """Double quotes have JSON's escapes, single ones none; without quotes ` #` begins a comment."""
    if found := _DOUBLE.match(value):
        try:
            return str(json.loads(found[0]))
        except ValueError:
            return found[0][1:-1]
    if found := _SINGLE.match(value):
        return found[0][1:-1]
    return value.partition(" #")[0].rstrip()


class _Jumped(Exception):
    """`break` and `continue`, on their way to their range."""

    def __init__(self, *, is_break: bool) -> None:
        self.is_break = is_break
        super().__init__()


class _Scope:
    """The dot and the variables of a block; inner blocks see outer ones' variables."""

    def __init__(self, outer: _Scope | None, names: dict[str, Any], dot: Any = None) -> None:
        self.outer = outer
        self.names = names
        self.dot = dot

    def inner(self, dot: Any) -> _Scope:
        return _Scope(self, {}, dot)

    def holder(self, name: str) -> dict[str, Any]:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names
            scope = scope.outer
        raise AssertionError("the parser knows which variables are declared")


class _Evaluation:
    """One rendering."""

    def __init__(self, source: Source, tree: Tree, world: World, *, is_strict: bool) -> None:
        self._source = source
        self._tree = tree
        self._functions: dict[str, Function] = {**PURE, **SPRIG, **world.functions}
        self._is_strict = is_strict
        self._steps = 0
        self._calls = 0
        self._length = 0
        self.output: list[str] = []

    def body(self, nodes: Body, scope: _Scope) -> None:
        for node in nodes:
            self._step(node.start)
            match node:
                case Text():
                    self._write(node.start, node.text)
                case Action():
                    value = self._pipeline(node.pipeline, scope)
                    if not node.pipeline.names:
                        self._write(node.start, self._shown(node.start, value))
                case If():
                    self._if(node, scope)
                case Range():
                    self._range(node, scope)
                case Jump():
                    raise _Jumped(is_break=node.is_break)
                case Call():
                    self._call(node, scope)

    def _if(self, node: If, scope: _Scope) -> None:
        inner = scope.inner(scope.dot)
        value = self._pipeline(node.pipeline, inner)
        if is_true(value):
            self.body(node.then, inner.inner(value) if node.is_with else inner)
        else:
            self.body(node.otherwise, inner)

    def _range(self, node: Range, scope: _Scope) -> None:
        outer = scope.inner(scope.dot)
        bare = Pipeline(node.pipeline.start, node.pipeline.commands)
        value = self._pipeline(bare, scope)
        elements = self._elements(node.start, value)
        if not elements:
            self.body(node.otherwise, outer)
            return
        names = node.pipeline.names
        for key, element in elements:
            self._step(node.start)
            inner = outer.inner(element)
            if names:
                values = (element,) if len(names) == 1 else (key, element)
                holder = inner.names if not node.pipeline.is_assignment else scope.holder(names[0])
                holder.update(zip(names, values, strict=True))
            try:
                self.body(node.body, inner)
            except _Jumped as jump:
                if jump.is_break:
                    return

    def _elements(self, start: int, value: Any) -> list[tuple[Any, Any]]:
        if value is None:
            return []
        if isinstance(value, dict):
            return [(key, value[key]) for key in sorted(value)]
        if isinstance(value, list | tuple):
            return list(enumerate(value))
        if isinstance(value, int) and not isinstance(value, bool) and value <= STEPS_MAX:
            return [(number, number) for number in range(value)]
        raise self._source.fault(start, f"range over {kind_of(value)}; expected a list or a map")

    def _call(self, node: Call, scope: _Scope) -> None:
        found = self._tree.defined.get(node.name)
        if found is None:
            raise self._source.fault(node.start, f'template "{node.name[:40]}" is not defined')
        self._calls += 1
        if self._calls > CALLS_MAX:
            raise self._source.fault(node.start, f"more than {CALLS_MAX} templates in each other")
        dot = None if node.pipeline is None else self._pipeline(node.pipeline, scope)
        self.body(found, _Scope(None, {"": dot}, dot))
        self._calls -= 1

    # Values.

    def _pipeline(self, pipeline: Pipeline, scope: _Scope) -> Any:
        value: Any = None
        for number, command in enumerate(pipeline.commands):
            value = self._command(command, scope, (value,) if number else ())
        for name in pipeline.names:
            (scope.holder(name) if pipeline.is_assignment else scope.names)[name] = value
        return value

    def _command(self, command: Command, scope: _Scope, piped: tuple[Any, ...]) -> Any:
        first, *rest = command.operands
        if isinstance(first, FunctionName):
            return self._function(first, tuple(rest), scope, piped)
        if rest or piped:
            place = rest[0].start if rest else command.start
            raise self._source.fault(place, "a value takes no arguments; expected a function before it")
        return self._operand(first, scope)

    def _operand(self, operand: Operand, scope: _Scope) -> Any:
        self._step(operand.start)
        match operand:
            case Literal():
                return operand.value
            case Dot():
                return scope.dot
            case Name():
                return scope.holder(operand.name)[operand.name]
            case Field():
                return self._field(operand, self._operand(operand.operand, scope))
            case FunctionName():
                return self._function(operand, (), scope, ())
            case Pipeline():
                return self._pipeline(operand, scope)

    def _field(self, field: Field, value: Any) -> Any:
        name = field.name
        if isinstance(value, Item):
            if name in ("Key", "Value"):
                return value.key if name == "Key" else str(value)
        elif isinstance(value, Items) and name in _ITEMS_FIELDS:
            return _ITEMS_FIELDS[name](value)
        elif isinstance(value, dict):
            if name in value:
                return value[name]
            if not isinstance(value, Fields) and not self._is_strict:
                return None
            raise self._source.fault(field.start, f"there is no {name}")
        raise self._source.fault(field.start, f"{kind_of(value)} has no .{name}")

    def _function(
        self, called: FunctionName, operands: tuple[Operand, ...], scope: _Scope, piped: tuple[Any, ...]
    ) -> Any:
        if called.name in _LAZY:
            return self._lazy(called, operands, scope, piped)
        function = self._functions[called.name]
        arguments = (*(self._operand(operand, scope) for operand in operands), *piped)
        if not function.fits(len(arguments)):
            raise self._source.fault(called.start, f"{called.name} has {len(arguments)} arguments")
        try:
            return function.call(*arguments)
        except BadValue as error:
            raise self._source.fault(called.start, f"{called.name}: {error}") from None
        except InvalidInput as error:
            raise self._source.fault(called.start, str(error)) from None
        except (OverflowError, ValueError, RecursionError):
            raise self._source.fault(called.start, f"{called.name}: the arguments do not fit") from None

    def _lazy(
        self, called: FunctionName, operands: tuple[Operand, ...], scope: _Scope, piped: tuple[Any, ...]
    ) -> Any:
        if not operands and not piped:
            raise self._source.fault(called.start, f"{called.name} has no arguments")
        value: Any = None
        for operand in operands:
            value = self._operand(operand, scope)
            if is_true(value) == (called.name == "or"):
                return value
        return piped[0] if piped else value

    # Output.

    def _shown(self, start: int, value: Any) -> str:
        try:
            return shown(value)
        except BadValue as error:
            raise self._source.fault(start, str(error)) from None

    def _write(self, start: int, text: str) -> None:
        self._length += len(text)
        if self._length > OUTPUT_CHARACTERS_MAX:
            raise self._source.fault(start, f"the result exceeds {OUTPUT_CHARACTERS_MAX:_} characters")
        self.output.append(text)

    def _step(self, start: int) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise self._source.fault(start, f"the template takes more than {STEPS_MAX:_} steps")


def _tuples(items: Items) -> list[Any]:
    return [Fields({"K": key, "V": str(value)}) for key, value in items.items()]


#: What a variable tells beside its items.
_ITEMS_FIELDS: dict[str, Callable[[Items], Any]] = {
    "Keys": list,
    "Values": lambda items: [str(value) for value in items.values()],
    "Tuples": _tuples,
    "Path": lambda items: items.path,
    "Metadata": lambda items: Fields({"Path": items.path, "Namespace": items.namespace}),
    "Parent": lambda items: Fields(
        {"Path": items.path, "Namespace": items.namespace, "Items": {key: str(items[key]) for key in items}}
    ),
}
