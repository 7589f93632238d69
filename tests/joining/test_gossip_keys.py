"""Replacing the gossip key of a cluster: node by node, with names of those who are not done, refused where it would hurt."""

from __future__ import annotations

import asyncio
import base64
import random
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec
import pytest

from swarmlet.errors import Conflict, InvalidInput, NotFound, StorageError, Unauthorized, Unavailable
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.keyring import KEYS_MAX, Keyring, fingerprint
from swarmlet.ids import ClusterId, NodeId
from swarmlet.joining import gossip_keys
from swarmlet.joining.gossip_keys import GOSSIP_PURPOSE, GossipKeys, load_keyring
from swarmlet.model.cluster import ClusterSettings
from swarmlet.security.sealing import ClusterKey
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Peer

OLD, NEW = b"o" * 32, b"n" * 32
CLUSTER_KEY = ClusterKey(ClusterId("c"), b"c" * 32)
NAMES = ("n1", "n2", "n3")


class Shared:
    """The state that all nodes share; a node in `behind` does not hear of changes."""

    def __init__(self) -> None:
        sealed = CLUSTER_KEY.seal(GOSSIP_PURPOSE, msgspec.msgpack.encode([OLD]), bytes(12))
        self.settings = ClusterSettings(
            cluster_id=ClusterId("c"),
            ca_certificate=b"",
            ca_key_sealed=b"",
            gossip_keys_sealed=sealed,
            admin_token_hash=b"",
            created_at_ns=0,
        )
        self.changed = asyncio.Condition()
        self.actors: list[str] = []


class FakeSettings:
    """One node's view of the shared state."""

    def __init__(self, shared: Shared, name: str, behind: set[str]) -> None:
        self._shared, self._name, self._behind = shared, name, behind
        self._seen = shared.settings

    def current(self) -> ClusterSettings:
        if self._name not in self._behind:
            self._seen = self._shared.settings
        return self._seen

    async def confirmed(self) -> ClusterSettings:
        return self._shared.settings

    async def change_gossip_keys(self, sealed: bytes, actor: str) -> None:
        self._shared.actors.append(actor)
        self._shared.settings = msgspec.structs.replace(self._shared.settings, gossip_keys_sealed=sealed)
        async with self._shared.changed:
            self._shared.changed.notify_all()

    async def wait_changed(self, is_ready: Callable[[], bool], seconds: float) -> None:
        async with self._shared.changed:
            await self._shared.changed.wait_for(is_ready)


class Trio:
    """Three nodes; those in `down` do not answer, those in `behind` take nothing over."""

    def __init__(self, folder: Path) -> None:
        self.shared = Shared()
        self.down: set[str] = set()
        self.behind: set[str] = set()
        self.members = [
            Member(id=NodeId(name), name=name, address=(name, 1), state=MemberState.ALIVE, incarnation=0)
            for name in NAMES
        ]
        self.folder = folder
        self.rings = {name: Keyring(OLD) for name in NAMES}
        self.nodes = {name: self._make(name) for name in NAMES}

    def _make(self, name: str) -> GossipKeys:
        return GossipKeys(
            node=NodeId(name),
            keyring=self.rings[name],
            cluster_key=CLUSTER_KEY,
            settings=FakeSettings(self.shared, name, self.behind),
            members=lambda: self.members,
            ask=self._ask,
            path=self.folder / f"{name}.keyring",
            random_bytes=random.Random(name).randbytes,
        )

    async def _ask(self, member: Member, body: bytes) -> bytes:
        if member.name in self.down:
            raise Unavailable(f"no connection to {member.name}")
        peer = Peer(node=NodeId("n1"), cluster=ClusterId("c"), address=("n1", 1), purpose=Purpose.RPC)
        return await self.nodes[member.name].serve(peer, body)

    async def __aenter__(self) -> Self:
        self.group = asyncio.TaskGroup()
        await self.group.__aenter__()
        self.tasks = [self.group.create_task(node.run()) for node in self.nodes.values()]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await self.group.__aexit__(None, None, None)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_keys, "TAKE_OVER_SECONDS", 0.05)


