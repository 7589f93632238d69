"""The gossip keys of the whole cluster: replaced while it runs, without losing a packet.

Which keys there are, and which one seals, is decided by the replicated state (sealed under the cluster key); every
node takes it over from there, late ones when they are back, and joiners get all keys with their certificate. An
operator installs a key, uses it when every node has it, then removes the old one; each step says which nodes are done.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
import structlog

from swarmlet.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    StorageError,
    SwarmletError,
    Unauthorized,
    Unavailable,
    WireError,
)
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.keyring import KEY_BYTES, KEYS_MAX, Keyring, fingerprint
from swarmlet.gossip.rotation import NodeKeys, Progress
from swarmlet.ids import NodeId
from swarmlet.joining.identity import write_atomically
from swarmlet.model.cluster import ClusterSettings
from swarmlet.security.access import Capability, authorize, node_identity
from swarmlet.security.sealing import NONCE_BYTES, ClusterKey
from swarmlet.transport.peer import Peer
from swarmlet.wire import Codec, Record

log = structlog.get_logger(__name__)

GOSSIP_PURPOSE = "gossip keys"
KEYS_METHOD = "gossip.keys"
#: In the data directory, mode 0600: the keys that this node used last, the sealing one first.
KEYRING_FILE = "keyring"
_HEADER = b"swarmlet keyring 1\n"
#: A node takes a change over within a heartbeat or two; one that has not after this time is named.
TAKE_OVER_SECONDS = 5.0
#: And this much longer until it has said so.
ANSWER_SECONDS = 8.0
#: Nodes asked at a time.
ASKED_MAX = 32
#: The state is looked at again this often even if nothing woke us.
LOOK_SECONDS = 60.0
#: Characters that suffice to name a key, if they fit only one.
PREFIX_MIN = 4


class _Ask(Record, tag="ask"):
    """Which keys do you have? Answer when they are `wanted` (fingerprints, the sealing one first), or in a while."""

    wanted: Annotated[tuple[str, ...], msgspec.Meta(max_length=KEYS_MAX)] = ()


class _Have(Record, tag="have"):
    """Fingerprints, the sealing one first."""

    keys: Annotated[tuple[str, ...], msgspec.Meta(max_length=KEYS_MAX)]


_ask_codec: Codec[_Ask] = Codec(_Ask, limit=4096)
_have_codec: Codec[_Have] = Codec(_Have, limit=4096)
_keys_codec: Codec[tuple[bytes, ...]] = Codec(
    Annotated[
        tuple[Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)], ...],
        msgspec.Meta(min_length=1, max_length=KEYS_MAX),
    ],
    limit=4096,
)


class Settings(Protocol):
    """The cluster's settings in the replicated state."""

    def current(self) -> ClusterSettings | None:
        """As this node has them."""

    async def confirmed(self) -> ClusterSettings | None:
        """With everything acknowledged so far. Raises Unavailable."""

    async def change_gossip_keys(self, sealed: bytes, actor: str) -> None:
        """Replace the sealed gossip keys. Raises Unavailable and its kin."""

    async def wait_changed(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Return when `is_ready` after a change, or after `seconds`."""


#: Asks one member over the mesh: (member, body) -> answer. Raises what the mesh raises.
Ask = Callable[[Member, bytes], Awaitable[bytes]]


class GossipKeys:
    """Follows the cluster's keys on this node, and changes them for an operator. `run()` must be running."""

    def __init__(
        self,
        *,
        node: NodeId,
        keyring: Keyring,
        cluster_key: ClusterKey,
        settings: Settings,
        members: Callable[[], list[Member]],
        ask: Ask,
        path: Path | None,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        """`keyring` is gossip's own and changed in place; `path`: the file that remembers it, None for memory only."""
        self._node = node
        self._keyring = keyring
        self._cluster_key = cluster_key
        self._settings = settings
        self._members = members
        self._ask = ask
        self._path = path
        self._random_bytes = random_bytes
        #: The sealed keys that this node has taken over.
        self._taken = b""
        self._changed = asyncio.Condition()

    # Following

    async def run(self) -> None:
        """Take over what the state says, until cancelled."""
        while True:
            await self._take_over()
            await self._settings.wait_changed(lambda: self._sealed() not in {b"", self._taken}, LOOK_SECONDS)

    def _sealed(self) -> bytes:
        settings = self._settings.current()
        return settings.gossip_keys_sealed if settings is not None else b""

    async def _take_over(self) -> None:
        sealed = self._sealed()
        if sealed in {b"", self._taken}:
            return
        try:
            keys = self._open(sealed)
        except StorageError as error:
            log.warning("gossip_keys.not_readable", reason=str(error))
            self._taken = sealed
            return
        if keys != self._keyring.keys or (self._path is not None and not self._path.exists()):
            self._remember(keys)
            self._keyring.adopt(keys)
            log.info("gossip_keys.taken_over", keys=[fingerprint(key) for key in keys])
        self._taken = sealed
        async with self._changed:
            self._changed.notify_all()

    def _open(self, sealed: bytes) -> tuple[bytes, ...]:
        try:
            return _keys_codec.decode(self._cluster_key.open(GOSSIP_PURPOSE, sealed))
        except WireError as error:
            raise StorageError(
                f"the gossip keys in the cluster's settings are not readable: {error}"
            ) from error

    def _remember(self, keys: tuple[bytes, ...]) -> None:
        """A full disk must not keep a node from talking to the others: what it missed it gets from the state."""
        if self._path is None:
            return
        try:
            write_atomically(self._path, _HEADER + _keys_codec.encode(keys))
        except StorageError as error:
            log.warning("gossip_keys.not_written", reason=str(error))

    def all(self) -> tuple[bytes, ...]:
        """Every key that a joiner needs, the sealing one first."""
        sealed = self._sealed()
        try:
            return self._open(sealed) if sealed else self._keyring.keys
        except StorageError:
            return self._keyring.keys

    async def serve(self, peer: Peer, body: bytes) -> bytes:
        """Another node asks which keys this one has, and perhaps waits for a change."""
        if peer.node is None:
            raise Unauthorized("only a node of this cluster may ask this")
        authorize(node_identity(peer.node), Capability.FORWARD)
        return await self._answer(body)

    async def _answer(self, body: bytes) -> bytes:
        wanted = _ask_codec.decode(body).wanted
        if wanted:
            try:
                async with asyncio.timeout(TAKE_OVER_SECONDS), self._changed:
                    await self._changed.wait_for(lambda: self._have() == wanted)
            except TimeoutError:
                pass  # the answer says what is there
        return _have_codec.encode(_Have(keys=self._have()))

    def _have(self) -> tuple[str, ...]:
        return tuple(fingerprint(key) for key in self._keyring.keys)

    # For an operator

    async def look(self, wanted: tuple[str, ...] = ()) -> tuple[NodeKeys, ...]:
        """The keys of every node that is not dead or gone, in the order of names."""
        members = [member for member in self._members() if member.state < MemberState.DEAD]
        found: dict[NodeId, NodeKeys] = {}
        limit = asyncio.Semaphore(ASKED_MAX)

        async def one(member: Member) -> None:
            async with limit:
                found[member.id] = await self._look_at(member, _ask_codec.encode(_Ask(wanted=wanted)))

        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(one(member))
        return tuple(sorted(found.values(), key=lambda each: (each.name, each.node)))

    async def _look_at(self, member: Member, body: bytes) -> NodeKeys:
        try:
            if member.id == self._node:
                reply = await self._answer(body)
            else:
                async with asyncio.timeout(ANSWER_SECONDS):
                    reply = await self._ask(member, body)
            return NodeKeys(node=member.id, name=member.name, keys=_have_codec.decode(reply).keys)
        except TimeoutError:
            problem = f"no answer within {ANSWER_SECONDS:g} s"
        except SwarmletError as error:
            problem = str(error)
        return NodeKeys(node=member.id, name=member.name, problem=problem)

    async def current(self) -> Progress:
        """The keys of the cluster and of every node."""
        keys = await self._confirmed()
        return Progress(key=fingerprint(keys[0]), nodes=await self.look(), wanted=_prints(keys))

    async def install(self, text: str, actor: str) -> Progress:
        """Let every node accept one more key: `text` in base64, or empty for a new one.

        Raises InvalidInput, Conflict (too many keys), Unavailable.
        """
        keys = await self._confirmed()
        key = _decode(text) if text else self._random_bytes(KEY_BYTES)
        if key not in keys:
            if len(keys) >= KEYS_MAX:
                raise Conflict(f"the cluster has {KEYS_MAX} gossip keys; remove one first")
            keys = (*keys, key)
            await self._change(keys, actor)
        return Progress(key=fingerprint(key), nodes=await self.look(_prints(keys)), wanted=_prints(keys))

    async def use(self, text: str, actor: str, *, force: bool = False) -> Progress:
        """Let every node seal with an installed key, named by its fingerprint's beginning or in base64.

        Raises NotFound, and Conflict naming the nodes that have not got it (unless `force`).
        """
        keys = await self._confirmed()
        key = _find(keys, text)
        if key != keys[0]:
            lacking = [each for each in await self.look() if fingerprint(key) not in each.keys]
            if lacking and not force:
                raise Conflict(
                    f"{_listed(lacking)} {_have_not(lacking)} got key {fingerprint(key)} and could not read what the "
                    "others seal with it. Wait until they have it (`swarmlet gossip keyring list`), or use --force: "
                    "they take it over when they reach the cluster's state again"
                )
            keys = (key, *(other for other in keys if other != key))
            await self._change(keys, actor)
        return Progress(key=fingerprint(key), nodes=await self.look(_prints(keys)), wanted=_prints(keys))

    async def remove(self, text: str, actor: str, *, force: bool = False) -> Progress:
        """Let no node accept a key any more.

        Raises NotFound, Conflict for the key in use, or naming the nodes that may still seal with it (unless `force`).
        """
        keys = await self._confirmed()
        key = _find(keys, text)
        if key == keys[0]:
            raise Conflict(f"gossip key {fingerprint(key)} is in use; use another one first")
        sealing = [each for each in await self.look() if each.problem or each.keys[0] == fingerprint(key)]
        if sealing and not force:
            raise Conflict(
                f"{_listed(sealing)} may still seal with key {fingerprint(key)}; nobody could read that. Wait until "
                "they answer (`swarmlet gossip keyring list`), or use --force"
            )
        keys = tuple(other for other in keys if other != key)
        await self._change(keys, actor)
        return Progress(key=fingerprint(key), nodes=await self.look(_prints(keys)), wanted=_prints(keys))

    async def _confirmed(self) -> tuple[bytes, ...]:
        settings = await self._settings.confirmed()
        if settings is None or not settings.gossip_keys_sealed:
            raise Unavailable("the cluster is not initialised yet; try again in a second")
        return self._open(settings.gossip_keys_sealed)

    async def _change(self, keys: tuple[bytes, ...], actor: str) -> None:
        sealed = self._cluster_key.seal(
            GOSSIP_PURPOSE, _keys_codec.encode(keys), self._random_bytes(NONCE_BYTES)
        )
        await self._settings.change_gossip_keys(sealed, actor)


def load_keyring(path: Path, otherwise: tuple[bytes, ...]) -> Keyring:
    """The keys that this node used last; those of its identity where it has remembered none.

    Raises StorageError when the file is damaged.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Keyring(otherwise[0], otherwise[1:])
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    if not data.startswith(_HEADER):
        raise StorageError(
            f"{path} is no keyring of this version; remove it to begin with the keys of the join"
        )
    try:
        keys = _keys_codec.decode(data[len(_HEADER) :])
    except WireError as error:
        raise StorageError(
            f"{path} is damaged: {error}; remove it to begin with the keys of the join"
        ) from error
    return Keyring(keys[0], keys[1:])


def _prints(keys: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(fingerprint(key) for key in keys)


def _decode(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInput(f"not a gossip key: expected {KEY_BYTES} bytes in base64") from error
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"a gossip key has {KEY_BYTES} B, this one has {len(key)}")
    return key


def _find(keys: tuple[bytes, ...], text: str) -> bytes:
    """The key of the cluster that `text` names."""
    if len(text) < PREFIX_MIN:
        raise InvalidInput(f"name a key by at least {PREFIX_MIN} characters of its fingerprint")
    found = [key for key in keys if fingerprint(key).startswith(text)]
    if not found:
        found = [key for key in keys if base64.b64encode(key).decode() == text]
    if not found:
        raise NotFound(f"no gossip key begins with '{text[:20]}'; there are: {', '.join(_prints(keys))}")
    if len(found) > 1:
        raise InvalidInput(f"'{text}' fits several keys; give more characters")
    return found[0]


def _listed(nodes: list[NodeKeys]) -> str:
    return ", ".join(f"{each.name} ({each.problem})" if each.problem else each.name for each in nodes)


def _have_not(nodes: list[NodeKeys]) -> str:
    return "has not" if len(nodes) == 1 else "have not"
