"""Processor time that a hypervisor gave to other machines, and measurements in which it took little of it.

A virtual machine stands still while its hypervisor runs somebody else on the processors it was promised; the kernel
counts that as "steal" (proc(5), /proc/stat). A second in which a fifth was stolen says nothing about the program that
was measured. It comes and goes within minutes: a measurement of some seconds can be repeated until it was left alone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

#: What is measured so often is told as it is, with what was stolen.
ATTEMPTS_MAX = 6
#: A probe keeps one processor busy for so long: nothing is stolen from a machine that wants nothing.
PROBE_SECONDS = 0.5
#: Between two probes.
PROBE_EVERY_SECONDS = 5.0
#: So long a calm moment is waited for before a measurement is repeated.
CALM_SECONDS_MAX = 120.0

Result = TypeVar("Result")


def stolen_seconds() -> float:
    """Seconds that were stolen from all processors together since the machine began."""
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")


class Undisturbed:
    """Repeats measurements of which more than a share was stolen."""

    def __init__(
        self, most: float, tell: Callable[[str], None], stolen: Callable[[], float] = stolen_seconds
    ) -> None:
        """`most`: the share of all processors' time that may have been stolen, 0 to 1; `tell` hears of repetitions."""
        self._most = most
        self._tell = tell
        self._stolen = stolen
        #: Share stolen in each measurement that counted, in their order.
        self.shares: list[float] = []

    def measure(self, what: str, once: Callable[[], Result]) -> Result:
        """The first result of `once` that was left alone; after `ATTEMPTS_MAX`, the one that was so the most."""
        attempts: list[tuple[float, Result]] = []
        for _ in range(ATTEMPTS_MAX):
            begun, before = time.monotonic(), self._stolen()
            result = once()
            share = self._share(before, begun)
            attempts.append((share, result))
            if share <= self._most:
                break
            self._tell(f"{what}: measured again, {share:.1%} of the processors' time was stolen")
            self._wait_for_calm()
        share, result = min(attempts, key=lambda attempt: attempt[0])
        self.shares.append(share)
        return result

    def _wait_for_calm(self) -> None:
        until = time.monotonic() + CALM_SECONDS_MAX
        while time.monotonic() < until:
            begun, before = time.monotonic(), self._stolen()
            while time.monotonic() - begun < PROBE_SECONDS:
                pass
            # One of the processors was busy: its share is what the others would have lost too.
            if self._share(before, begun) * (os.cpu_count() or 1) <= self._most:
                return
            time.sleep(PROBE_EVERY_SECONDS)

    def _share(self, before: float, begun: float) -> float:
        return (self._stolen() - before) / ((time.monotonic() - begun) * (os.cpu_count() or 1))
