"""Constraints: `left operand right` about a node, compiled once, evaluated per node or per computed class.

The operands and targets are those of Nomad's job specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from swarmlet.errors import InvalidJob
from swarmlet.model.job import Affinity, Constraint
from swarmlet.model.node import Node

#: Judged while placing, not per node.
DISTINCT_HOSTS = "distinct_hosts"
DISTINCT_PROPERTY = "distinct_property"
_TARGET = re.compile(r"^\$\{([^}]+)\}$")
_VERSION = re.compile(r"^v?(\d+(?:\.\d+)*)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?$")
_CLAUSE = re.compile(r"^(>=|<=|!=|~>|=|>|<)?\s*(.+)$")
#: A pattern longer than this is refused: it is compiled and run by the leader.
PATTERN_MAX = 512
#: Text given to a pattern is cut here, so that a pathological pattern stays cheap.
SUBJECT_MAX = 512

Check = Callable[[str | None, str | None], bool]
_VersionKey = tuple[tuple[int, ...], tuple[tuple[int, int, str], ...]]


@dataclass(frozen=True, slots=True)
class CompiledConstraint:
    """A constraint ready to be evaluated. `is_unique`: nodes of one computed class may differ in it."""

    source: Constraint
    is_unique: bool
    check: Check

    def holds(self, node: Node) -> bool:
        """Whether `node` satisfies it."""
        return self.check(resolve(self.source.left, node), resolve(self.source.right, node))

    @property
    def reason(self) -> str:
        """How refusals name it."""
        return describe(self.source)


def describe(constraint: Constraint) -> str:
    """The sentence for a refusal: `constraint ${attr.kernel.name} = windows`."""
    return "constraint " + " ".join(
        part for part in (constraint.left, constraint.operand, constraint.right) if part
    )


def resolve(text: str, node: Node) -> str | None:
    """The value of a target such as `${attr.cpu.arch}` on `node`; other text is itself; None: not there."""
    found = _TARGET.match(text)
    if found is None:
        return text
    name = found.group(1)
    if name.startswith("attr."):
        return node.attributes.get(name[5:])
    if name.startswith("meta."):
        return node.meta.get(name[5:])
    match name:
        case "node.unique.id":
            return node.id
        case "node.unique.name":
            return node.name
        case "node.datacenter":
            return node.datacenter
        case "node.pool":
            return node.node_pool
        case "node.class":
            return node.attributes.get("node.class", "")
        case "node.zone":
            return node.zone or None
        case "node.region":
            return "global"
        case _:
            return None


def compile_constraint(constraint: Constraint) -> CompiledConstraint:
    """Compile. Raises InvalidJob for an operand that is not known, a bad pattern or a bad version clause."""
    check = _compile_check(constraint)
    texts = (constraint.left, constraint.right)
    return CompiledConstraint(constraint, any(".unique." in text for text in texts), check)


@dataclass(frozen=True, slots=True)
class CompiledAffinity:
    """A preference ready to be evaluated."""

    source: Affinity
    match: CompiledConstraint

    @classmethod
    def of(cls, affinity: Affinity) -> CompiledAffinity:
        """Raises InvalidJob as `compile_constraint` does."""
        wanted = Constraint(left=affinity.left, right=affinity.right, operand=affinity.operand)
        return cls(affinity, compile_constraint(wanted))

    @property
    def name(self) -> str:
        """How explanations name it."""
        return describe(self.match.source).replace("constraint", "affinity", 1)


def _compile_check(constraint: Constraint) -> Check:
    operand, right = constraint.operand, constraint.right
    match operand:
        case "=" | "==" | "is":
            return lambda left, other: left is not None and left == other
        case "!=" | "not":
            return lambda left, other: left != other
        case ">" | ">=" | "<" | "<=":
            return lambda left, other: _ordered(operand, left, other)
        case "regexp":
            pattern = _compile_pattern(constraint)
            return lambda left, other: left is not None and pattern.search(left[:SUBJECT_MAX]) is not None
        case "version" | "semver":
            clauses = _compile_clauses(constraint, strict=operand == "semver")
            return lambda left, other: left is not None and _in_range(left, clauses)
        case "set_contains" | "set_contains_all":
            return lambda left, other: left is not None and _items(other) <= _items(left)
        case "set_contains_any":
            return lambda left, other: left is not None and bool(_items(other) & _items(left))
        case "is_set" | "attribute_is_set":
            return lambda left, other: left is not None
        case "is_not_set" | "attribute_is_not_set":
            return lambda left, other: left is None
        case "distinct_hosts":
            return lambda left, other: True
        case "distinct_property":
            limit_of(constraint)
            # Which values are used up is judged while placing; a node without the attribute never will do.
            return lambda left, other: left is not None
        case _:
            raise InvalidJob(
                f"constraint operand {operand!r} (with {right!r}) is not supported; use one of"
                " = != > >= < <= regexp version semver set_contains set_contains_any is_set is_not_set"
                " distinct_hosts distinct_property"
            )


def is_distinct_hosts(constraint: Constraint) -> bool:
    """Whether it asks for one allocation per node (`distinct_hosts`, unless switched off by "false")."""
    return constraint.operand == DISTINCT_HOSTS and constraint.right.lower() != "false"


def limit_of(constraint: Constraint) -> int:
    """How many allocations a `distinct_property` allows per value. Raises InvalidJob for anything but a number."""
    text = constraint.right or "1"
    if not (text.isascii() and text.isdigit() and int(text[:10]) > 0):
        raise InvalidJob(f"{describe(constraint)}: expected how many may share a value, 1 or more")
    return int(text[:10])


def _items(text: str | None) -> set[str]:
    return {item.strip() for item in (text or "").split(",") if item.strip()}


def _ordered(operand: str, left: str | None, right: str | None) -> bool:
    """Numbers as numbers, everything else as text."""
    if left is None or right is None:
        return False
    sign = _compare(left, right)
    match operand:
        case ">":
            return sign > 0
        case ">=":
            return sign >= 0
        case "<":
            return sign < 0
        case _:
            return sign <= 0


def _compare(left: str, right: str) -> int:
    for kind in (int, float):
        try:
            first, second = kind(left), kind(right)
        except ValueError:
            continue
        return (first > second) - (first < second)
    return (left > right) - (left < right)


def _compile_pattern(constraint: Constraint) -> re.Pattern[str]:
    if len(constraint.right) > PATTERN_MAX:
        raise InvalidJob(
            f"{describe(constraint)[:80]}...: pattern of {len(constraint.right)} characters exceeds {PATTERN_MAX}"
        )
    try:
        return re.compile(constraint.right)
    except re.error as error:
        raise InvalidJob(f"{describe(constraint)}: not a valid pattern: {error}") from error


def _version(text: str) -> _VersionKey | None:
    """A sortable key: numbers without trailing zeros, then the pre-release (none sorts last)."""
    found = _VERSION.match(text.strip())
    if found is None:
        return None
    numbers = [int(part) for part in found.group(1).split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers), _prerelease(found.group(2))


def _prerelease(text: str | None) -> tuple[tuple[int, int, str], ...]:
    if text is None:
        return ((2, 0, ""),)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in text.split("."))


def _compile_clauses(constraint: Constraint, *, strict: bool) -> tuple[tuple[str, str, _VersionKey], ...]:
    clauses = []
    for part in constraint.right.split(","):
        found = _CLAUSE.match(part.strip())
        text = found.group(2).strip() if found else ""
        version = _version(text)
        if found is None or version is None or (strict and found.group(1) == "~>"):
            raise InvalidJob(
                f"{describe(constraint)}: {part.strip()!r} is no version clause; expected e.g. '>= 1.2.0'"
            )
        clauses.append((found.group(1) or "=", text, version))
    return tuple(clauses)


def _in_range(text: str, clauses: tuple[tuple[str, str, _VersionKey], ...]) -> bool:
    version = _version(text)
    if version is None:
        return False
    return all(_satisfies(version, operand, wanted, wanted_text) for operand, wanted_text, wanted in clauses)


def _satisfies(version: _VersionKey, operand: str, wanted: _VersionKey, wanted_text: str) -> bool:
    match operand:
        case "=":
            return version == wanted
        case "!=":
            return version != wanted
        case ">":
            return version > wanted
        case ">=":
            return version >= wanted
        case "<":
            return version < wanted
        case "<=":
            return version <= wanted
        case _:
            return version >= wanted and _same_series(version, wanted_text)


def _same_series(version: _VersionKey, wanted_text: str) -> bool:
    """`~> 1.2.3`: 1.2.x; `~> 1.2`: 1.x."""
    numbers = [int(part) for part in wanted_text.lstrip("v").split("-", maxsplit=1)[0].split(".")]
    series = numbers[:-1] or numbers
    have = list(version[0]) + [0] * len(series)
    return have[: len(series)] == series
