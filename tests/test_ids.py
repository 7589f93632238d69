"""Ids."""

from __future__ import annotations

from swarmlet.ids import NodeId, derive, peer_id


def test_derived_ids_depend_on_their_parts_alone() -> None:
    assert derive("a", 1) == derive("a", 1)
    assert derive("a", 1) != derive("a", 2)
    assert derive("a", "b") != derive("ab")


def test_a_peer_id_fits_in_63_bits_and_is_never_zero() -> None:
    assert all(0 < peer_id(NodeId(str(n))) < 2**63 for n in range(1000))
