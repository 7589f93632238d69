"""The syntax tree to values.

Names that only a node knows (`node`, `attr`, `meta`, `env`, `device`, `NOMAD_…`) stay in the text as `${…}`, to be
filled in where the task starts. Time and memory are bounded: see `STEPS_MAX` and `value`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from swarmlet.jobspec.functions import FUNCTIONS, REFUSED_FUNCTIONS, Function, ReadFile, file_functions
from swarmlet.jobspec.problem import Fault, Source
from swarmlet.jobspec.syntax import (
    Binary,
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
    Template,
    TemplateFor,
    TemplateIf,
    Unary,
    Variable,
)
from swarmlet.jobspec.value import (
    STRING_CHARACTERS_MAX,
    BadValue,
    Value,
    bounded,
    describe,
    equal,
    sized,
    to_boolean,
    to_number,
    to_text,
    weight,
)

#: Nodes evaluated and elements handed to functions, for one file: under a second of work. Nested loops reach it,
#: job files do not.
STEPS_MAX = 200_000
#: How deep evaluation may nest (locals that use locals, long sums): two Python frames per level.
EVALUATION_DEPTH_MAX = 120

RUNTIME_ROOTS = frozenset({"node", "attr", "meta", "env", "device", "unique"})
_ENVIRONMENT_NAME = re.compile(r"[A-Z_][A-Z0-9_]*\Z")
_SPLAT = "*"

#: Names of the scope: `for` variables and dynamic iterators.
Scope = Mapping[str, Value]
#: Finds `var` and `local` members, evaluated when first asked for.
Lookup = Callable[[str], Value]


@dataclass(frozen=True)
class Members:
    """A root with members (`var`, `local`): their names, and how to get one."""

    what: str
    names: tuple[str, ...]
    get: Lookup


def is_runtime_name(name: str) -> bool:
    """Whether a root name is known on the node only."""
    return name in RUNTIME_ROOTS or _ENVIRONMENT_NAME.match(name) is not None or name.startswith("NOMAD_")


class Evaluator:
    """Evaluates the expressions of one job file; counts what it costs."""

    def __init__(self, read_file: ReadFile | None = None) -> None:
        """`read_file` gives the text of a file that the job file names, or raises OSError."""
        self.roots: dict[str, Members] = {}
        self._functions: dict[str, Function] = FUNCTIONS | file_functions(read_file)
        self._steps = 0
        self._depth = 0

    def evaluate(self, source: Source, node: Expression, scope: Scope) -> Value:
        """The value of `node`. Raises Fault."""
        run = _Run(self, source)
        try:
            return run.value(node, scope)
        except RecursionError as error:
            # The bounds on depth are meant to come first; comparing deep values may still get here.
            raise source.fault(node.start, "nested too deeply; use fewer levels") from error

    def enter(self, source: Source, node: Expression) -> None:
        """Count a step down."""
        self._depth += 1
        self.charge(source, node, 1)
        if self._depth > EVALUATION_DEPTH_MAX:
            raise source.fault(node.start, f"nested deeper than {EVALUATION_DEPTH_MAX} levels; use locals")

    def charge(self, source: Source, node: Expression, steps: int) -> None:
        """Count work."""
        self._steps += steps
        if self._steps > STEPS_MAX:
            raise source.fault(node.start, f"this takes more than {STEPS_MAX:_} steps; use smaller loops")

    def leave(self) -> None:
        """Count a step up."""
        self._depth -= 1

    def function(self, name: str) -> Function | None:
        """The function of that name."""
        return self._functions.get(name)

    def function_names(self) -> list[str]:
        """All names, for suggestions."""
        return sorted(self._functions)


class _Run:
    """One evaluation in one source."""

    def __init__(self, evaluator: Evaluator, source: Source) -> None:
        self._evaluator = evaluator
        self._source = source

    def value(self, node: Expression, scope: Scope) -> Value:
        try:
            self._evaluator.enter(self._source, node)
            return sized(self._dispatch(node, scope))
        except BadValue as error:
            raise self._source.fault(node.start, str(error)) from error
        finally:
            self._evaluator.leave()

    def _dispatch(self, node: Expression, scope: Scope) -> Value:
        match node:
            case Literal():
                return node.value
            case Template():
                return self._template(node, scope)
            case Variable() | GetAttribute() | Index():
                return self._traversal(node, scope)
            case ListExpression():
                return [self.value(item, scope) for item in node.items]
            case ObjectExpression():
                return self._object(node, scope)
            case Unary():
                return self._unary(node, scope)
            case Binary():
                return self._binary(node, scope)
            case Conditional():
                is_true = self._boolean(node.condition, scope, "the condition")
                return self.value(node.then if is_true else node.otherwise, scope)
            case Call():
                return self._call(node, scope)
            case ForExpression():
                return self._for(node, scope)
            case Splat():
                return self._splat(node, scope)
            case SplatItem():
                return scope[_SPLAT]
            case TemplateIf():
                is_true = self._boolean(node.condition, scope, "the condition")
                return self._text(node.then if is_true else node.otherwise, scope)
            case TemplateFor():
                return self._template_for(node, scope)
            case _:
                raise AssertionError(f"no evaluation for {type(node).__name__}")

    # Templates ------------------------------------------------------------------------------------------

    def _template(self, node: Template, scope: Scope) -> Value:
        if len(node.parts) == 1:
            return self.value(node.parts[0], {**scope, _IN_TEMPLATE: True})
        return self._text(node, scope)

    def _text(self, node: Template, scope: Scope) -> str:
        pieces = []
        length = 0
        inner = {**scope, _IN_TEMPLATE: True}
        for part in node.parts:
            value = self.value(part, inner)
            try:
                piece = to_text(value)
            except BadValue as error:
                raise self._source.fault(
                    part.start, f"found {describe(value)} in a string; expected a string, number or boolean"
                ) from error
            length += len(piece)
            sized_length(length)
            pieces.append(piece)
        return "".join(pieces)

    def _template_for(self, node: TemplateFor, scope: Scope) -> str:
        collection = self.value(node.collection, scope)
        pieces = []
        length = 0
        for key, value in self._elements(node.collection, collection):
            piece = self._text(node.body, {**scope, node.key: key, node.value: value})
            length += len(piece)
            sized_length(length)
            pieces.append(piece)
        return "".join(pieces)

    # Names ----------------------------------------------------------------------------------------------

    def _traversal(self, node: Expression, scope: Scope) -> Value:
        root: Expression = node
        while isinstance(root, (GetAttribute, Index)):
            root = root.source
        if isinstance(root, Variable) and root.name not in scope and root.name not in self._evaluator.roots:
            return self._runtime(node, root, scope)
        match node:
            case Variable():
                return self._variable(node, scope)
            case GetAttribute(source=Variable(name=name)) if name not in scope:
                return self._member(node, self._evaluator.roots[name])
            case GetAttribute():
                return self._attribute(node, self.value(node.source, scope))
            case Index():
                return self._index(node, scope)
        raise AssertionError("the caller passes names and their members only")

    def _variable(self, node: Variable, scope: Scope) -> Value:
        if node.name in scope:
            return scope[node.name]
        members = self._evaluator.roots[node.name]
        return {name: members.get(name) for name in members.names}

    def _member(self, node: GetAttribute, members: Members) -> Value:
        if node.name not in members.names:
            raise self._source.fault(
                node.start,
                f"there is no {members.what} {node.name}; expected a declared one{suggestion(node.name, members.names)}",
            )
        return members.get(node.name)

    def _runtime(self, node: Expression, root: Variable, scope: Scope) -> str:
        is_alone_in_string = node is root and scope.get(_IN_TEMPLATE) is True
        if not is_runtime_name(root.name) and not is_alone_in_string:
            if node is root:
                raise self._source.fault(
                    node.start,
                    f'{root.name} is no known name; expected a value: strings are quoted, "{root.name}"',
                )
            names = [
                *self._evaluator.roots,
                *sorted(RUNTIME_ROOTS),
                *(name for name in scope if name.isidentifier()),
            ]
            raise self._source.fault(
                node.start,
                f"{root.name} is no known name; expected var, local, node, attr, meta, env or NOMAD_…"
                f"{suggestion(root.name, names)}",
            )
        return "${" + self._path(node, scope) + "}"

    def _path(self, node: Expression, scope: Scope) -> str:
        match node:
            case Variable():
                return node.name
            case GetAttribute():
                return f"{self._path(node.source, scope)}.{node.name}"
            case Index():
                key = self.value(node.key, scope)
                shown = f'"{key}"' if isinstance(key, str) else to_text(key)
                return f"{self._path(node.source, scope)}[{shown}]"
        raise AssertionError("the caller passes names and their members only")

    def _attribute(self, node: GetAttribute, source: Value) -> Value:
        if not isinstance(source, dict):
            raise self._source.fault(
                node.start, f"{describe(source)} has no member {node.name}; expected a map"
            )
        if node.name not in source:
            raise self._source.fault(
                node.start, f"there is no key {node.name} in this map{suggestion(node.name, list(source))}"
            )
        return source[node.name]

    def _index(self, node: Index, scope: Scope) -> Value:
        source = self.value(node.source, scope)
        key = self.value(node.key, scope)
        if isinstance(source, dict):
            name = to_text(key)
            if name not in source:
                raise self._source.fault(
                    node.key.start,
                    f'there is no key "{name[:40]}" in this map{suggestion(name, list(source))}',
                )
            return source[name]
        if isinstance(source, list):
            try:
                number = to_number(key)
            except BadValue as error:
                raise self._source.fault(node.key.start, f"{error}; expected an index") from error
            if not isinstance(number, int) or not 0 <= number < len(source):
                raise self._source.fault(
                    node.key.start,
                    f"index {to_text(number)} is outside of this list; expected less than {len(source)}",
                )
            return source[number]
        raise self._source.fault(node.start, f"{describe(source)} has no index; expected a list or a map")

    # Operators ------------------------------------------------------------------------------------------

    def _boolean(self, node: Expression, scope: Scope, what: str) -> bool:
        value = self.value(node, scope)
        try:
            return to_boolean(value)
        except BadValue as error:
            raise self._source.fault(node.start, f"{error}; expected {what} to be true or false") from error

    def _number(self, node: Expression, scope: Scope, operator: str) -> int | float:
        value = self.value(node, scope)
        try:
            return to_number(value)
        except BadValue as error:
            raise self._source.fault(node.start, f"{error}; {operator} expects numbers") from error

    def _unary(self, node: Unary, scope: Scope) -> Value:
        if node.operator == "!":
            return not self._boolean(node.operand, scope, "the operand of !")
        return bounded(-self._number(node.operand, scope, "-"))

    def _binary(self, node: Binary, scope: Scope) -> Value:
        match node.operator:
            case "&&" | "||":
                left = self._boolean(node.left, scope, f"the left side of {node.operator}")
                right = self._boolean(node.right, scope, f"the right side of {node.operator}")
                return (left and right) if node.operator == "&&" else (left or right)
            case "==" | "!=":
                left_value, right_value = self.value(node.left, scope), self.value(node.right, scope)
                self._evaluator.charge(self._source, node, min(weight(left_value), weight(right_value)))
                same = equal(left_value, right_value)
                return same if node.operator == "==" else not same
        left_number = self._number(node.left, scope, node.operator)
        right_number = self._number(node.right, scope, node.operator)
        try:
            return bounded(_arithmetic(node.operator, left_number, right_number))
        except (ZeroDivisionError, OverflowError) as error:
            raise self._source.fault(
                node.at, f"{node.operator} by zero or out of range; expected another divisor"
            ) from error

    # Collections ----------------------------------------------------------------------------------------

    def _object(self, node: ObjectExpression, scope: Scope) -> dict[str, Value]:
        result: dict[str, Value] = {}
        for key_node, value_node in node.items:
            result[self._key(key_node, scope)] = self.value(value_node, scope)
        return result

    def _key(self, node: Expression, scope: Scope) -> str:
        key = self.value(node, scope)
        try:
            return to_text(key)
        except BadValue as error:
            raise self._source.fault(node.start, f"{error}; expected a key") from error

    def _elements(self, node: Expression, collection: Value) -> list[tuple[Value, Value]]:
        if isinstance(collection, list):
            return list(enumerate(collection))
        if isinstance(collection, dict):
            return [(key, collection[key]) for key in sorted(collection)]
        raise self._source.fault(node.start, f"for goes over a list or a map; found {describe(collection)}")

    def _for(self, node: ForExpression, scope: Scope) -> Value:
        listed: list[Value] = []
        mapped: dict[str, Value] = {}
        for key, value in self._elements(node.collection, self.value(node.collection, scope)):
            inner = {**scope, node.value: value}
            if node.key:
                inner[node.key] = key
            if node.condition is not None and not self._boolean(
                node.condition, inner, "the condition after if"
            ):
                continue
            result = self.value(node.result, inner)
            if node.result_key is None:
                listed.append(result)
                continue
            name = self._key(node.result_key, inner)
            if node.is_grouped:
                mapped.setdefault(name, []).append(result)
            elif name in mapped:
                raise self._source.fault(
                    node.result_key.start,
                    f'the key "{name[:40]}" comes twice; expected … after the value to group',
                )
            else:
                mapped[name] = result
        return listed if node.result_key is None else mapped

    def _splat(self, node: Splat, scope: Scope) -> Value:
        source = self.value(node.source, scope)
        if source is None:
            return []
        items = source if isinstance(source, list) else [source]
        return [self.value(node.each, {**scope, _SPLAT: item}) for item in items]

    # Calls ----------------------------------------------------------------------------------------------

    def _call(self, node: Call, scope: Scope) -> Value:
        if node.name in ("try", "can"):
            return self._try(node, scope)
        function = self._evaluator.function(node.name)
        if function is None:
            reason = REFUSED_FUNCTIONS.get(node.name)
            if reason is not None:
                raise self._source.fault(node.start, f"{node.name}() is not supported: {reason}")
            hint = suggestion(node.name, self._evaluator.function_names())
            raise self._source.fault(
                node.start, f"there is no function {node.name}; expected a known one{hint}"
            )
        arguments = [self.value(argument, scope) for argument in node.arguments]
        if node.is_expanded:
            last = arguments.pop()
            if not isinstance(last, list):
                raise self._source.fault(
                    node.arguments[-1].start, f"... expands a list; found {describe(last)}"
                )
            arguments.extend(last)
        function.check_count(node.name, len(arguments))
        for argument in arguments:
            self._evaluator.charge(self._source, node, weight(argument))
        try:
            return function.call(arguments)
        except BadValue as error:
            raise self._source.fault(node.start, f"{node.name}(): {error}") from error

    def _try(self, node: Call, scope: Scope) -> Value:
        if not node.arguments:
            raise self._source.fault(node.start, f"{node.name}() takes at least one expression; found none")
        for argument in node.arguments:
            try:
                value = self.value(argument, scope)
            except Fault:
                continue
            return True if node.name == "can" else value
        if node.name == "can":
            return False
        raise self._source.fault(node.start, "try(): none of the expressions has a value")


_IN_TEMPLATE = "${"


def sized_length(length: int) -> None:
    """Refuse a string while it is being put together."""
    if length > STRING_CHARACTERS_MAX:
        raise BadValue(f"a string of more than {STRING_CHARACTERS_MAX:_} characters")


def _arithmetic(operator: str, left: float, right: float) -> Value:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            if isinstance(left, int) and isinstance(right, int) and right and left % right == 0:
                return left // right
            return left / right
        case "%":
            if isinstance(left, int) and isinstance(right, int):
                remainder = abs(left) % abs(right)
                return remainder if left >= 0 else -remainder
            return math.fmod(left, right) if right else left % right
        case "<":
            return left < right
        case ">":
            return left > right
        case "<=":
            return left <= right
        case _:
            return left >= right


def suggestion(name: str, known: list[str] | tuple[str, ...]) -> str:
    """`; did you mean X?` where something known is near."""
    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
