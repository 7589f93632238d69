"""A node's certificate is renewed in time, by whoever answers; a cluster that does not answer is asked again."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from swarmlet.errors import JoinRefused
from swarmlet.ids import ClusterId, NodeId
from swarmlet.joining import identity as identities
from swarmlet.joining.identity import Identity
from swarmlet.joining.renewal import CHECK_SECONDS, RETRY_SECONDS, RETRY_SECONDS_MAX, TARGETS_MAX, Renewal
from swarmlet.security.authority import Authority
from swarmlet.security.certificate import create_key, create_request, key_to_pem, load_certificate
from swarmlet.security.contexts import client_context, load_identity
from swarmlet.transport.peer import Address
from tests.joining.conftest import Clusters

OpenClusters = Callable[[], AbstractAsyncContextManager[Clusters]]
DAY = 86_400.0
START = 1_800_000_000.0


class World:
    """Virtual time, and nodes that answer or do not."""

    def __init__(self, *, issued: float = START) -> None:
        self.now = issued
        self.naps: list[float] = []
        self.asked: list[Address] = []
        self.installed: list[Identity] = []
        self.silent: set[Address] = set()
        self.targets: list[Address] = [("10.0.0.1", 1), ("10.0.0.2", 2)]
        self.naps_left = 0
        self._ca = Authority.create(ClusterId("c1"), issued)
        self._key = create_key()
        self.identity = Identity(
            node=NodeId("n2"),
            name="two",
            cluster=ClusterId("c1"),
            certificate=self._certificate(),
            key=key_to_pem(self._key),
            authority=self._ca.certificate,
            cluster_key=b"k" * 32,
            gossip_keys=(b"g" * 32,),
        )

    def _certificate(self) -> bytes:
        request = create_request(self._key, "two")
        return self._ca.sign(request, node=NodeId("n2"), name="two", addresses=("10.0.0.9",), now=self.now)

    async def ask(self, target: Address, identity: Identity) -> Identity:
        self.asked.append(target)
        if target in self.silent:
            raise JoinRefused("unreachable", f"{target[0]} did not answer")
        return dataclasses.replace(identity, certificate=self._certificate())

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds
        self.naps_left -= 1
        if not self.naps_left:
            raise asyncio.CancelledError

    async def run(self, naps: int, install: Callable[[Identity], None] | None = None) -> None:
        self.naps_left = naps
        renewal = Renewal(
            self.identity,
            targets=lambda: self.targets,
            install=install or self.installed.append,
            now=lambda: self.now,
            rng=random.Random(1),
            ask=self.ask,
            sleep=self.sleep,
        )
        with pytest.raises(asyncio.CancelledError):
            await renewal.run()


async def test_a_certificate_is_renewed_with_a_third_of_its_time_left() -> None:
    world = World()
    renew_at = load_certificate(world.identity.certificate).renew_at()
    assert 59 * DAY < renew_at - START < 61 * DAY
    await world.run(int((renew_at - START) / CHECK_SECONDS))
    assert not world.asked
    await world.run(4)
    assert world.asked == [("10.0.0.1", 1)]
    assert len(world.installed) == 1
    assert load_certificate(world.installed[0].certificate).not_after > START + 145 * DAY


async def test_the_next_node_is_asked_where_one_does_not_answer() -> None:
    world = World()
    world.now += 70 * DAY
    world.silent = {("10.0.0.1", 1)}
    await world.run(1)
    assert world.asked == [("10.0.0.1", 1), ("10.0.0.2", 2)]
    assert len(world.installed) == 1


async def test_a_certificate_that_has_ended_is_renewed_at_once() -> None:
    world = World()
    world.now += 400 * DAY
    await world.run(1)
    assert len(world.installed) == 1


async def test_a_cluster_that_does_not_answer_is_asked_again_ever_more_rarely() -> None:
    world = World()
    world.now += 70 * DAY
    world.silent = set(world.targets)
    await world.run(20)
    assert not world.installed
    assert RETRY_SECONDS / 2 <= world.naps[0] <= RETRY_SECONDS
    assert all(nap <= RETRY_SECONDS_MAX for nap in world.naps)
    assert world.naps[-1] >= RETRY_SECONDS_MAX / 2
    world.silent = set()
    await world.run(1)
    assert len(world.installed) == 1


async def test_one_try_asks_a_few_nodes_alone() -> None:
    world = World()
    world.now += 70 * DAY
    world.targets = [(f"10.0.0.{number}", 1) for number in range(100)]
    world.silent = set(world.targets)
    await world.run(1)
    assert len(world.asked) == TARGETS_MAX


async def test_nobody_to_ask_is_a_failure_like_any_other() -> None:
    world = World()
    world.now += 70 * DAY
    world.targets = []
    await world.run(3)
    assert len(world.naps) == 3


async def test_a_certificate_that_its_ca_cuts_short_is_not_renewed_in_a_loop() -> None:
    """The CA ends soon: every certificate from it is due again at once."""
    world = World()
    world.now = load_certificate(world.identity.certificate).not_after
    world._certificate = lambda: world.identity.certificate  # type: ignore[method-assign]
    await world.run(3)
    assert len(world.asked) == 3
    assert world.naps == [CHECK_SECONDS] * 3


async def test_a_disk_that_fails_is_told_and_tried_again(tmp_path: Path) -> None:
    world = World()
    world.now += 70 * DAY

    def install(identity: Identity) -> None:
        identities.save(tmp_path / "missing", identity)

    await world.run(2, install)
    assert len(world.naps) == 2


async def test_a_node_renews_over_the_mesh_and_shows_the_new_certificate(
    clusters: OpenClusters, tmp_path: Path
) -> None:
    """On real connections, with a clock that says that it is time."""
    async with clusters() as made:
        cluster = await made.start()
        identity = (await cluster.join(cluster.token())).identity
        identities.save(tmp_path, identity)
        pem = tmp_path / identities.PEM_FILE
        context = client_context(identity.authority, pem, pem)
        renewed = asyncio.Event()

        def install(new: Identity) -> None:
            identities.save(tmp_path, new)
            load_identity(context, pem, pem)
            renewed.set()

        due = load_certificate(identity.certificate).renew_at() + 1
        renewal = Renewal(
            identity,
            targets=lambda: [cluster.address],
            install=install,
            now=lambda: due,
            rng=random.Random(1),
            host="127.0.0.1",
        )
        async with asyncio.TaskGroup() as group, asyncio.timeout(10):
            running = group.create_task(renewal.run())
            await renewed.wait()
            running.cancel()
        loaded = identities.load(tmp_path)
        assert loaded is not None
        assert loaded.certificate != identity.certificate
        server = made.context(cluster.authority, "n1", server=True)
        assert shown(context, server) == loaded.certificate


def shown(client: ssl.SSLContext, server: ssl.SSLContext) -> bytes | None:
    """The certificate (DER) that `client` shows to `server`, in a handshake through memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_side=False),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return ends[1].getpeercert(binary_form=True)
