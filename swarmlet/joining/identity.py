"""What a node keeps in its data directory (0700): who it is, its keys, and the lock that keeps others out.

`identity` is one file, written whole or not at all; `node.pem` (certificate and key) is made from it for
TLS, which reads files alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from swarmlet.errors import Conflict, InvalidInput, StorageError, WireError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.security.certificate import (
    create_key,
    key_digest,
    key_from_pem,
    key_to_pem,
    load_certificate,
    to_pem,
)
from swarmlet.wire import Codec, Record

IDENTITY_FILE, PEM_FILE, LOCK_FILE = "identity", "node.pem", "lock"
#: The key of a node that is not one yet: kept where the answer to a try was lost, so that the next one is the same
#: node and uses a token once.
JOINING_KEY_FILE = "joining.key"
#: The version header: what the file is, and its form.
_HEADER = b"swarmlet identity 1\n"
_HEADER_START = b"swarmlet identity "


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A node's identity. Certificates are DER, the private key is PEM."""

    node: NodeId
    name: str
    cluster: ClusterId
    certificate: bytes
    key: bytes
    authority: bytes
    cluster_key: bytes
    gossip_keys: tuple[bytes, ...]

    def __repr__(self) -> str:
        """Without keys."""
        return f"Identity({self.name}, node {self.node}, cluster {self.cluster})"


class _Stored(Record, tag="identity"):
    node: str
    name: str
    cluster: str
    certificate: bytes
    key: bytes
    authority: bytes
    cluster_key: bytes
    gossip_keys: tuple[bytes, ...]


_codec: Codec[_Stored] = Codec(_Stored, limit=1024 * 1024)


def save(directory: Path, identity: Identity) -> None:
    """Write the identity and the PEM file made from it; both are on disk on return. Raises StorageError."""
    stored = _Stored(
        node=identity.node,
        name=identity.name,
        cluster=identity.cluster,
        certificate=identity.certificate,
        key=identity.key,
        authority=identity.authority,
        cluster_key=identity.cluster_key,
        gossip_keys=identity.gossip_keys,
    )
    write_atomically(directory / IDENTITY_FILE, _HEADER + _codec.encode(stored))
    write_atomically(directory / PEM_FILE, _pem(identity))
    # From here on the identity holds it.
    (directory / JOINING_KEY_FILE).unlink(missing_ok=True)


def load(directory: Path) -> Identity | None:
    """The identity in `directory`; None where there is none. Raises StorageError when it is damaged.

    Restores the PEM file where a crash kept it from being written.
    """
    path = directory / IDENTITY_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not data.startswith(_HEADER):
        if data.startswith(_HEADER_START):
            raise StorageError(f"{path} was written by a newer version of swarmlet: install that version")
        raise StorageError(f"{path} is no identity of a node; {_REJOIN}")
    try:
        stored = _codec.decode(data[len(_HEADER) :])
        certificate = load_certificate(stored.certificate)
        key = key_digest(key_from_pem(stored.key).public_key())
    except (WireError, InvalidInput) as error:
        raise StorageError(f"{path} is damaged: {error}; {_REJOIN}") from error
    identity = Identity(
        node=NodeId(stored.node),
        name=stored.name,
        cluster=ClusterId(stored.cluster),
        certificate=stored.certificate,
        key=stored.key,
        authority=stored.authority,
        cluster_key=stored.cluster_key,
        gossip_keys=stored.gossip_keys,
    )
    if (certificate.cluster, certificate.node, certificate.key_digest) != (
        identity.cluster,
        identity.node,
        key,
    ):
        raise StorageError(f"{path} is damaged: its certificate is not for its key and node; {_REJOIN}")
    pem, wanted = directory / PEM_FILE, _pem(identity)
    if not pem.exists() or pem.read_bytes() != wanted:
        write_atomically(pem, wanted)
    return identity


def read_cluster_key(path: Path) -> tuple[ClusterId, bytes]:
    """The cluster and its key in an identity file, wherever it lies. Changes nothing. Raises InvalidInput."""
    try:
        data = path.read_bytes()
        if not data.startswith(_HEADER):
            raise InvalidInput(f"{path} is no identity file of a node, or of another version of swarmlet")
        stored = _codec.decode(data[len(_HEADER) :])
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from error
    except WireError as error:
        raise InvalidInput(f"{path} is damaged: {error}") from error
    return ClusterId(stored.cluster), stored.cluster_key


class JoiningKey:
    """The key that a machine joins with: on disk only while the cluster may have made a node of it without our knowing."""

    def __init__(self, directory: Path) -> None:
        """That of an earlier try whose answer was lost, else a new one. Writes nothing. Raises StorageError."""
        self._path = directory / JOINING_KEY_FILE
        try:
            self.key = key_from_pem(self._path.read_bytes())
        except FileNotFoundError:
            self.key = create_key()
        except OSError as error:
            raise StorageError(f"cannot read {self._path}: {error.strerror}") from error
        except InvalidInput as error:
            raise StorageError(f"{self._path} is damaged: {error}; remove it and join again") from error

    def keep(self) -> None:
        """The cluster is about to be asked. Raises StorageError."""
        write_atomically(self._path, key_to_pem(self.key))

    def forget(self) -> None:
        """The cluster has refused it: nothing there knows this key."""
        self._path.unlink(missing_ok=True)


_REJOIN = "move the data directory away and join again"


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` (mode 0600), whole or not at all, durable on return. Raises StorageError."""
    temporary = path.with_name(path.name + ".new")
    try:
        # Made anew with its mode: an old file's mode or a link must not decide who may read keys.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


class DataDirectory:
    """A node's data directory, held by one process at a time.

    Use as a context manager; the kernel lets go of the lock when the process dies.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is touched before `__enter__`."""
        self.path = path
        self._lock: int | None = None
        #: Whether this use made the directory, and its lock file.
        self._is_made = self._is_new = False

    def __enter__(self) -> Self:
        """Create the directory (0700) and lock it. Raises Conflict naming the process that has it."""
        try:
            self._is_made, self._is_new = not self.path.exists(), not (self.path / LOCK_FILE).exists()
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
            lock = self._locked()
        except OSError as error:
            raise StorageError(
                f"cannot use the data directory {self.path}: {error.strerror}; choose another with --data-dir"
            ) from error
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        self._lock = lock
        return self

    def _locked(self) -> int:
        """The lock file's descriptor, locked. Raises Conflict, OSError."""
        path = self.path / LOCK_FILE
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                owner = os.pread(lock, 32, 0).decode("ascii", "replace").strip()
                os.close(lock)
                raise Conflict(
                    f"the data directory {self.path} is in use by the swarmlet agent with pid {owner or 'unknown'}: "
                    "stop it, or give this one a directory of its own with --data-dir"
                ) from error
            # Whoever failed takes its lock file away (`__exit__`): a lock on a file without a name locks nobody out.
            if os.fstat(lock).st_nlink:
                return lock
            os.close(lock)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Let go of the lock. A use that fails in a directory that was nobody's takes away what it made there."""
        if self._lock is None:
            return
        if kind is not None and self._is_new:
            with contextlib.suppress(OSError):
                (self.path / LOCK_FILE).unlink()
                # Only where nothing else is in it.
                if self._is_made:
                    self.path.rmdir()
        os.close(self._lock)
        self._lock = None

    @property
    def pem_file(self) -> Path:
        """Certificate and key for `security.contexts` (as both of its files)."""
        return self.path / PEM_FILE


def _pem(identity: Identity) -> bytes:
    return to_pem(identity.certificate) + identity.key
