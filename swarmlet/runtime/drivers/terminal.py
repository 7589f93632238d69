"""Turns this process into a command that has standard input's terminal as its controlling one.

Run as a script in a session of its own: `python -I -S terminal.py COMMAND ARGUMENT...`. The terminal makes
signals of Ctrl-C and tells resizes only to the session that it controls, and the kernel lets only the session's
own process take it.
"""

from __future__ import annotations

import fcntl
import os
import sys
import termios


def main() -> int:
    """Take the terminal, then be the command. Returns only when there is no such command."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    command = sys.argv[1:]
    try:
        os.execvp(command[0], command)  # noqa: S606 (a shell is what we avoid)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\r\n")
        # As a shell says it: not there, or there and not to be run.
        return 127 if isinstance(error, FileNotFoundError) else 126


if __name__ == "__main__":
    sys.exit(main())