async def test_a_key_is_replaced_everywhere_and_remembered(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        asked = trio.nodes["n1"]
        installed = await asked.install("", "alice")
        assert [installed.is_done(node) for node in installed.nodes] == [True] * 3
        used = await asked.use(installed.key[:6], "alice")
        assert [node.keys[0] for node in used.nodes] == [installed.key] * 3
        removed = await asked.remove(fingerprint(OLD), "alice")
        assert [node.keys for node in removed.nodes] == [(installed.key,)] * 3
        assert {ring.keys for ring in trio.rings.values()} == {asked.all()}
        assert trio.shared.actors == ["alice"] * 3
    for name in NAMES:
        path = tmp_path / f"{name}.keyring"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert load_keyring(path, (OLD,)).keys == trio.rings[name].keys


async def test_a_node_that_does_not_answer_or_is_behind_is_named(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        trio.down.add("n2")
        trio.behind.add("n3")
        progress = await trio.nodes["n1"].install(base64.b64encode(NEW).decode(), "alice")
        found = {node.name: (progress.is_done(node), node.problem) for node in progress.nodes}
        assert found == {"n1": (True, ""), "n2": (False, "no connection to n2"), "n3": (False, "")}
        with pytest.raises(Conflict, match=r"n2 \(no connection to n2\), n3 have not got key"):
            await trio.nodes["n1"].use(fingerprint(NEW), "alice")
        assert trio.rings["n1"].keys == (OLD, NEW)


async def test_who_was_away_takes_everything_over_when_it_is_back(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        trio.behind.add("n3")
        asked = trio.nodes["n1"]
        await asked.install(base64.b64encode(NEW).decode(), "alice")
        await asked.use(fingerprint(NEW), "alice", force=True)
        await asked.remove(fingerprint(OLD), "alice", force=True)
        assert trio.rings["n3"].keys == (OLD,)
        trio.behind.clear()
        await FakeSettings(trio.shared, "n1", set()).change_gossip_keys(
            trio.shared.settings.gossip_keys_sealed, "nobody"
        )
        progress = await asked.current()
        await asked.look(progress.wanted)
        assert trio.rings["n3"].keys == (NEW,)


async def test_the_key_in_use_is_not_removed_and_not_while_somebody_may_seal_with_it(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        asked = trio.nodes["n1"]
        with pytest.raises(Conflict, match="is in use; use another one first"):
            await asked.remove(fingerprint(OLD), "alice")
        await asked.install(base64.b64encode(NEW).decode(), "alice")
        trio.behind.add("n3")
        await asked.use(fingerprint(NEW), "alice")
        with pytest.raises(Conflict, match="n3 may still seal with key"):
            await asked.remove(fingerprint(OLD), "alice")


async def test_dead_nodes_are_not_waited_for(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        trio.members[2] = msgspec.structs.replace(trio.members[2], state=MemberState.DEAD)
        trio.down.add("n3")
        progress = await trio.nodes["n1"].install("", "alice")
        assert [node.name for node in progress.nodes] == ["n1", "n2"]


async def test_a_bad_key_an_unknown_one_and_too_many_are_refused(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        asked = trio.nodes["n1"]
        with pytest.raises(InvalidInput, match="in base64"):
            await asked.install("not base64!", "alice")
        with pytest.raises(InvalidInput, match="32 B, this one has 3"):
            await asked.install(base64.b64encode(b"abc").decode(), "alice")
        with pytest.raises(InvalidInput, match="at least 4 characters"):
            await asked.use("ab", "alice")
        with pytest.raises(NotFound, match="there are: "):
            await asked.use("zzzz", "alice")
        for _ in range(KEYS_MAX - 1):
            await asked.install("", "alice")
        with pytest.raises(Conflict, match="remove one first"):
            await asked.install("", "alice")


async def test_only_nodes_may_ask_for_keys_and_get_fingerprints(tmp_path: Path) -> None:
    async with Trio(tmp_path) as trio:
        stranger = Peer(node=None, cluster=None, address=("x", 1), purpose=Purpose.JOIN)
        with pytest.raises(Unauthorized):
            await trio.nodes["n1"].serve(stranger, b"")
        assert OLD not in await trio._ask(trio.members[0], msgspec.msgpack.encode(["ask"]))


def test_a_damaged_keyring_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "keyring"
    assert load_keyring(path, (OLD, NEW)).keys == (OLD, NEW)
    path.write_bytes(b"something else")
    with pytest.raises(StorageError, match="remove it to begin with the keys of the join"):
        load_keyring(path, (OLD,))
    path.write_bytes(b"swarmlet keyring 1\n\x00")
    with pytest.raises(StorageError, match="is damaged"):
        load_keyring(path, (OLD,))
