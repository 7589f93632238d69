"""Reads data-driven transcripts: a command, its input lines, `----`, the expected text, a blank line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

_ARGUMENT = re.compile(r"([^\s=]+)(?:=(\([^)]*\)|\S*))?")
_LOG_LINE = re.compile(r"^\s*(DEBUG|INFO|WARN|ERROR|FATAL) ")
_TRUTH = {"true": True, "false": False}


_T = TypeVar("_T")


class Unknown(AssertionError):
    """A transcript asks for something that this adapter does not do: it must not pass by being skipped."""

    def __init__(self, directive: Directive, what: str, known: Iterable[str]) -> None:
        choices = ", ".join(sorted(known)) or "none"
        super().__init__(f"line {directive.line}: {what} is not known here; known: {choices}")


@dataclass
class Directive:
    """One command of a transcript."""

    line: int
    command: str
    #: Arguments without a value, in order.
    words: list[str] = field(default_factory=list)
    #: Arguments with values: `key=v` has one, `key=(v, w)` several.
    values: dict[str, list[str]] = field(default_factory=dict)
    #: Both kinds as they stand, for the commands to which their order matters.
    arguments: list[tuple[str, list[str]]] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    expected: str = ""

    def one(self, key: str, default: str) -> str:
        """The single value of `key`."""
        found = self.values.get(key)
        return found[0] if found else default

    def flag(self, key: str) -> bool:
        """The boolean value of `key`, False when it is not given. Raises Unknown."""
        value = self.one(key, "false")
        if value not in _TRUTH:
            raise Unknown(self, f"the value {value!r} of {key}", _TRUTH)
        return _TRUTH[value]

    def choice(self, key: str, choices: Mapping[str, _T], default: str) -> _T:
        """What the single value of `key` stands for. Raises Unknown."""
        value = self.one(key, default)
        if value not in choices:
            raise Unknown(self, f"the value {value!r} of {key}", choices)
        return choices[value]

    def check(self, commands: Mapping[str, frozenset[str]]) -> None:
        """Raises Unknown for a command that is not among `commands`, or an option that it does not have."""
        if self.command not in commands:
            raise Unknown(self, f"the command {self.command!r}", commands)
        for key in self.values:
            if key not in commands[self.command]:
                raise Unknown(self, f"the option {key!r} of {self.command}", commands[self.command])

    def numbers(self) -> list[int]:
        """The words as numbers."""
        return [int(word) for word in self.words]


def directives(text: str) -> Iterator[Directive]:
    """The commands of a transcript, in order."""
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        line = lines[position].strip()
        if not line or line.startswith("#"):
            position += 1
            continue
        directive = _parse(position + 1, line)
        position += 1
        while lines[position].rstrip() != "----":
            directive.body.append(lines[position])
            position += 1
        position, directive.expected = _expected(lines, position + 1)
        yield directive


def _expected(lines: list[str], position: int) -> tuple[int, str]:
    """The expected text, to a blank line, or to a second pair of rulers where it holds blank lines."""
    found = []
    if position < len(lines) and lines[position].rstrip() == "----":
        position += 1
        while [item.rstrip() for item in lines[position : position + 2]] != ["----", "----"]:
            found.append(lines[position])
            position += 1
        return position + 2, "\n".join(found)
    while position < len(lines) and lines[position].strip():
        found.append(lines[position])
        position += 1
    return position, "\n".join(found)


def _parse(number: int, line: str) -> Directive:
    command, _, rest = line.partition(" ")
    directive = Directive(number, command)
    for match in _ARGUMENT.finditer(rest):
        key, value = match.group(1), match.group(2)
        if value is None:
            directive.words.append(key)
            directive.arguments.append((key, []))
        else:
            inner = value[1:-1] if value.startswith("(") else value
            directive.values[key] = [item.strip() for item in inner.split(",") if item.strip()]
            directive.arguments.append((key, directive.values[key]))
    return directive


def without_log_lines(text: str) -> str:
    """The text without the lines that a logger wrote; `ok` when nothing else is left."""
    kept = [line.rstrip() for line in text.splitlines() if not _LOG_LINE.match(line)]
    return "\n".join(kept).strip("\n") or "ok"


def transcripts(folder: str) -> list[Path]:
    """The transcript files of one folder, sorted; none where the data is not there."""
    root = os.environ.get("SWARMLET_CONFORMANCE_DATA")
    if not root:
        return []
    return sorted((Path(root) / "etcd-raft-transcripts" / folder).glob("*.txt"))
