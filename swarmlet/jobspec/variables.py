"""Input variables and locals: declarations, types, where values come from, validation.

The later wins: default, environment (`NOMAD_VAR_name`), variable files in their order, `-var`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from swarmlet.jobspec.evaluate import Evaluator, Members, suggestion
from swarmlet.jobspec.parser import parse_body, parse_expression
from swarmlet.jobspec.problem import Fault, Source
from swarmlet.jobspec.section import Reading, Section
from swarmlet.jobspec.syntax import (
    Block,
    Body,
    Call,
    Expression,
    ListExpression,
    Literal,
    ObjectExpression,
    Variable,
)
from swarmlet.jobspec.value import (
    BadValue,
    Value,
    as_set,
    to_boolean,
    to_list,
    to_map,
    to_number,
    to_text,
)

ENVIRONMENT_PREFIX = "NOMAD_VAR_"
_TYPES = "string, number, bool, any, list(…), set(…), map(…), object({…}) or tuple([…])"


@dataclass
class _Declared:
    """One `variable` block."""

    name: str
    block: Block
    kind: Expression | None = None
    default: Value = None
    has_default: bool = False


@dataclass(frozen=True)
class Given:
    """What the user passed in."""

    variables: Mapping[str, str]
    files: Sequence[tuple[str, str]]
    environment: Mapping[str, str]


def bind_variables(reading: Reading, root: Body, given: Given) -> None:
    """Make `var` known to the evaluator. Problems are noted in `reading`."""
    declared = _declarations(reading, root)
    values: dict[str, Value] = {}
    from_files = _file_values(reading, declared, given.files)
    for name in given.variables:
        if name not in declared:
            hint = suggestion(name, list(declared)) or "; declare it with a variable block"
            reading.problems.append(
                Source(f"-var {name}", "").problem(0, f"the job has no variable {name}{hint}")
            )
    for name, variable in declared.items():
        try:
            values[name] = _value(reading, variable, given, from_files)
        except Fault as fault:
            reading.problems.append(fault.problem)
    reading.evaluator.roots["var"] = Members("variable", tuple(declared), values.get)
    for name, variable in declared.items():
        if name in values:
            _validate(reading, variable)


def _declarations(reading: Reading, root: Body) -> dict[str, _Declared]:
    declared: dict[str, _Declared] = {}
    for block in root.blocks:
        if block.kind == "variables":
            for attribute in block.body.attributes.values():
                default = _evaluated(reading, attribute.value)
                declared[attribute.name] = _Declared(attribute.name, block, None, default, has_default=True)
        if block.kind != "variable":
            continue
        if len(block.labels) != 1:
            reading.problems.append(
                reading.source.problem(block.start, 'variable has no name; expected variable "name" {')
            )
            continue
        name = block.labels[0]
        if name in declared:
            reading.problems.append(reading.source.problem(block.start, f"variable {name} is declared twice"))
            continue
        declared[name] = _declaration(reading, block, name)
    return declared


def _declaration(reading: Reading, block: Block, name: str) -> _Declared:
    variable = _Declared(name, block)
    known = ("type", "default", "description", "sensitive", "nullable")
    for attribute in block.body.attributes.values():
        if attribute.name == "type":
            variable.kind = attribute.value
        elif attribute.name == "default":
            variable.default = _evaluated(reading, attribute.value)
            variable.has_default = True
        elif attribute.name not in known:
            reading.problems.append(
                reading.source.problem(
                    attribute.start,
                    f"{attribute.name} is unknown in variable{suggestion(attribute.name, known)}",
                )
            )
    for inner in block.body.blocks:
        if inner.kind != "validation":
            reading.problems.append(
                reading.source.problem(
                    inner.start, f"{inner.kind} is unknown in variable; expected validation"
                )
            )
    return variable


def _evaluated(reading: Reading, expression: Expression) -> Value:
    try:
        return reading.evaluator.evaluate(reading.source, expression, {})
    except Fault as fault:
        reading.problems.append(fault.problem)
        return None


def _file_values(
    reading: Reading, declared: dict[str, _Declared], files: Sequence[tuple[str, str]]
) -> dict[str, tuple[Source, int, Value]]:
    found: dict[str, tuple[Source, int, Value]] = {}
    for name, text in files:
        source = Source(name, text)
        try:
            body = parse_body(source)
            for attribute in body.attributes.values():
                if attribute.name not in declared:
                    reading.warnings.append(
                        source.problem(
                            attribute.start,
                            f"the job has no variable {attribute.name}{suggestion(attribute.name, list(declared))}",
                        )
                    )
                value = Evaluator().evaluate(source, attribute.value, {})
                found[attribute.name] = (source, attribute.value.start, value)
            if body.blocks:
                raise source.fault(
                    body.blocks[0].start, "a variable file holds no blocks; expected name = value"
                )
        except Fault as fault:
            reading.problems.append(fault.problem)
    return found


def _value(
    reading: Reading, variable: _Declared, given: Given, from_files: dict[str, tuple[Source, int, Value]]
) -> Value:
    name = variable.name
    if name in given.variables:
        return _from_text(reading, variable, Source(f"-var {name}", given.variables[name]))
    if name in from_files:
        source, start, value = from_files[name]
        return _typed(reading, variable, value, source, start)
    if ENVIRONMENT_PREFIX + name in given.environment:
        text = given.environment[ENVIRONMENT_PREFIX + name]
        return _from_text(reading, variable, Source(ENVIRONMENT_PREFIX + name, text))
    if not variable.has_default:
        raise reading.source.fault(
            variable.block.start, f"variable {name} has no value; expected -var {name}=… or a default"
        )
    default = variable.block.body.attributes.get("default")
    start = default.value.start if default else variable.block.start
    return _typed(reading, variable, variable.default, reading.source, start)


def _from_text(reading: Reading, variable: _Declared, source: Source) -> Value:
    """A string variable takes the text as it is, others parse it."""
    kind = variable.kind
    is_text = isinstance(kind, Variable) and kind.name in ("string", "any")
    if kind is None:
        is_text = variable.default is None or isinstance(variable.default, str)
    if is_text:
        return source.text
    value = Evaluator().evaluate(source, parse_expression(source), {})
    return _typed(reading, variable, value, source, 0)


def _typed(reading: Reading, variable: _Declared, value: Value, source: Source, start: int) -> Value:
    if value is None:
        return None
    try:
        if variable.kind is not None:
            return _convert(reading, variable.kind, value)
        if variable.has_default and variable.default is not None:
            return _like(variable.default, value)
    except BadValue as error:
        raise source.fault(start, f"variable {variable.name}: {error}") from error
    return value


def _like(default: Value, value: Value) -> Value:
    """A variable without a type has the type of its default, as far as it is simple."""
    match default:
        case bool():
            return to_boolean(value)
        case int() | float():
            return to_number(value)
        case str():
            return to_text(value)
        case _:
            return value


def _convert(reading: Reading, kind: Expression, value: Value) -> Value:
    """The value as the type wants it. Raises BadValue, or Fault where the type is none."""
    match kind:
        case Variable(name="string"):
            return to_text(value)
        case Variable(name="number"):
            return to_number(value)
        case Variable(name="bool"):
            return to_boolean(value)
        case Variable(name="any"):
            return value
        case Variable(name="list" | "set"):
            return to_list(value)
        case Variable(name="map"):
            return to_map(value)
        case Call(name="list", arguments=(element,)):
            return [_convert(reading, element, item) for item in to_list(value)]
        case Call(name="set", arguments=(element,)):
            return as_set([_convert(reading, element, item) for item in to_list(value)])
        case Call(name="map", arguments=(element,)):
            return {key: _convert(reading, element, item) for key, item in to_map(value).items()}
        case Call(name="tuple", arguments=(ListExpression(items=items),)):
            values = to_list(value)
            if len(values) != len(items):
                raise BadValue(f"a list of {len(values)} elements; expected {len(items)}")
            return [_convert(reading, element, item) for element, item in zip(items, values, strict=True)]
        case Call(name="object", arguments=(ObjectExpression(items=members),)):
            return _convert_object(reading, members, to_map(value))
    raise reading.source.fault(kind.start, f"this is no type; expected {_TYPES}")


def _convert_object(
    reading: Reading, members: tuple[tuple[Expression, Expression], ...], value: dict[str, Value]
) -> dict[str, Value]:
    result: dict[str, Value] = {}
    for key, kind in members:
        name = str(key.value) if isinstance(key, Literal) else ""
        match kind:
            case Call(name="optional", arguments=(inner,)):
                result[name] = _convert(reading, inner, value[name]) if value.get(name) is not None else None
            case Call(name="optional", arguments=(inner, default)):
                written = value.get(name)
                chosen = (
                    reading.evaluator.evaluate(reading.source, default, {}) if written is None else written
                )
                result[name] = _convert(reading, inner, chosen)
            case _:
                if name not in value:
                    raise BadValue(f"the key {name} is missing")
                result[name] = None if value[name] is None else _convert(reading, kind, value[name])
    return result


def _validate(reading: Reading, variable: _Declared) -> None:
    for block in variable.block.body.blocks:
        if block.kind != "validation":
            continue
        section = Section(
            reading, block.body, {}, path=("variable", variable.name), title="validation", start=block.start
        )
        if not section.has("condition"):
            section.problem(block.start, "validation has no condition; expected condition = …")
        holds = section.boolean("condition")
        message = section.text("error_message")
        section.finish()
        if holds is False:
            section.problem(
                variable.block.start, f"variable {variable.name}: {message or 'the value is not valid'}"
            )


def bind_locals(reading: Reading, root: Body) -> None:
    """Make `local` known to the evaluator; each is evaluated when first used."""
    expressions: dict[str, Expression] = {}
    for block in root.blocks:
        if block.kind != "locals":
            continue
        for attribute in block.body.attributes.values():
            if attribute.name in expressions:
                reading.problems.append(
                    reading.source.problem(attribute.start, f"local {attribute.name} is set twice")
                )
            expressions[attribute.name] = attribute.value
    values: dict[str, Value] = {}
    failed: dict[str, Fault] = {}
    pending: list[str] = []

    def get(name: str) -> Value:
        if name in failed:
            raise failed[name]
        if name not in values:
            if name in pending:
                cycle = " → ".join([*pending[pending.index(name) :], name])
                raise reading.source.fault(
                    expressions[name].start,
                    f"locals depend on each other: {cycle}; expected one that does not",
                )
            pending.append(name)
            try:
                values[name] = reading.evaluator.evaluate(reading.source, expressions[name], {})
            except Fault as fault:
                failed[name] = fault
                raise
            finally:
                pending.pop()
        return values[name]

    reading.evaluator.roots["local"] = Members("local", tuple(expressions), get)
    for name in expressions:
        try:
            get(name)
        except Fault as fault:
            reading.problems.append(fault.problem)


__all__ = ["Given", "bind_locals", "bind_variables"]
