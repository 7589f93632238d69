"""The gossip keys, and the sealing of packets: AES-256-GCM, always on.

Several keys are accepted and one seals, so that a key is replaced without losing a packet: install the new one
everywhere, use it everywhere, remove the old one everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from swarmlet.errors import Conflict, InvalidInput, NotFound, WireError

KEY_BYTES = 32
#: A rotation needs two; more than this is a rotation that nobody finishes.
KEYS_MAX = 8
#: First byte of a sealed packet. Plaintext has no form on the wire.
SEALED_VERSION = 1
_HINT_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
#: What sealing adds to a packet.
SEAL_OVERHEAD = 1 + _HINT_BYTES + _NONCE_BYTES + _TAG_BYTES


def _hint(key: bytes) -> bytes:
    """Four bytes that say which key sealed a packet, and nothing about the key."""
    return hashlib.blake2b(key, digest_size=_HINT_BYTES, person=b"swarmlet-hint").digest()


def fingerprint(key: bytes) -> str:
    """Sixteen characters by which people name a key; they say nothing about it."""
    return hashlib.blake2b(key, digest_size=8, person=b"swarmlet-print").hexdigest()


class Keyring:
    """The accepted keys, in order of installation; one of them is primary."""

    def __init__(self, primary: bytes, others: tuple[bytes, ...] = ()) -> None:
        """Raises InvalidInput for a key of another length than 32 B."""
        self._keys: dict[bytes, bytes] = {}
        self._ciphers: dict[bytes, AESGCM] = {}
        self.install(primary)
        self._primary = _hint(primary)
        for key in others:
            self.install(key)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All accepted keys, the primary one first."""
        rest = [key for hint, key in self._keys.items() if hint != self._primary]
        return (self._keys[self._primary], *rest)

    def install(self, key: bytes) -> None:
        """Accept packets sealed with `key`. Raises InvalidInput for a bad length, Conflict for too many keys."""
        if len(key) != KEY_BYTES:
            raise InvalidInput(f"a gossip key has {KEY_BYTES} B, this one has {len(key)}")
        hint = _hint(key)
        if hint in self._keys:
            return
        if len(self._keys) >= KEYS_MAX:
            raise Conflict(f"the keyring holds {KEYS_MAX} keys; remove one first")
        self._keys[hint] = key
        self._ciphers[hint] = AESGCM(key)

    def use(self, key: bytes) -> None:
        """Seal with `key` from now on. Raises NotFound when it is not installed."""
        if _hint(key) not in self._keys:
            raise NotFound("this gossip key is not installed; install it on every node first")
        self._primary = _hint(key)

    def remove(self, key: bytes) -> None:
        """Accept `key` no longer. Raises Conflict for the primary key."""
        hint = _hint(key)
        if hint == self._primary:
            raise Conflict("this gossip key is in use; use another one first")
        self._keys.pop(hint, None)
        self._ciphers.pop(hint, None)

    def adopt(self, keys: tuple[bytes, ...]) -> None:
        """Become these keys, the primary one first. Raises InvalidInput for a bad length; nothing is changed then."""
        adopted = Keyring(keys[0], keys[1:])
        self._keys, self._ciphers, self._primary = adopted._keys, adopted._ciphers, adopted._primary

    def primary(self) -> tuple[bytes, AESGCM]:
        """The hint and the cipher that seal."""
        return self._primary, self._ciphers[self._primary]

    def cipher(self, hint: bytes) -> AESGCM | None:
        """The cipher for packets with this hint, or None."""
        return self._ciphers.get(hint)


class Sealer:
    """Seals and opens packets of one cluster. The cluster's id is authenticated: clusters never mix."""

    def __init__(self, keyring: Keyring, cluster_id: str, random_bytes: Callable[[int], bytes]) -> None:
        """`random_bytes` gives the 96-bit nonces; outside simulations it must be the system's generator."""
        self.keyring = keyring
        self._associated = cluster_id.encode()
        self._random_bytes = random_bytes

    def seal(self, plain: bytes) -> bytes:
        """`plain`, encrypted and authenticated."""
        hint, cipher = self.keyring.primary()
        nonce = self._random_bytes(_NONCE_BYTES)
        return b"".join(
            (bytes((SEALED_VERSION,)), hint, nonce, cipher.encrypt(nonce, plain, self._associated))
        )

    def open(self, data: bytes) -> bytes:
        """What was sealed. Raises WireError for anything that no key of this cluster sealed."""
        if len(data) < SEAL_OVERHEAD or data[0] != SEALED_VERSION:
            raise WireError("not a sealed gossip packet")
        cipher = self.keyring.cipher(data[1 : 1 + _HINT_BYTES])
        if cipher is None:
            raise WireError("gossip packet sealed with a key that is not installed here")
        start = 1 + _HINT_BYTES
        nonce = data[start : start + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, data[start + _NONCE_BYTES :], self._associated)
        except InvalidTag as error:
            raise WireError("gossip packet of another cluster, or damaged") from error
