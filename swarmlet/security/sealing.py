"""Sealing small secrets (the CA's key, gossip keys) under a cluster key, with AES-256-GCM.

A sealed secret may lie in the replicated state and its snapshots; the cluster key lies in the data
directory of each replica and nowhere else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmlet.errors import StorageError
from swarmlet.ids import ClusterId

KEY_BYTES = 32
NONCE_BYTES = 12
_VERSION = b"\x01"
_KEY_ID_BYTES = 4


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """A key of 32 bytes that seals a cluster's secrets."""

    cluster: ClusterId
    key: bytes

    def __post_init__(self) -> None:
        """AES-256."""
        assert len(self.key) == KEY_BYTES

    def __repr__(self) -> str:
        """Without the key."""
        return f"ClusterKey({self.id:08x})"

    @property
    def id(self) -> int:
        """Names the key without revealing it; never 0, which means "in clear"."""
        digest = hashlib.sha256(b"swarmlet cluster key\x00" + self.key).digest()
        return int.from_bytes(digest[:_KEY_ID_BYTES], "big") or 1

    def seal(self, purpose: str, secret: bytes, nonce: bytes) -> bytes:
        """`secret`, to be opened for the same purpose only. `nonce`: 12 fresh random bytes."""
        assert len(nonce) == NONCE_BYTES
        head = _VERSION + self.id.to_bytes(_KEY_ID_BYTES, "big") + nonce
        return head + AESGCM(self.key).encrypt(nonce, secret, self._context(purpose, head))

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """The secret in `sealed`. Raises StorageError naming what does not fit."""
        head_bytes = 1 + _KEY_ID_BYTES + NONCE_BYTES
        head = sealed[:head_bytes]
        if len(head) < head_bytes or head[:1] != _VERSION:
            raise StorageError(f"the sealed {purpose} is not in a form this version knows")
        found = int.from_bytes(head[1 : 1 + _KEY_ID_BYTES], "big")
        if found != self.id:
            raise StorageError(
                f"the {purpose} is sealed under cluster key {found:08x}, this node has {self.id:08x}: "
                "the data directory belongs to another cluster, or its key was replaced"
            )
        try:
            return AESGCM(self.key).decrypt(
                head[1 + _KEY_ID_BYTES :], sealed[head_bytes:], self._context(purpose, head)
            )
        except InvalidTag as error:
            raise StorageError(f"the sealed {purpose} was changed after it was sealed") from error

    def _context(self, purpose: str, head: bytes) -> bytes:
        return b"\x00".join((b"swarmlet", self.cluster.encode(), purpose.encode(), head))
