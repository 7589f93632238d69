"""What a function of the job language takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from swarmlet.jobspec.value import BadValue, Value, sized


@dataclass(frozen=True, slots=True)
class Function:
    """A pure function and how many arguments it takes; `most` of None: any number."""

    run: Callable[..., Value]
    least: int
    most: int | None

    def check_count(self, name: str, count: int) -> None:
        """Raises BadValue when `count` arguments are too few or too many."""
        if count >= self.least and (self.most is None or count <= self.most):
            return
        if self.most is None:
            expected = f"at least {self.least}"
        elif self.least == self.most:
            expected = str(self.least)
        else:
            expected = f"{self.least} to {self.most}"
        noun = "argument" if expected.endswith("1") else "arguments"
        raise BadValue(f"{name}() got {count}; expected {expected} {noun}")

    def call(self, arguments: list[Value]) -> Value:
        """The result. Raises BadValue."""
        return sized(self.run(*arguments))
