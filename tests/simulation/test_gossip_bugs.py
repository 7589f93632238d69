"""The simulator's own test: it finds every seeded bug within thirty short runs, and none where there is none."""

from __future__ import annotations

import pytest

from swarmlet.simulation.gossip_invariants import Violation
from swarmlet.simulation.gossip_scenario import run
from tests.simulation.gossip_bugs import BUGS

#: Within this many seeds of four members and a minute of faults each bug is found.
SEEDS = range(1, 31)


def test_there_are_at_least_fifteen_seeded_bugs() -> None:
    assert len(BUGS) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_seeded_bug_is_found_within_thirty_seeds(name: str) -> None:
    found = []
    for seed in SEEDS:
        try:
            run(seed, nodes=4, seconds=60.0, make=BUGS[name])
        except Violation as violation:
            found.append(str(violation))
            break
    assert found
    assert found[0].startswith("seed ")
