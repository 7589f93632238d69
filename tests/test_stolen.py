"""Measurements on a virtual machine are repeated while its hypervisor takes part in them."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from scripts import stolen
from scripts.stolen import ATTEMPTS_MAX, Undisturbed


@pytest.fixture(autouse=True)
def _short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stolen, "PROBE_SECONDS", 0.001)
    monkeypatch.setattr(stolen, "PROBE_EVERY_SECONDS", 0.001)
    monkeypatch.setattr(stolen, "CALM_SECONDS_MAX", 0.003)


class Hypervisor:
    """Takes so many seconds of each measurement in turn, and nothing else."""

    def __init__(self, takes: list[float]) -> None:
        self._takes = takes
        self.taken = 0.0
        self.measured = 0

    def once(self) -> int:
        time.sleep(0.002)
        self.taken += self._takes[min(self.measured, len(self._takes) - 1)]
        self.measured += 1
        return self.measured

    def counter(self) -> Callable[[], float]:
        return lambda: self.taken


def test_a_measurement_that_was_left_alone_counts_at_once() -> None:
    hypervisor = Hypervisor([0.0])
    undisturbed = Undisturbed(0.02, pytest.fail, hypervisor.counter())
    assert undisturbed.measure("case", hypervisor.once) == 1
    assert undisturbed.shares == [0.0]


def test_a_disturbed_measurement_is_repeated_and_told() -> None:
    hypervisor = Hypervisor([10.0, 10.0, 0.0])
    told: list[str] = []
    undisturbed = Undisturbed(0.02, told.append, hypervisor.counter())
    assert undisturbed.measure("case", hypervisor.once) == 3
    assert len(told) == 2
    assert all(line.startswith("case: measured again, ") for line in told)
    assert undisturbed.shares == [0.0]


def test_of_disturbed_measurements_only_the_least_disturbed_counts() -> None:
    hypervisor = Hypervisor([900.0, 900.0, 1.0, 900.0])
    undisturbed = Undisturbed(0.0, lambda _: None, hypervisor.counter())
    assert undisturbed.measure("case", hypervisor.once) == 3
    assert hypervisor.measured == ATTEMPTS_MAX
    assert undisturbed.shares[0] > 0


def test_the_kernel_counts_what_was_stolen() -> None:
    assert stolen.stolen_seconds() >= 0
