"""The keyring of the variables: seals and opens their items with AES-256-GCM.

Each variable is sealed under a key of its own, derived from the keyring's key and twelve random bytes, with
twelve more as the nonce (the construction of XAES-256-GCM, with BLAKE2b for the derivation): random nonces then
stay safe for as many writes as a cluster can make, and rotation is for hygiene, not for survival. What is sealed
opens at its own namespace and path only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmlet.errors import StorageError, Unavailable
from swarmlet.ids import Namespace
from swarmlet.model.variable import Variable, VariableKey
from swarmlet.security.sealing import KEY_BYTES, NONCE_BYTES, ClusterKey

#: Both halves of what makes a sealing unique: one derives its key, one is its nonce.
SALT_BYTES = 2 * NONCE_BYTES
_VERSION = b"\x01"
_PERSON = b"swarmlet var 1"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(dict[str, str])


def new_key(cluster_key: ClusterKey, key_id: int, random_bytes: Callable[[int], bytes]) -> VariableKey:
    """A fresh key with this id, sealed under the cluster key."""
    sealed = cluster_key.seal(_purpose(key_id), random_bytes(KEY_BYTES), random_bytes(NONCE_BYTES))
    return VariableKey(id=key_id, sealed=sealed)


class VariableKeyring:
    """The opened keys. They live in this process's memory and nowhere else in clear."""

    def __init__(self, cluster_key: ClusterKey) -> None:
        """No key is known yet."""
        self._cluster_key = cluster_key
        self._keys: dict[int, bytes] = {}

    def __repr__(self) -> str:
        """Without the keys."""
        return f"VariableKeyring({sorted(self._keys)})"

    def load(self, keys: Iterable[VariableKey]) -> None:
        """Know exactly these keys. Raises StorageError for one that the cluster key does not open."""
        self._keys = {key.id: self._cluster_key.open(_purpose(key.id), key.sealed) for key in keys}

    @property
    def active(self) -> int:
        """The id of the key that seals what is new; 0: there is none yet."""
        return max(self._keys, default=0)

    def seal(self, namespace: Namespace, path: str, items: dict[str, str], salt: bytes) -> tuple[int, bytes]:
        """The id of the key used, and the sealed items. `salt`: 24 fresh random bytes."""
        assert len(salt) == SALT_BYTES
        key_id = self.active
        head = _VERSION + salt
        cipher, nonce = self._cipher(key_id, salt)
        return key_id, head + cipher.encrypt(nonce, _encoder.encode(items), self._context(namespace, path))

    def open(self, variable: Variable) -> dict[str, str]:
        """The items of a variable.

        Raises Unavailable when its key is not known here (yet), StorageError when it was changed after it was sealed.
        """
        sealed = variable.sealed
        salt = sealed[1 : 1 + SALT_BYTES]
        if sealed[:1] != _VERSION or len(salt) < SALT_BYTES:
            raise StorageError(f"variable {variable.path} is not in a form that this version knows")
        cipher, nonce = self._cipher(variable.key_id, salt)
        context = self._context(variable.namespace, variable.path)
        try:
            return _decoder.decode(cipher.decrypt(nonce, sealed[1 + SALT_BYTES :], context))
        except (InvalidTag, msgspec.DecodeError) as error:
            # The cause may quote what was decrypted: it stays out of the message.
            raise StorageError(f"variable {variable.path} was changed after it was sealed") from error

    def _cipher(self, key_id: int, salt: bytes) -> tuple[AESGCM, bytes]:
        key = self._keys.get(key_id)
        if key is None:
            raise Unavailable(f"key {key_id} of the keyring is not known on this node")
        derived = hashlib.blake2b(salt[:NONCE_BYTES], digest_size=KEY_BYTES, key=key, person=_PERSON).digest()
        return AESGCM(derived), salt[NONCE_BYTES:]

    def _context(self, namespace: Namespace, path: str) -> bytes:
        return f"{self._cluster_key.cluster}\x00{namespace}\x00{path}".encode()


def _purpose(key_id: int) -> str:
    return f"variables key {key_id}"
