"""`swarmlet top`: nodes and tasks by what they use, live on a terminal or once for scripts."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from swarmlet.api.client import Client
from swarmlet.cli.connection import client, json_option, stale_option
from swarmlet.cli.output import is_terminal, say, say_json
from swarmlet.cli.top_screen import ORDERS, aligned, node_rows, screen, task_rows
from swarmlet.errors import InvalidInput, Unavailable

INTERVAL_SECONDS_MIN = 0.5
INTERVAL_SECONDS_DEFAULT = 2.0
#: Through a pipe nothing is cut.
COLUMNS_MAX = 10_000
#: Another screen, and no cursor; and back (ECMA-48, and xterm's private modes).
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
BOLD, PLAIN = "\x1b[1m", "\x1b[0m"
INTERRUPT = "\x03"


@click.command()
@click.option("--once", is_flag=True, help="Show it once, all of it, and end.")
@json_option
@click.option("--node", default="", help="Only this node.")
@click.option(
    "--sort",
    "order",
    type=click.Choice(["cpu", "memory", "name"]),
    default="cpu",
    show_default=True,
    help="What comes first.",
)
@click.option(
    "--interval",
    type=float,
    default=INTERVAL_SECONDS_DEFAULT,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks.",
)
@stale_option
@click.pass_context
def top(ctx: click.Context, once: bool, as_json: bool, node: str, order: str, interval: float) -> int:
    """Nodes and tasks by what they use now: CPU (of a task, 100 % is one core), memory, disk and network.

    Live on a terminal: c, m and n choose the order, q quits. Elsewhere, and with --once or --json, once.

    \b
    Examples:
      swarmlet top
      swarmlet top --once --sort memory --node n1
    """
    if not INTERVAL_SECONDS_MIN <= interval < float("inf"):
        raise InvalidInput(f"--interval {interval:g}: expected at least {INTERVAL_SECONDS_MIN:g} seconds")
    api, query = client(ctx), {"node": node}
    if as_json:
        say_json(api.get("/v1/swarmlet/usage", query))
        return 0
    if once or not is_terminal() or not sys.stdin.isatty():
        answer = api.get("/v1/swarmlet/usage", query)
        for line in [*aligned(node_rows(answer, order[0]), COLUMNS_MAX), "", *_tasks(answer, order[0])]:
            say(line)
        return 0
    with _terminal():
        return _Live(api, query, order[0], interval).run()


def _tasks(answer: dict[str, Any], order: str) -> list[str]:
    rows = task_rows(answer, order)
    return aligned(rows, COLUMNS_MAX) if len(rows) > 1 else ["no task runs"]


class _Live:
    """The live screen."""

    def __init__(self, api: Client, query: dict[str, Any], order: str, interval: float) -> None:
        self._api = api
        self._query = query
        self._order = order
        self._interval = interval
        self._answer: dict[str, Any] = {"Nodes": []}
        self._note = ""

    def run(self) -> int:
        """Until somebody quits."""
        resized, waking = os.pipe()
        os.set_blocking(waking, False)

        def on_resize(_: int, __: FrameType | None) -> None:
            with contextlib.suppress(BlockingIOError):
                os.write(waking, b"x")

        before = signal.signal(signal.SIGWINCH, on_resize)
        try:
            return self._loop(resized)
        finally:
            signal.signal(signal.SIGWINCH, before)
            os.close(resized)
            os.close(waking)

    def _loop(self, resized: int) -> int:
        next_at = 0.0
        while True:
            if time.monotonic() >= next_at:
                next_at = time.monotonic() + self._interval
                self._ask()
            self._paint()
            wait = max(0.0, next_at - time.monotonic())
            ready, _, _ = select.select([0, resized], [], [], wait)
            if resized in ready:
                os.read(resized, 64)
            if 0 in ready:
                keys = os.read(0, 64).decode(errors="replace")
                if not keys or "q" in keys.lower():
                    return 0
                if INTERRUPT in keys:
                    return 130
                self._order = next((key for key in reversed(keys.lower()) if key in ORDERS), self._order)

    def _ask(self) -> None:
        try:
            self._answer = self._api.get("/v1/swarmlet/usage", self._query)
            self._note = time.strftime("%H:%M:%S")
        except Unavailable as error:
            # It may be back at the next look; what was seen last stays on the screen.
            self._note = str(error)

    def _paint(self) -> None:
        size = os.get_terminal_size(sys.stdout.fileno())
        lines = screen(
            self._answer, columns=size.columns, lines=size.lines, order=self._order, note=self._note
        )
        first, *rest = lines or [""]
        painted = [f"{BOLD}{first}{PLAIN}", *rest]
        sys.stdout.write(HOME + "\r\n".join(line + CLEAR_LINE for line in painted) + CLEAR_BELOW)
        sys.stdout.flush()


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Keys come as they are typed, and the terminal is given back as it was."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setcbreak(0)
        sys.stdout.write(ENTER)
        yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(0, termios.TCSADRAIN, before)
