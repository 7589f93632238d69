"""A gossip key is replaced in a running cluster, member by member: no packet is refused, nobody is suspected."""

from __future__ import annotations

import random

import pytest

from swarmlet.errors import InvalidInput
from swarmlet.gossip.effect import EventKind
from swarmlet.gossip.keyring import Keyring, fingerprint
from swarmlet.simulation.gossip_cluster import Cluster
from swarmlet.simulation.network import Faults

NEW = b"n" * 32


@pytest.mark.parametrize("seed", range(3))
def test_no_packet_is_lost_while_members_change_keys_one_after_the_other(seed: int) -> None:
    cluster = Cluster(seed, 7, Faults(delay_mean=0.02, duplicate=0.1, reorder=0.3))
    cluster.run_for(5.0)
    rng = random.Random(seed)
    old = cluster.cores["n0"].keyring.keys[0]
    for keys in ((old, NEW), (NEW, old), (NEW,)):
        for name in rng.sample(cluster.names, len(cluster.names)):
            cluster.cores[name].keyring.adopt(keys)
            cluster.run_for(rng.uniform(0.0, 3.0))
        # What was sealed before the last one changed is on its way for a moment.
        cluster.run_for(1.0)
    cluster.run_for(10.0)
    found = [cluster.cores[name].statistics() for name in cluster.names]
    assert [each.packets_refused for each in found] == [0] * 7
    assert cluster.events(EventKind.SUSPECTED) == []
    assert [cluster.cores[name].keyring.keys for name in cluster.names] == [(NEW,)] * 7


def test_a_key_removed_before_all_use_the_new_one_costs_packets() -> None:
    """The order matters: this is what the refusals of `swarmlet gossip keyring` guard against."""
    cluster = Cluster(1, 3)
    cluster.run_for(5.0)
    cluster.cores["n0"].keyring.adopt((NEW,))
    cluster.run_for(5.0)
    assert cluster.cores["n1"].statistics().packets_refused > 0


def test_a_keyring_adopts_all_or_nothing() -> None:
    ring = Keyring(b"a" * 32, (b"b" * 32,))
    with pytest.raises(InvalidInput):
        ring.adopt((NEW, b"short"))
    assert ring.keys == (b"a" * 32, b"b" * 32)
    ring.adopt((b"b" * 32, NEW))
    assert ring.keys == (b"b" * 32, NEW)


def test_a_fingerprint_names_a_key_and_is_no_part_of_it() -> None:
    assert len({fingerprint(bytes([number]) * 32) for number in range(100)}) == 100
    assert fingerprint(NEW) not in NEW.hex()
