"""A JSON object that is read field by field. What is wrong is noted with its path, so that a user hears of all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from swarmlet.jobspec.duration import to_duration_ns
from swarmlet.jobspec.value import BadValue, to_boolean, to_integer, to_list, to_map, to_text, weight

T = TypeVar("T")


class JsonObject:
    """Every reader gives None for what is not there, null, or wrong."""

    def __init__(self, data: Any, where: str, problems: list[str]) -> None:
        """`where` is its path; `problems` gets what is wrong."""
        self.where = where
        self.problems = problems
        self.data: dict[str, Any] = data if isinstance(data, dict) else {}
        if data is not None and not isinstance(data, dict):
            problems.append(f"{where}: expected an object")

    def _get(self, name: str, convert: Callable[[Any], T]) -> T | None:
        value = self.data.get(name)
        if value is None:
            return None
        try:
            weight(value)
            return convert(value)
        except BadValue as error:
            self.problems.append(f"{self.where}.{name}: {error}")
            return None

    def text(self, name: str) -> str | None:
        """A string."""
        return self._get(name, to_text)

    def filled(self, name: str) -> str | None:
        """A string; the empty one counts as not set."""
        return self.text(name) or None

    def integer(self, name: str) -> int | None:
        """A whole number."""
        return self._get(name, to_integer)

    def boolean(self, name: str) -> bool | None:
        """True or false."""
        return self._get(name, to_boolean)

    def duration_ns(self, name: str) -> int | None:
        """Nanoseconds, or text such as "5s"."""
        return self._get(name, to_duration_ns)

    def texts(self, name: str) -> tuple[str, ...] | None:
        """A list of strings."""
        return self._get(name, lambda value: tuple(map(to_text, to_list(value))))

    def text_map(self, name: str) -> dict[str, str]:
        """An object whose values are strings; empty where it is not there."""
        return (
            self._get(name, lambda value: {key: to_text(item) for key, item in to_map(value).items()}) or {}
        )

    def map(self, name: str) -> dict[str, Any]:
        """An object as it is; empty where it is not there."""
        return self._get(name, to_map) or {}

    def objects(self, name: str) -> list[JsonObject]:
        """A list of objects; empty where it is not there."""
        values = self._get(name, to_list) or []
        return [
            JsonObject(value, f"{self.where}.{name}[{at}]", self.problems) for at, value in enumerate(values)
        ]

    def object(self, name: str) -> JsonObject | None:
        """An object."""
        value = self.data.get(name)
        return None if value is None else JsonObject(value, f"{self.where}.{name}", self.problems)

    def choice(self, name: str, choices: Iterable[str]) -> str | None:
        """One of `choices`; the empty string counts as not set."""
        value = self.filled(name)
        if value is None or value in tuple(choices):
            return value
        self.problems.append(f'{self.where}.{name}: "{value[:40]}" is unknown; expected {", ".join(choices)}')
        return None

    def refuse(self, *names: str) -> None:
        """Things that are not supported, unless they are not set."""
        for name in names:
            if self.data.get(name):
                self.problems.append(f"{self.where}.{name} is not supported yet; remove it")
