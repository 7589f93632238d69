"""How answers look: tables that fit a terminal, JSON, ids of eight characters, times as people say them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

#: Characters of an id that are shown and usually suffice.
ID_SHOWN = 8
WIDTH_DEFAULT = 80
#: No column of a table is made narrower. (The widest give way first: ids are cut only where there are many columns.)
CELL_WIDTH_MIN = 4

_HUES = {"red": 1, "green": 2, "yellow": 3, "blue": 4, "magenta": 5, "cyan": 6}
_COLORS = {
    "bold": "1",
    "dim": "2",
    **{name: str(30 + number) for name, number in _HUES.items()},
    **{f"bright {name}": str(90 + number) for name, number in _HUES.items()},
}
_STATUS_COLORS = {
    "running": "green",
    "ready": "green",
    "successful": "green",
    "complete": "dim",
    "pending": "yellow",
    "unknown": "yellow",
    "disconnected": "yellow",
    "failed": "red",
    "lost": "red",
    "down": "red",
}


def is_terminal() -> bool:
    """Whether a person watches standard output."""
    return sys.stdout.isatty()


def paint(text: str, color: str) -> str:
    """`text` in a colour, on a terminal that wants colours."""
    if not is_terminal() or os.environ.get("NO_COLOR") or color not in _COLORS:
        return text
    return f"\x1b[{_COLORS[color]}m{text}\x1b[0m"


def say(text: str = "") -> None:
    """One line to standard output."""
    sys.stdout.write(text + "\n")


def say_now(text: str = "") -> None:
    """One line that is seen at once even through a pipe (progress)."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_sentence(text: str) -> None:
    """A sentence to standard output: on a terminal broken between words, its further lines further in."""
    say(wrapped(text) if is_terminal() else text)


def warn(text: str) -> None:
    """A sentence to standard error, a line of its own unless a terminal is narrower."""
    said = f"warning: {text}"
    sys.stderr.write((wrapped(said) if sys.stderr.isatty() else said) + "\n")


def wrapped(text: str) -> str:
    """`text` in lines that fit the terminal, broken between words; what follows the first is two columns further in."""
    width = _columns()
    if len(text) <= width or "\n" in text:
        return text
    import textwrap

    inside = " " * (len(text) - len(text.lstrip()) + 2)
    return textwrap.fill(
        text,
        width,
        subsequent_indent=inside,
        break_long_words=False,
        break_on_hyphens=False,
    )


def note(text: str) -> None:
    """One line to standard error about the answer, which is whole all the same."""
    sys.stderr.write(f"{text}\n")


def say_json(value: Any) -> None:
    """The answer as JSON."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def short(identifier: str) -> str:
    """The first characters of an id."""
    return identifier[:ID_SHOWN]


def counted(number: int, noun: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, wide: bool = False) -> None:
    """Columns; the widest column gives way until a line fits the terminal, unless `wide`."""
    if not rows:
        return
    cells = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    if not wide:
        room = _columns()
        while sum(widths) + 2 * (len(widths) - 1) > room and max(widths) > CELL_WIDTH_MIN:
            widths[widths.index(max(widths))] -= 1
    for number, row in enumerate(cells):
        parts = []
        for cell, width in zip(row, widths, strict=True):
            cut = cell if len(cell) <= width else cell[: max(1, width - 1)] + "…"
            padded = cut.ljust(width)
            parts.append(
                paint(padded, "bold") if number == 0 else paint(padded, _STATUS_COLORS.get(cell, ""))
            )
        say("  ".join(parts).rstrip())


def _columns() -> int:
    """How wide the terminal is; 80 where nobody says (`shutil`, which knows too, is slow to load)."""
    try:
        columns = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        columns = 0
    if columns <= 0 and is_terminal():
        try:
            columns = os.get_terminal_size(sys.stdout.fileno()).columns
        except OSError:
            columns = 0
    return columns if columns > 0 else WIDTH_DEFAULT


def age(since_ns: int, now_ns: int) -> str:
    """How long ago: "12 s ago", "3 min ago", "2 d ago"; empty for never."""
    if since_ns <= 0:
        return ""
    return f"{span(max(0, now_ns - since_ns))} ago"


def span(duration_ns: int) -> str:
    """A duration with one unit."""
    seconds = duration_ns / 1e9
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def mib(amount: int) -> str:
    """An amount of MiB, in GiB when large."""
    return f"{amount / 1024:.1f} GiB" if amount >= 1024 else f"{amount} MiB"
