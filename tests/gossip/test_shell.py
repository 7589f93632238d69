"""The gossip shell on loopback sockets, with streams that are function calls."""

from __future__ import annotations

import asyncio
import os
import random
import socket

import pytest

from swarmlet.errors import Unavailable
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.effect import Address, EventKind, Member, MemberEvent, MemberState, StreamAnswer
from swarmlet.gossip.keyring import Keyring
from swarmlet.gossip.shell import Gossip
from swarmlet.ids import NodeId

#: Seconds' worth of timers: enough that some would ring early.
RINGS = 40
CONFIG = GossipConfig(cluster_id="test", probe_interval=0.05, ping_timeout_min=0.02, gossip_interval=0.02)


class DirectStreams:
    """Streams between shells in one process; who is not in `shells` refuses."""

    def __init__(self) -> None:
        self.shells: dict[Address, Gossip] = {}

    async def ping(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        return StreamAnswer.ACK if address in self.shells else StreamAnswer.REFUSED

    async def check(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        return await self.ping(address, target, timeout)

    async def sync(self, address: Address, target: NodeId, data: bytes) -> bytes:
        if address not in self.shells:
            raise ConnectionRefusedError
        return self.shells[address].on_sync(data, address)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def make(name: str, streams: DirectStreams) -> Gossip:
    address = ("127.0.0.1", free_port())
    me = Member(id=NodeId(name), name=name, address=address, state=MemberState.ALIVE, incarnation=0)
    shell = Gossip(
        me,
        CONFIG,
        Keyring(b"k" * 32),
        streams,
        random.Random(name),
        bind=address,
        random_bytes=os.urandom,
    )
    streams.shells[address] = shell
    return shell


class Waiter:
    """Waits for an event of one kind."""

    def __init__(self, shell: Gossip, kind: EventKind) -> None:
        self.seen = asyncio.Event()
        self.kind = kind
        shell.subscribe(self.on_event)

    def on_event(self, event: MemberEvent) -> None:
        if event.kind is self.kind:
            self.seen.set()

    async def wait(self) -> None:
        async with asyncio.timeout(10):
            await self.seen.wait()


async def test_members_join_answer_each_other_and_leave() -> None:
    streams = DirectStreams()
    a, b = make("a", streams), make("b", streams)
    joined, left = Waiter(a, EventKind.JOINED), Waiter(a, EventKind.LEFT)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(a.run()), group.create_task(b.run())]
        b.join([await a.wait_listening()])
        await joined.wait()
        await b.leave()
        await left.wait()
        for task in tasks:
            task.cancel()
    found = a.member(NodeId("b"))
    assert found is not None
    assert found.state is MemberState.LEFT
    assert [member.id for member in b.members()] == ["b", "a"]


async def test_a_member_whose_port_refuses_has_its_agent_down() -> None:
    streams = DirectStreams()
    a, b = make("a", streams), make("b", streams)
    joined, down = Waiter(a, EventKind.JOINED), Waiter(a, EventKind.AGENT_DOWN)
    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(a.run()), group.create_task(b.run())
        b.join([await a.wait_listening()])
        await joined.wait()
        del streams.shells[await b.wait_listening()]
        second.cancel()
        await down.wait()
        first.cancel()


async def test_garbage_and_a_dead_network_do_not_end_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = DirectStreams()
    a = make("a", streams)
    arrived = asyncio.Event()
    receive = a.on_datagram

    def receive_and_tell(data: bytes, source: Address) -> None:
        receive(data, source)
        arrived.set()

    monkeypatch.setattr(a, "on_datagram", receive_and_tell)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(a.run())
        host, port = await a.wait_listening()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"garbage", (host, port))
        async with asyncio.timeout(5):
            await arrived.wait()
        a.join([("127.0.0.1", 9)])
        await asyncio.sleep(0.05)
        assert (a.core.statistics().packets_refused, task.done()) == (1, False)
        task.cancel()


async def test_a_taken_port_is_named() -> None:
    streams = DirectStreams()
    a = make("a", streams)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(a._bind)
        with pytest.raises(Unavailable, match=r"port \d+ \(UDP\): it is in use"):
            await a.run()


@pytest.mark.slow
def test_the_timer_never_rings_before_the_core_has_something_to_do() -> None:
    """Timers of uvloop are rounded to milliseconds; a ring too early wakes the agent for nothing."""
    uvloop = pytest.importorskip("uvloop")
    rings: list[float] = []

    async def scenario() -> None:
        streams = DirectStreams()
        shell, other = make("a", streams), make("b", streams)
        on_timer, enough = shell.core.on_timer, asyncio.Event()

        def ring(now: float) -> None:
            rings.append(now - shell.core.deadline)
            if len(rings) == RINGS:
                enough.set()
            on_timer(now)

        shell.core.on_timer = ring  # type: ignore[method-assign]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(shell.run()), group.create_task(other.run())]
            shell.join([await other.wait_listening()])
            await enough.wait()
            for task in tasks:
                task.cancel()

    uvloop.run(scenario())
    assert min(rings) >= 0.0


class LingeringStreams(DirectStreams):
    """Streams that take a while to end."""

    async def ping(self, address: Address, target: NodeId, timeout: float) -> StreamAnswer:  # noqa: ASYNC109
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.3)
        return StreamAnswer.SILENT


async def test_a_member_that_is_stopped_begins_nothing_more_while_its_streams_end() -> None:
    streams = LingeringStreams()
    a, b = make("a", streams), make("b", streams)
    joined = Waiter(a, EventKind.JOINED)
    async with asyncio.TaskGroup() as group:
        first, second = group.create_task(a.run()), group.create_task(b.run())
        b.join([await a.wait_listening()])
        await joined.wait()
        second.cancel()
        while not a._tasks:  # noqa: ASYNC110 (probes of what is silent come by the clock)
            await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        # A timer's work used to raise here: the group of its tasks takes no more.
        a._begin(lambda: asyncio.sleep(0), lambda _: pytest.fail("refused"))
        assert not first.done()
