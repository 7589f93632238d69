"""How every command ends: an exit code, and a sentence where something went wrong; never a traceback."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

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
        _discard_output()
        return 0
    except OSError as error:
        _discard_output()
        sys.stderr.write(f"error: cannot write the answer: {error.strerror or error}\n")
        return 1
    return code


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


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _ended(command: Callable[[], int]) -> int:
    try:
        return command()
    except KeyboardInterrupt:
        return 130
    except NoLeader as error:
        # The command that answers without a leader says who is missing.
        more = "".join(f"; {each}" for each in getattr(error, "__notes__", ()))
        sys.stderr.write(f"error: {error}; is a majority of the voters up? See: swarmlet status{more}\n")
        return error.exit_code
    except SwarmletError as error:
        sys.stderr.write(f"error: {error}\n")
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
        sys.stderr.write(f"error: {said}\n")
        return 1
    except UnicodeEncodeError as error:
        # Bytes of the command line that are not UTF-8 come as lone surrogates, which nothing can send.
        sys.stderr.write(f"error: not UTF-8 text: {error.object!r}\n")
        return 1
    except Exception as error:
        if os.environ.get("SWARMLET_TRACEBACK"):
            raise
        sys.stderr.write(
            f"error: internal error ({type(error).__name__}: {error}); this is a defect of swarmlet. "
            "SWARMLET_TRACEBACK=1 shows where\n"
        )
        return 1
