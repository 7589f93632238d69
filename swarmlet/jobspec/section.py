"""A block being read: attributes with type checks, nested blocks with `dynamic` expanded, unknown names refused.

What a reader asks for is what the block may hold: `finish` refuses the rest, with a suggestion from what was asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from swarmlet.jobspec.duration import to_duration_ns
from swarmlet.jobspec.evaluate import Evaluator, Scope, suggestion
from swarmlet.jobspec.problem import Fault, Problem, Source
from swarmlet.jobspec.syntax import Attribute, Block, Body
from swarmlet.jobspec.value import (
    BadValue,
    Value,
    describe,
    to_boolean,
    to_integer,
    to_list,
    to_map,
    to_text,
    weight,
)

T = TypeVar("T")
#: Names from the job down to a thing, e.g. ("group", "web", "count").
Path = tuple[str, ...]
#: Blocks that one `dynamic` may make.
DYNAMIC_BLOCKS_MAX = 1_000


@dataclass
class Reading:
    """What all sections of one file share."""

    source: Source
    evaluator: Evaluator
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    #: Where each thing stands, for checks that see the finished job only.
    places: dict[Path, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Expanded:
    """A nested block; one that `dynamic` made has names of its own in scope."""

    kind: str
    labels: tuple[str, ...]
    label_starts: tuple[int, ...]
    start: int
    body: Body
    scope: Scope


class Section:
    """One block. Reading methods return None for what is absent or wrong; wrong things are noted as problems."""

    def __init__(
        self,
        reading: Reading,
        body: Body,
        scope: Scope,
        *,
        path: Path,
        title: str,
        start: int,
        label: str = "",
    ) -> None:
        """Note the place and expand the `dynamic` blocks."""
        self.reading = reading
        self.body = body
        self.scope = scope
        self.path = path
        self.title = title
        self.start = start
        self.label = label
        self._asked: dict[str, None] = {}
        reading.places[path] = start
        self._nested = self._expand()

    # Problems -------------------------------------------------------------------------------------------

    def problem(self, offset: int, message: str) -> None:
        """Note a problem."""
        self.reading.problems.append(self.reading.source.problem(offset, message))

    def warn(self, offset: int, message: str) -> None:
        """Note a warning."""
        self.reading.warnings.append(self.reading.source.problem(offset, message))

    def place(self, name: str) -> int:
        """Where an attribute's value stands; without it, where the block does."""
        attribute = self.body.attributes.get(name)
        return attribute.value.start if attribute else self.start

    # Attributes -----------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether the attribute is written."""
        self._asked[name] = None
        return name in self.body.attributes

    def value(self, name: str) -> Value:
        """The value as it is; null counts as absent."""
        self._asked[name] = None
        attribute = self.body.attributes.get(name)
        if attribute is None:
            return None
        self.reading.places[(*self.path, name)] = attribute.value.start
        return self._evaluated(attribute)

    def _evaluated(self, attribute: Attribute) -> Value:
        try:
            value = self.reading.evaluator.evaluate(self.reading.source, attribute.value, self.scope)
            weight(value)
            return value
        except Fault as fault:
            self.reading.problems.append(fault.problem)
        except BadValue as error:
            self.problem(attribute.value.start, f"{attribute.name}: {error}")
        return None

    def _converted(self, name: str, convert: Callable[[Value], T], expected: str) -> T | None:
        value = self.value(name)
        if value is None:
            return None
        try:
            return convert(value)
        except BadValue as error:
            told = str(error)
            tail = "" if "expected" in told else f"; expected {expected}"
            self.problem(self.place(name), f"{name}: {told}{tail}")
            return None

    def text(self, name: str) -> str | None:
        """A string."""
        return self._converted(name, to_text, "a string")

    def integer(self, name: str) -> int | None:
        """A whole number."""
        return self._converted(name, to_integer, "a whole number")

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        return self._converted(name, to_boolean, "true or false")

    def duration_ns(self, name: str) -> int | None:
        """A duration."""
        return self._converted(name, to_duration_ns, 'a duration such as "30s"')

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings."""
        return self._converted(name, lambda value: tuple(map(to_text, to_list(value))), "a list of strings")

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        """One of some strings."""
        value = self.text(name)
        if value is None or value in choices:
            return value
        shown = ", ".join(choices)
        self.problem(
            self.place(name),
            f'{name}: "{value[:40]}" is unknown; expected {shown}{suggestion(value, choices)}',
        )
        return None

    def text_map(self, name: str) -> dict[str, str]:
        """A map of strings, written as an attribute, or as a block whose attributes are the entries."""

        def convert(value: Value) -> dict[str, str]:
            return {key: to_text(item) for key, item in to_map(value).items() if item is not None}

        merged = dict(self._converted(name, convert, "a map of strings") or {})
        for section in self.blocks(name):
            for key in section.body.attributes:
                text = section.text(key)
                if text is not None:
                    merged[key] = text
            section.finish()
        return merged

    # Blocks ---------------------------------------------------------------------------------------------

    def blocks(self, kind: str, *, is_labelled: bool = False) -> list[Section]:
        """All blocks of a kind, in order; with `is_labelled` each must have one label, else none."""
        self._asked[kind] = None
        sections = []
        for number, nested in enumerate(item for item in self._nested if item.kind == kind):
            if is_labelled and len(nested.labels) != 1:
                self.problem(
                    nested.start, f'{kind} has {len(nested.labels)} labels; expected one: {kind} "name" {{'
                )
                continue
            if not is_labelled and nested.labels:
                self.problem(nested.label_starts[0], f"{kind} takes no label; expected {kind} {{")
                continue
            label = nested.labels[0] if is_labelled else ""
            here = (kind, label) if is_labelled else (kind, str(number))
            sections.append(
                Section(
                    self.reading,
                    nested.body,
                    nested.scope,
                    path=(*self.path, *here),
                    title=kind,
                    start=nested.start,
                    label=label,
                )
            )
        return sections

    def block(self, kind: str) -> Section | None:
        """The block of a kind, of which there may be one."""
        found = self.blocks(kind)
        for extra in found[1:]:
            self.problem(extra.start, f"a second {kind} block; expected one in {self.title}")
        if self.has(kind) and not found:
            self.problem(
                self.body.attributes[kind].start, f"{kind} is a block; expected {kind} {{ … }} without ="
            )
        return found[0] if found else None

    def data(self) -> dict[str, Value]:
        """The block as plain data: a nested block becomes a list with one map per block, as in Nomad's JSON."""
        result: dict[str, Value] = {}
        for name in self.body.attributes:
            value = self.value(name)
            if value is not None:
                result[name] = value
        for nested in self._nested:
            self._asked[nested.kind] = None
            number = str(len(_listed(result.get(nested.kind))))
            self.reading.places.setdefault((*self.path, nested.kind), nested.start)
            inner = Section(
                self.reading,
                nested.body,
                nested.scope,
                path=(*self.path, nested.kind, number),
                title=nested.kind,
                start=nested.start,
            ).data()
            for label in reversed(nested.labels):
                inner = {label: [inner]}
            listed = result.setdefault(nested.kind, [])
            if isinstance(listed, list):
                listed.append(inner)
            else:
                self.problem(
                    nested.start, f"{nested.kind} is set as an argument and as a block; expected one"
                )
        return result

    def refuse(self, reasons: dict[str, str]) -> None:
        """Name each attribute or block of `reasons` that is written as a problem."""
        for name, start in self._written():
            if name in reasons:
                self._asked[name] = None
                self.problem(
                    start, f"{name} is not supported: {reasons[name]}; expected {self.title} without it"
                )

    def ignore(self, reasons: dict[str, str]) -> None:
        """Name each attribute or block of `reasons` that is written as a warning."""
        for name, start in self._written():
            if name in reasons:
                self._asked[name] = None
                self.warn(start, f"{name} is ignored: {reasons[name]}")

    def finish(self) -> None:
        """Refuse what nobody asked for."""
        known = sorted(self._asked)
        for name, start in self._written():
            if name not in self._asked:
                hint = suggestion(name, known)
                shown = ", ".join(known) or "nothing" if not hint else "a known name"
                self.problem(start, f"{name} is unknown in {self.title}; expected {shown}{hint}")

    def _written(self) -> list[tuple[str, int]]:
        names = [(attribute.name, attribute.start) for attribute in self.body.attributes.values()]
        return names + [(nested.kind, nested.start) for nested in self._nested]

    # Dynamic blocks -------------------------------------------------------------------------------------

    def _expand(self) -> list[_Expanded]:
        expanded: list[_Expanded] = []
        for block in self.body.blocks:
            if block.kind != "dynamic":
                expanded.append(
                    _Expanded(
                        block.kind, block.labels, block.label_starts, block.start, block.body, self.scope
                    )
                )
                continue
            try:
                expanded.extend(self._dynamic(block))
            except Fault as fault:
                self.reading.problems.append(fault.problem)
        return expanded

    def _dynamic(self, block: Block) -> list[_Expanded]:
        source, evaluator = self.reading.source, self.reading.evaluator
        content = [inner for inner in block.body.blocks if inner.kind == "content"]
        for_each = block.body.attributes.get("for_each")
        if len(block.labels) != 1 or len(content) != 1 or for_each is None:
            raise source.fault(
                block.start,
                'a dynamic block is incomplete; expected dynamic "kind" { for_each = … content { … } }',
            )
        for name, attribute in block.body.attributes.items():
            if name not in ("for_each", "iterator", "labels"):
                raise source.fault(
                    attribute.start, f"{name} is unknown in dynamic; expected for_each, iterator or labels"
                )
        iterator = block.labels[0]
        if named := block.body.attributes.get("iterator"):
            iterator = getattr(named.value, "name", "")
            if not iterator:
                raise source.fault(named.value.start, "iterator: expected a bare name")
        collection = evaluator.evaluate(source, for_each.value, self.scope)
        if isinstance(collection, dict):
            elements = [(key, collection[key]) for key in sorted(collection)]
        elif isinstance(collection, list):
            elements = list(enumerate(collection))
        else:
            raise source.fault(
                for_each.value.start, f"for_each is {describe(collection)}; expected a list or a map"
            )
        if len(elements) > DYNAMIC_BLOCKS_MAX:
            raise source.fault(
                for_each.value.start, f"{len(elements)} blocks exceed {DYNAMIC_BLOCKS_MAX}; use fewer"
            )
        result = []
        for key, value in elements:
            scope = {**self.scope, iterator: {"key": key, "value": value}}
            labels = self._dynamic_labels(block, scope)
            starts = (content[0].start,) * len(labels)
            result.append(_Expanded(block.labels[0], labels, starts, block.start, content[0].body, scope))
        return result

    def _dynamic_labels(self, block: Block, scope: Scope) -> tuple[str, ...]:
        attribute = block.body.attributes.get("labels")
        if attribute is None:
            return ()
        value = self.reading.evaluator.evaluate(self.reading.source, attribute.value, scope)
        try:
            return tuple(map(to_text, to_list(value)))
        except BadValue as error:
            raise self.reading.source.fault(attribute.value.start, f"labels: {error}") from error


def _listed(value: Value) -> list[Value]:
    return value if isinstance(value, list) else []
