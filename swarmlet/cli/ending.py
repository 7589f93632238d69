"""How every command ends: an exit code, and a sentence where something went wrong; never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from swarmlet.errors import NoLeader, SwarmletError

#: Standard error, the last of a process's three streams.
STREAM_NUMBER_MAX = 2


def ended(command: Callable[[], int]) -> int:
    """Run `command`; the exit code: its own, 1 refused or failed, 130 interrupted."""
    _open_closed_streams()
    # A terminal that cannot show a character gets its number, not an error in the middle of an answer.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _ended(command)
        # Here, where a closed pipe can still be told from a failure.
        sys.stdout.flush()
    except BrokenPipeError:
        # `swarmlet logs | head`: the reader has enough. What is still buffered goes nowhere.
        discard(sys.stdout)
        code = 0
    except OSError as error:
        discard(sys.stdout)
        _tell(f"error: cannot write the answer: {error.strerror or error}")
        code = 1
    # The interpreter flushes once more, and what it can't write would take the place of the exit code (120).
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr)
    return code


def _tell(text: str) -> None:
    """A line to standard error. Where nobody reads that, the exit code alone says what happened."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        discard(sys.stderr)


def _open_closed_streams() -> None:
    """`swarmlet … >&-`: nothing is read or shown there, and no file of ours takes the number of such a stream."""
    # The lowest free number is given first: the loop ends with the first that no stream has.
    while (number := os.open(os.devnull, os.O_RDWR)) <= STREAM_NUMBER_MAX:
        pass
    os.close(number)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")


def discard(stream: TextIO) -> None:
    """What is still in a stream that can't be written, and all that follows, goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _ended(command: Callable[[], int]) -> int:
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except NoLeader as error:
        # The command that answers without a leader says who is missing.
        more = "".join(f"; {each}" for each in getattr(error, "__notes__", ()))
        _tell(f"error: {error}; is a majority of the voters up? See: swarmlet status{more}")
        return error.exit_code
    except SwarmletError as error:
        _tell(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        raise
    except OSError as error:
        # The user's machine: a full disk, a missing right.
        said = f"this machine: {error.strerror or error}"
        if isinstance(error.filename, str | bytes):
            from swarmlet.runtime.free_space import sentence

            path = os.fsdecode(error.filename)
            said = sentence(error, path, path)
        _tell(f"error: {said}")
        return 1
    except UnicodeEncodeError as error:
        # Bytes of the command line that are not UTF-8 come as lone surrogates, which nothing can send.
        _tell(f"error: not UTF-8 text: {error.object!r}")
        return 1
    except Exception as error:
        if os.environ.get("SWARMLET_TRACEBACK"):
            raise
        _tell(
            f"error: internal error ({type(error).__name__}: {error}); this is a defect of swarmlet. "
            "SWARMLET_TRACEBACK=1 shows where"
        )
        return 1
