"""A problem with a place: which file, line and column, what is wrong, what was expected, what to do."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from swarmlet.errors import InvalidJob

#: A source line longer than this is cut around the caret, so that a message stays readable.
SNIPPET_CHARACTERS_MAX = 120
#: Problems reported for one file; the rest is counted. More would hide the first, which often caused them.
PROBLEMS_MAX = 50


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence about one place. `line` and `column` count from 1 in characters; line 0: no place."""

    filename: str
    line: int
    column: int
    message: str
    source_line: str = ""

    def __str__(self) -> str:
        """`file:line:column: message`, the form that editors understand."""
        if not self.line:
            return f"{self.filename}: {self.message}"
        return f"{self.filename}:{self.line}:{self.column}: {self.message}"

    def render(self) -> str:
        """The sentence with the source line and a caret under the place."""
        if not self.line:
            return str(self)
        first = max(0, self.column - 1 - SNIPPET_CHARACTERS_MAX // 2)
        shown = self.source_line[first : first + SNIPPET_CHARACTERS_MAX]
        # Tabs stay tabs above the caret, or it would point beside its character.
        indent = "".join("\t" if c == "\t" else " " for c in shown[: self.column - 1 - first])
        number = str(self.line)
        gutter = " " * len(number)
        return f"{self}\n {number} | {shown}\n {gutter} | {indent}^"


class InvalidJobFile(InvalidJob):
    """The text is no valid job. No state changed. `details` holds each problem with its place."""

    def __init__(self, details: list[Problem]) -> None:
        """Keep at most PROBLEMS_MAX problems, in the order of their places."""
        ordered = sorted(details, key=lambda problem: (problem.filename, problem.line, problem.column))
        unique = list(dict.fromkeys(ordered))
        self.details = tuple(unique[:PROBLEMS_MAX])
        sentences = [str(problem) for problem in self.details]
        if len(unique) > PROBLEMS_MAX:
            sentences.append(f"and {len(unique) - PROBLEMS_MAX} more problems")
        super().__init__(sentences)

    def render(self) -> str:
        """All problems with their snippets."""
        return "\n".join(problem.render() for problem in self.details)


class Fault(Exception):
    """Carries one problem up to where problems are collected; never leaves this package."""

    def __init__(self, problem: Problem) -> None:
        """Keep the problem."""
        self.problem = problem
        super().__init__(str(problem))


class Source:
    """A text with a name; turns offsets into lines and columns."""

    def __init__(self, filename: str, text: str) -> None:
        """Line ends become plain newlines; a byte order mark is dropped."""
        self.filename = filename
        self.text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        self._starts = [0]
        at = self.text.find("\n")
        while at >= 0:
            self._starts.append(at + 1)
            at = self.text.find("\n", at + 1)

    def problem(self, offset: int, message: str) -> Problem:
        """A problem at `offset`."""
        line = bisect_right(self._starts, offset)
        start = self._starts[line - 1]
        end = self.text.find("\n", start)
        shown = self.text[start : end if end >= 0 else len(self.text)]
        return Problem(self.filename, line, offset - start + 1, message, shown)

    def fault(self, offset: int, message: str) -> Fault:
        """The same, to be raised."""
        return Fault(self.problem(offset, message))
