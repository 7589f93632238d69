"""The variables' keyring: what is sealed opens at its own place, and nowhere else."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.errors import StorageError, Unavailable
from swarmlet.ids import ClusterId, Namespace
from swarmlet.model.variable import Variable
from swarmlet.security.keyring import SALT_BYTES, VariableKeyring, new_key
from swarmlet.security.sealing import KEY_BYTES, ClusterKey

CLUSTER_KEY = ClusterKey(ClusterId("c1"), bytes(KEY_BYTES))
DEFAULT = Namespace("default")


def keyring(*ids: int) -> VariableKeyring:
    made = VariableKeyring(CLUSTER_KEY)
    made.load(new_key(CLUSTER_KEY, key_id, os.urandom) for key_id in ids)
    return made


def sealed(ring: VariableKeyring, items: dict[str, str], path: str = "a/b") -> Variable:
    key_id, data = ring.seal(DEFAULT, path, items, os.urandom(SALT_BYTES))
    return Variable(namespace=DEFAULT, path=path, key_id=key_id, sealed=data)


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=100), max_size=5))
def test_what_is_sealed_opens_again(items: dict[str, str]) -> None:
    ring = keyring(1)
    assert ring.open(sealed(ring, items)) == items


def test_the_newest_key_seals_and_older_ones_still_open() -> None:
    old = new_key(CLUSTER_KEY, 1, os.urandom)
    ring = VariableKeyring(CLUSTER_KEY)
    ring.load([old])
    before = sealed(ring, {"a": "1"})
    ring.load([old, new_key(CLUSTER_KEY, 2, os.urandom)])
    after = sealed(ring, {"a": "2"})
    assert (before.key_id, after.key_id) == (1, 2)
    assert (ring.open(before), ring.open(after)) == ({"a": "1"}, {"a": "2"})


@given(st.integers(0, 60), st.integers(1, 255))
def test_any_change_is_noticed(at: int, flip: int) -> None:
    ring = keyring(1)
    variable = sealed(ring, {"password": "swordfish-99"})
    data = bytearray(variable.sealed)
    data[at % len(data)] ^= flip
    with pytest.raises(StorageError) as raised:
        ring.open(replace(variable, sealed=bytes(data)))
    assert "swordfish" not in str(raised.value)


@pytest.mark.parametrize("field", [{"path": "a/c"}, {"namespace": Namespace("other")}])
def test_a_value_moved_to_another_place_does_not_open(field: dict[str, str]) -> None:
    ring = keyring(1)
    with pytest.raises(StorageError, match="was changed after it was sealed"):
        ring.open(replace(sealed(ring, {"a": "1"}), **field))


def test_a_key_of_another_id_or_cluster_does_not_open() -> None:
    variable = sealed(keyring(1), {"a": "1"})
    with pytest.raises(Unavailable, match="key 1 of the keyring is not known"):
        keyring(2).open(variable)
    with pytest.raises(StorageError):
        keyring(1).open(variable)
    with pytest.raises(StorageError):
        keyring(1).load([replace(new_key(CLUSTER_KEY, 1, os.urandom), id=2)])


def test_two_sealings_of_the_same_items_differ() -> None:
    ring = keyring(1)
    assert sealed(ring, {"a": "1"}).sealed != sealed(ring, {"a": "1"}).sealed


def test_no_key_shows_in_a_repr() -> None:
    assert repr(keyring(1, 2)) == "VariableKeyring([1, 2])"
