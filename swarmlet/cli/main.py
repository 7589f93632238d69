"""The command line's root."""

from __future__ import annotations


def run(arguments: list[str]) -> int:
    """Run one command; the exit code."""
    raise NotImplementedError
