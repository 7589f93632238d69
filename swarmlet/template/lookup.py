"""What a template may see of the world: variables, services, the environment. Handed in by who renders it."""

from __future__ import annotations

from typing import Any, Protocol, Self


class Waiting(Exception):
    """What the template needs is not there yet; `what` names it, for the task's history. Render again on a change."""

    def __init__(self, what: str) -> None:
        """Keep the name of what is missing."""
        self.what = what
        super().__init__(what)


class Item(str):
    """One item of a variable: its value as a text, that knows its key."""

    __slots__ = ("key",)

    key: str

    def __new__(cls, key: str, value: str) -> Self:
        """The value, under its key."""
        made = super().__new__(cls, value)
        made.key = key
        return made


class Items(dict[str, Any]):
    """The items of a variable, by key, and where they are from."""

    def __init__(self, path: str, namespace: str, items: dict[str, str]) -> None:
        """Keep each value with its key."""
        super().__init__((key, Item(key, items[key])) for key in sorted(items))
        self.path = path
        self.namespace = namespace

    def __repr__(self) -> str:
        """Without values."""
        return f"Items({self.path!r})"


class Fields(dict[str, Any]):
    """A thing with fixed fields: another name is a mistake in the template."""


class Lookups(Protocol):
    """One allocation's view. Each method may be asked often; answers come from one moment.

    Raises InvalidInput where the caller may not see what it asks for.
    """

    def variable(self, path: str) -> dict[str, str] | None:
        """The items of a variable, or None."""

    def variable_paths(self, prefix: str) -> list[str]:
        """Paths of the variables that begin with `prefix` and may be read, in order."""

    def services(self, name: str) -> list[dict[str, Any]]:
        """The instances of a service that answer, in order: Name, Address, Port, ID, Tags and so on."""

    def service_names(self) -> list[dict[str, Any]]:
        """Name and Tags of each service, in order."""

    def environment(self, name: str) -> str | None:
        """One of the task's environment variables."""

    def now_seconds(self) -> float:
        """Wall time."""
