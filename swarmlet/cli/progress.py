"""Something is said once a second while a command works and has nothing else to say."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from swarmlet.cli.output import say_now

PROGRESS_SECONDS = 1.0


@contextlib.contextmanager
def working(what: str, *, quiet: bool) -> Iterator[None]:
    """Say `what` and for how long, each second until it is done. `quiet`: say nothing (JSON)."""
    if quiet:
        yield
        return
    done = threading.Event()
    started = time.monotonic()

    def tell() -> None:
        while not done.wait(PROGRESS_SECONDS):
            say_now(f"{what} · {time.monotonic() - started:.0f} s")

    thread = threading.Thread(target=tell, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
