"""Run-time interpolation: `${node.…}`, `${attr.…}`, `${meta.…}`, `${env.…}`, `${NOMAD_…}` where a task starts.

What nobody knows stays as it is written, as in Nomad: a shell may want it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: A reference is one line of text without braces inside.
_REFERENCE = re.compile(r"\$\{\s*([^{}\s][^{}\n]*?)\s*\}")
_KEY = re.compile(r'\[\s*"([^"]*)"\s*\]')
#: The text may grow to this; then references stay as they are.
RESULT_CHARACTERS_MAX = 1024 * 1024


def interpolate(text: str, attributes: Mapping[str, str], environment: Mapping[str, str]) -> str:
    """`text` with its references filled in.

    `attributes` has what the node knows by whole names ("node.unique.name", "attr.cpu.arch", "meta.rack");
    `environment` the task's variables ("NOMAD_PORT_http", "PATH"), also reached as `env.NAME`. One pass: what
    comes in is not looked at again.
    """
    if "${" not in text:
        return text
    length = len(text)

    def replacement(found: re.Match[str]) -> str:
        nonlocal length
        value = lookup(found.group(1), attributes, environment)
        if value is None or length + len(value) > RESULT_CHARACTERS_MAX:
            return found.group()
        length += len(value)
        return value

    return _REFERENCE.sub(replacement, text)


def lookup(reference: str, attributes: Mapping[str, str], environment: Mapping[str, str]) -> str | None:
    """What one reference (the text between the braces) stands for; None: unknown."""
    name = _KEY.sub(r".\1", reference)
    if name in attributes:
        return attributes[name]
    if name in environment:
        return environment[name]
    if name.startswith("env."):
        return environment.get(name.removeprefix("env."))
    return None


def interpolate_data(value: Any, attributes: Mapping[str, str], environment: Mapping[str, str]) -> Any:
    """A driver's configuration with every string in it interpolated, keys included."""
    if isinstance(value, str):
        return interpolate(value, attributes, environment)
    if isinstance(value, (list, tuple)):
        return [interpolate_data(item, attributes, environment) for item in value]
    if isinstance(value, dict):
        return {
            interpolate(key, attributes, environment): interpolate_data(item, attributes, environment)
            for key, item in value.items()
        }
    return value


def references(text: str) -> tuple[str, ...]:
    """The references in a text, in order."""
    return tuple(found.group(1) for found in _REFERENCE.finditer(text))
