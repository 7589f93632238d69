"""Sealing secrets under the cluster key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import StorageError
from swarmlet.ids import ClusterId
from swarmlet.security.sealing import KEY_BYTES, NONCE_BYTES, ClusterKey

KEY = ClusterKey(ClusterId("c1"), bytes(KEY_BYTES))
NONCE = bytes(NONCE_BYTES)


@given(st.binary(), st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_opens_for_its_purpose(secret: bytes, key: bytes, nonce: bytes) -> None:
    cluster_key = ClusterKey(ClusterId("c1"), key)
    assert cluster_key.open("ca", cluster_key.seal("ca", secret, nonce)) == secret


@given(st.integers(0, 40), st.integers(1, 255))
def test_any_change_is_noticed(at: int, flip: int) -> None:
    sealed = bytearray(KEY.seal("ca", b"secret of a CA", NONCE))
    sealed[at] ^= flip
    with pytest.raises(StorageError):
        KEY.open("ca", bytes(sealed))


def test_another_purpose_key_or_cluster_does_not_open_it() -> None:
    sealed = KEY.seal("ca", b"secret", NONCE)
    with pytest.raises(StorageError, match="changed"):
        KEY.open("gossip", sealed)
    with pytest.raises(StorageError, match="changed"):
        ClusterKey(ClusterId("c2"), bytes(KEY_BYTES)).open("ca", sealed)
    with pytest.raises(StorageError, match="another cluster"):
        ClusterKey(ClusterId("c1"), b"\x01" * KEY_BYTES).open("ca", sealed)
    with pytest.raises(StorageError, match="not in a form"):
        KEY.open("ca", b"")


def test_a_key_never_shows_itself() -> None:
    key = ClusterKey(ClusterId("c1"), b"k" * KEY_BYTES)
    assert "kk" not in repr(key)
    assert key.id != 0
