"""Client and server together, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import pytest

from swarmlet.errors import (
    Conflict,
    InvalidInput,
    JoinRefused,
    NotFound,
    NotLeader,
    Overloaded,
    Refused,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    WireError,
)
from swarmlet.ids import NodeId
from swarmlet.security.contexts import joining_context
from swarmlet.transport.client import SYNC_METHOD, ClientConnection, MeshClient, open_connection
from swarmlet.transport.frame import Frame, Kind, Purpose
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address, Peer
from swarmlet.transport.server import Answer, Handlers, MeshServer

from .conftest import CLUSTER, Mesh, World, eventually

OpenMesh = Callable[[], contextlib.AbstractAsyncContextManager[Mesh]]
N1 = NodeId("n1")


async def echo(peer: Peer, body: bytes) -> bytes:
    return body


async def connected(net: Mesh, address: Address) -> MeshClient:
    """A client whose connection stands: what it waits for is the answer alone."""
    client = net.client()
    with pytest.raises(Refused, match="no method"):
        await client.request(address, N1, "nothing-of-this-name", b"", timeout=5)
    return client


async def test_a_request_is_answered_and_the_handler_knows_who_asks(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        peers = []

        async def who(peer: Peer, body: bytes) -> bytes:
            peers.append((peer.cluster, peer.node, peer.purpose))
            return body + b"!"

        server.handlers.register("who", who)
        assert await net.client().request(address, N1, "who", b"me", timeout=5) == b"me!"
        assert peers == [("c1", "n2", Purpose.RPC)]


async def test_requests_share_one_connection_and_answers_come_in_any_order(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        gate = asyncio.Event()

        async def wait(peer: Peer, body: bytes) -> bytes:
            if body == b"first":
                await gate.wait()
            return body

        server.handlers.register("wait", wait)
        client = net.client()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.request(address, N1, "wait", b"first", timeout=5))
            assert await client.request(address, N1, "wait", b"second", timeout=5) == b"second"
            assert not first.done()
            gate.set()
        assert first.result() == b"first"
        assert len(server._connections) == 1


async def test_a_large_answer_crosses_whole(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("echo", echo)
        body = bytes(range(256)) * 4096 * 7
        assert await net.client().request(address, N1, "echo", body, timeout=20) == body


async def test_an_answer_beyond_the_limit_is_an_error_of_that_request_alone(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(frame_bytes_max=4096))

        async def big(peer: Peer, body: bytes) -> bytes:
            return bytes(5000)

        server.handlers.register("big", big)
        server.handlers.register("echo", echo)
        client = net.client()
        with pytest.raises(WireError, match="exceeds 4_096 B"):
            await client.request(address, N1, "big", b"", timeout=5)
        assert await client.request(address, N1, "echo", b"x", timeout=5) == b"x"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (NotLeader("n7"), NotLeader("n7")),
        (NotFound("no job web"), NotFound("no job web")),
        (Overloaded("full", 3.0), Overloaded("full", 3.0)),
        (JoinRefused("token_expired", "expired"), JoinRefused("token_expired", "expired")),
        (KeyError("bug"), Unavailable("fail failed on node n1; its log has the reason")),
    ],
)
async def test_errors_cross_by_name(mesh: OpenMesh, raised: Exception, seen: Exception) -> None:
    async with mesh() as net:
        server, address = net.serve()

        async def fail(peer: Peer, body: bytes) -> bytes:
            raise raised

        server.handlers.register("fail", fail)
        with pytest.raises(type(seen)) as caught:
            await net.client().request(address, N1, "fail", b"", timeout=5)
        assert type(caught.value) is type(seen)
        assert (str(caught.value), vars(caught.value)) == (str(seen), vars(seen))


async def test_an_unknown_method_and_one_of_another_purpose_are_refused(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("snapshot", echo, purpose=Purpose.BULK)
        client = net.client()
        with pytest.raises(Refused, match="no method nothing"):
            await client.request(address, N1, "nothing", b"", timeout=5)
        with pytest.raises(Refused, match="no method snapshot for rpc"):
            await client.request(address, N1, "snapshot", b"", timeout=5)
        assert await client.request(address, N1, "snapshot", b"s", timeout=5, purpose=Purpose.BULK) == b"s"
        assert len(server._connections) == 2


async def test_a_request_that_times_out_has_an_unknown_outcome_and_is_cancelled_at_the_server(
    mesh: OpenMesh,
) -> None:
    async with mesh() as net:
        server, address = net.serve()
        cancelled = asyncio.Event()

        async def hang(peer: Peer, body: bytes) -> bytes:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
            return b""

        server.handlers.register("hang", hang)
        client = await connected(net, address)
        with pytest.raises(UnknownOutcome, match=r"did not answer hang within 0\.05 s"):
            await client.request(address, N1, "hang", b"", timeout=0.05)
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_a_lost_connection_fails_its_requests_and_the_next_request_reconnects(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        started = asyncio.Event()

        async def hang(peer: Peer, body: bytes) -> bytes:
            started.set()
            await asyncio.Event().wait()
            return b""

        server.handlers.register("hang", hang)
        server.handlers.register("echo", echo)
        client = net.client()

        async def asked() -> None:
            with pytest.raises(UnknownOutcome, match="connection lost"):
                await client.request(address, N1, "hang", b"", timeout=5)

        async with asyncio.TaskGroup() as group:
            group.create_task(asked())
            await started.wait()
            server.disconnect(NodeId("n2"))
        assert await client.request(address, N1, "echo", b"again", timeout=5) == b"again"


async def test_a_stream_delivers_in_order_and_only_as_fast_as_it_is_read(mesh: OpenMesh) -> None:
    """The server never runs more than the window and one item ahead of the reader."""
    async with mesh() as net:
        limits = Limits(stream_window_bytes=10_000)
        server, address = net.serve(limits=limits)
        sent = 0

        async def count(peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
            nonlocal sent
            for number in range(200):
                sent += 1
                yield number.to_bytes(2, "big") + bytes(998)

        server.handlers.register_stream("count", count)
        client = net.client(limits=limits)
        taken = []
        async with aclosing(client.stream(address, N1, "count", b"", timeout=5)) as items:
            async for item in items:
                taken.append(int.from_bytes(item[:2], "big"))
                await asyncio.sleep(0)
                assert sent - len(taken) <= 12
        assert taken == list(range(200))


async def test_a_stream_that_is_left_early_ends_at_the_server(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        closed = asyncio.Event()

        async def forever(peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
            try:
                yield b"one"
                await asyncio.Event().wait()
            finally:
                closed.set()

        server.handlers.register_stream("forever", forever)
        client = net.client()
        async with aclosing(client.stream(address, N1, "forever", b"", timeout=5)) as items:
            assert await anext(items) == b"one"
        async with asyncio.timeout(5):
            await closed.wait()


async def test_a_stream_ends_with_its_handlers_error_and_with_the_connection(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()

        async def fails(peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
            yield b"one"
            if body == b"fail":
                raise NotFound("gone")
            await asyncio.Event().wait()

        server.handlers.register_stream("fails", fails)
        client = net.client()
        async with aclosing(client.stream(address, N1, "fails", b"fail", timeout=5)) as items:
            assert await anext(items) == b"one"
            with pytest.raises(NotFound, match="gone"):
                await anext(items)
        async with aclosing(client.stream(address, N1, "fails", b"", timeout=5)) as items:
            assert await anext(items) == b"one"
            server.disconnect(NodeId("n2"))
            with pytest.raises(Unavailable, match="connection lost"):
                await anext(items)


async def test_oneway_messages_arrive_in_order_also_those_sent_before_the_connection(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        got: list[bytes] = []
        complete = asyncio.Event()

        def take(peer: Peer, body: bytes) -> None:
            got.append(body)
            if len(got) == 100:
                complete.set()

        server.handlers.register_oneway("raft", take)
        client = net.client()
        await asyncio.sleep(0)  # run() owns the background connects
        messages = [b"%d" % number for number in range(100)]
        assert all(client.send(address, N1, "raft", message) for message in messages[:50])
        await eventually(lambda: len(got) == 50)
        assert all(client.send(address, N1, "raft", message) for message in messages[50:])
        async with asyncio.timeout(5):
            await complete.wait()
        assert got == messages


async def test_oneway_messages_beyond_the_bound_are_dropped_not_kept(mesh: OpenMesh, world: World) -> None:
    async with mesh() as net:
        _, address = net.serve()
        client = net.client(limits=Limits(pending_oneway_bytes_max=1000))
        await asyncio.sleep(0)
        assert [client.send(address, N1, "raft", bytes(400)) for _ in range(4)] == [True, True, False, False]
        assert client.dropped == 2


async def test_a_peer_that_reads_nothing_costs_a_bounded_buffer(mesh: OpenMesh) -> None:
    """Raft's messages to a peer that stands still are dropped; they are sent again by Raft itself."""
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("echo", echo, purpose=Purpose.RAFT)
        client = net.client(limits=Limits(write_buffer_bytes_max=1_000_000))
        await client.request(address, N1, "echo", b"", timeout=5, purpose=Purpose.RAFT)
        for connection in server._connections:
            assert connection._transport is not None
            connection._transport.pause_reading()
        results = []
        for _ in range(400):
            results.append(client.send(address, N1, "raft", bytes(100_000)))
            await asyncio.sleep(0)
        assert not results[-1]
        (slot,) = client._slots.values()
        assert slot.connection is not None
        assert slot.connection.backlog < 1_200_000


async def test_a_node_of_another_cluster_is_told_so_on_both_sides(mesh: OpenMesh) -> None:
    async with mesh() as net:
        _, address = net.serve()
        stranger = net.client(cluster="c2")
        with pytest.raises(Refused, match="does not belong to this cluster"):
            await stranger.request(address, N1, "echo", b"", timeout=5)


async def test_a_certificate_of_another_ca_is_refused_by_the_server(mesh: OpenMesh, world: World) -> None:
    """The client trusts the server's CA but shows a certificate of another."""
    async with mesh() as net:
        _, address = net.serve()
        context = world.client("n2", "c2")
        context.load_verify_locations(cadata=world.authority(CLUSTER).certificate)
        client = MeshClient(context, CLUSTER, NodeId("n2"), rng=net.client()._rng)
        with pytest.raises(Unavailable, match="does not accept our certificate"):
            await client.request(address, N1, "echo", b"", timeout=5)
        client.close()


async def test_the_wrong_node_at_an_address_is_named(mesh: OpenMesh) -> None:
    async with mesh() as net:
        _, address = net.serve("n3")
        with pytest.raises(Unavailable, match="is node n3, not n1"):
            await net.client().request(address, N1, "echo", b"", timeout=5)


async def test_expired_certificates_are_named_on_both_sides(mesh: OpenMesh) -> None:
    async with mesh() as net:
        long_ago = time.time_ns() / 1e9 - 100 * 86400
        server, address = net.serve()
        server.handlers.register("echo", echo)
        with pytest.raises(Unavailable, match=r"does not accept our certificate \(expired"):
            await net.client(issued=long_ago).request(address, N1, "echo", b"", timeout=5)
        _, old = net.serve("n3", issued=long_ago)
        with pytest.raises(Unavailable, match="its certificate has expired"):
            await net.client().request(old, None, "echo", b"", timeout=5)


async def test_without_a_certificate_only_joining_is_possible(mesh: OpenMesh, world: World) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("echo", echo)
        server.handlers.register("join", echo, purpose=Purpose.JOIN)
        for purpose in set(Purpose) - {Purpose.JOIN}:
            with pytest.raises(Unauthorized, match="certificate is needed"):
                await open_connection(address, joining_context(), CLUSTER, purpose, Limits())
        connection = await open_connection(address, joining_context(), "", Purpose.JOIN, Limits())
        assert await connection.request("join", b"hi") == b"hi"
        with pytest.raises(Refused, match="no method echo for join"):
            await connection.request("echo", b"")
        with pytest.raises(UnknownOutcome):
            await connection.request("join", bytes(70_000))
        assert connection.closed


async def test_a_stranger_neither_stays_nor_asks_much(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(stranger_seconds=0.2, stranger_requests_max=1))

        async def hang(peer: Peer, body: bytes) -> bytes:
            await asyncio.Event().wait()
            return b""

        server.handlers.register("hang", hang, purpose=Purpose.JOIN)
        connection = await open_connection(address, joining_context(), "", Purpose.JOIN, Limits())
        assert server._strangers.total() == 1
        async with asyncio.TaskGroup() as group:
            outcome = group.create_task(asked_in_vain(connection))
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await connection.request("hang", b"")
        assert isinstance(outcome.result(), UnknownOutcome)
        await eventually(lambda: not server._strangers)


async def asked_in_vain(connection: ClientConnection) -> Exception | None:
    try:
        await connection.request("hang", b"")
    except UnknownOutcome as error:
        return error
    return None


async def test_addresses_that_can_be_none_are_unavailable(mesh: OpenMesh) -> None:
    async with mesh() as net:
        client = net.client()
        await asyncio.sleep(0)
        for address in (("127.0.0.1", 0), ("127.0.0.1", 99999), ("a..b", 1), ("\0", 1), ("é" * 70, 1)):
            with pytest.raises(Unavailable):
                await client.request(address, N1, "echo", b"", timeout=5)
            assert await client.ping(address, N1, 5) == "silent"


async def test_admission_can_refuse_a_removed_node(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()

        def admit(peer: Peer) -> None:
            raise Refused(f"{peer.node} was removed from the cluster")

        server.admit = admit
        with pytest.raises(Refused, match="n2 was removed"):
            await net.client().request(address, N1, "echo", b"", timeout=5)


def refused_at_least(server: MeshServer, count: int) -> Callable[[], bool]:
    return lambda: server.refused["handshake"] >= count


@pytest.mark.slow
async def test_garbage_slow_loris_and_oversize_frames_leave_the_server_serving(
    mesh: OpenMesh, world: World
) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(handshake_seconds=0.2))
        server.handlers.register("echo", echo)
        loop = asyncio.get_running_loop()

        for number, data in enumerate((b"GET / HTTP/1.1\r\n\r\n" * 50, b"\x16", b""), 1):
            with socket.create_connection(address) as raw:
                raw.setblocking(False)
                await loop.sock_sendall(raw, data)
                await eventually(refused_at_least(server, number))
        server.limits = Limits()
        client = net.client()
        assert await client.request(address, N1, "echo", b"x", timeout=5) == b"x"
        (slot,) = client._slots.values()
        assert slot.connection is not None
        assert slot.connection._transport is not None
        slot.connection._transport.write(b"\xff\xff\xff\xff")
        async with asyncio.timeout(5):
            await slot.connection.wait_lost()
        assert await client.request(address, N1, "echo", b"y", timeout=5) == b"y"


async def test_a_client_that_says_no_hello_is_dropped(mesh: OpenMesh, world: World) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(handshake_seconds=0.2))
        reader, writer = await asyncio.open_connection(*address, ssl=world.client("n2"), server_hostname="")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        assert not server._connections
        assert not server._strangers


async def test_a_server_frame_of_an_unknown_kind_ends_the_connection(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("echo", echo)
        client = net.client()
        await client.request(address, N1, "echo", b"", timeout=5)
        (slot,) = client._slots.values()
        connection = slot.connection
        assert connection is not None
        connection.send(Frame(kind=Kind.WELCOME))
        async with asyncio.timeout(5):
            await connection.wait_lost()


async def test_connections_beyond_the_bound_are_closed_and_room_is_used_again(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(connections_max=1))
        server.handlers.register("echo", echo)
        first, second = net.client(), net.client("n3")
        await first.request(address, N1, "echo", b"", timeout=5)
        with pytest.raises(Unavailable):
            await second.request(address, N1, "echo", b"", timeout=5)
        assert server.refused["too_many"] >= 1
        first.close()
        await eventually(lambda: not server._connections)
        assert await net.client("n3").request(address, N1, "echo", b"z", timeout=5) == b"z"


async def test_unfinished_handshakes_of_one_address_are_bounded(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(strangers_per_address_max=2))
        with contextlib.ExitStack() as sockets:
            for _ in range(4):
                sockets.enter_context(socket.create_connection(address))
            await eventually(lambda: server.refused["too_many"] >= 2)
            assert server._strangers["127.0.0.1"] == 2


async def test_so_many_shake_hands_at_once_and_the_next_one_follows(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(handshakes_at_once=2, handshake_turn_seconds=60))
        server.handlers.register("echo", echo)
        with contextlib.ExitStack() as sockets:
            silent = [sockets.enter_context(socket.create_connection(address)) for _ in range(2)]
            await eventually(server._places.locked)
            waiting = net.group.create_task(net.client().request(address, N1, "echo", b"x", timeout=5))
            await eventually(lambda: server._strangers["127.0.0.1"] == 3)
            assert not server._connections
            silent[0].close()
            assert await waiting == b"x"


async def test_slow_handshakes_keep_nobody_out(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(handshakes_at_once=1, handshake_turn_seconds=0.01))
        server.handlers.register("echo", echo)
        with contextlib.ExitStack() as sockets:
            for _ in range(3):
                sockets.enter_context(socket.create_connection(address))
            assert await net.client().request(address, N1, "echo", b"x", timeout=5) == b"x"
            assert server._strangers["127.0.0.1"] == 3


async def test_more_requests_than_the_server_allows_are_told_to_slow_down(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(requests_per_connection_max=2))
        gate = asyncio.Event()

        async def wait(peer: Peer, body: bytes) -> bytes:
            await gate.wait()
            return body

        server.handlers.register("wait", wait)
        client = net.client()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.request(address, N1, "wait", b"", timeout=5)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                await client.request(address, N1, "wait", b"", timeout=5)
            gate.set()
        assert [task.result() for task in tasks] == [b"", b""]


@pytest.mark.slow
async def test_a_connection_without_a_sign_of_life_is_given_up(mesh: OpenMesh) -> None:
    """A stream that has nothing to say is kept by pings; one whose server stands still ends."""
    async with mesh() as net:
        server, address = net.serve(limits=Limits(keepalive_seconds=5))

        async def idle(peer: Peer, body: bytes) -> AsyncGenerator[bytes, None]:
            yield b"one"
            await asyncio.Event().wait()

        server.handlers.register_stream("idle", idle)
        client = net.client(limits=Limits(keepalive_seconds=0.05))
        async with aclosing(client.stream(address, N1, "idle", b"", timeout=5)) as items:
            await anext(items)
            (slot,) = client._slots.values()
            assert slot.connection is not None
            await asyncio.sleep(0.2)
            assert not slot.connection.closed
            for connection in server._connections:
                assert connection._transport is not None
                connection._transport.pause_reading()
            with pytest.raises(Unavailable, match="nothing heard for"):
                await anext(items)


async def test_a_silent_connection_is_given_up_when_its_node_comes_back(mesh: OpenMesh) -> None:
    """After a cut the kernel may repeat for many seconds what a new connection says in a round trip."""
    async with mesh() as net:
        server, address = net.serve()

        async def echo(peer: Peer, body: bytes) -> bytes:
            return body

        server.handlers.register("say", echo)
        client = net.client()
        await client.request(address, N1, "say", b"", timeout=5)
        (slot,) = client._slots.values()
        first = slot.connection
        assert first is not None
        closed = []
        for node, silent in ((N1, 0.0), (NodeId("another"), 10.0), (N1, 0.0)):
            first._heard_at -= silent
            client.renew(node)
            closed.append(first.closed)
        # It spoke just now; another node came back; it has been silent and its own node came back.
        assert closed == [False, False, True]
        assert await client.request(address, N1, "say", b"again", timeout=5) == b"again"


async def test_a_refused_connection_is_unavailable_and_backs_off(mesh: OpenMesh) -> None:
    async with mesh() as net:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            address = ("127.0.0.1", unused.getsockname()[1])
        client = net.client()
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"cannot reach 127\.0\.0\.1"):
                await client.request(address, N1, "echo", b"", timeout=5)
        (slot,) = client._slots.values()
        assert slot.wait == Limits().backoff_seconds_min


async def test_the_pool_evicts_what_nobody_uses(mesh: OpenMesh) -> None:
    async with mesh() as net:
        client = net.client(limits=Limits(pool_max=2))
        for number in range(3):
            server, address = net.serve(f"s{number}")
            server.handlers.register("echo", echo)
            await client.request(address, None, "echo", b"", timeout=5)
        assert len(client._slots) == 2


async def test_a_ping_tells_ack_refused_stalled_and_silent_apart(mesh: OpenMesh) -> None:
    async with mesh() as net:
        _, address = net.serve()
        client = net.client()
        assert await client.ping(address, N1, 5) == "ack"
        assert await client.ping(address, NodeId("n9"), 5) == "refused"
        with socket.socket() as deaf:
            deaf.bind(("127.0.0.1", 0))
            assert await client.ping(deaf.getsockname(), N1, 5) == "refused"
            deaf.listen(1)
            assert await client.ping(deaf.getsockname(), N1, 0.1) == "stalled"
        with socket.socket() as full, contextlib.ExitStack() as waiting:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            for _ in range(2):  # a full accept queue: the kernel drops further SYNs
                held = waiting.enter_context(socket.socket())
                held.setblocking(False)
                held.connect_ex(full.getsockname())
            await asyncio.sleep(0.02)
            assert await client.ping(full.getsockname(), N1, 0.1) == "silent"


async def test_a_check_asks_over_a_connection_that_stands(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register("echo", echo)
        client = net.client()
        await client.request(address, N1, "echo", b"", timeout=5)
        for _ in range(3):
            assert await client.check(address, N1, 5) == "ack"
        assert len(server._connections) == 1


async def test_a_check_keeps_the_connection_it_made(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        client = net.client()
        for _ in range(3):
            assert await client.check(address, N1, 5) == "ack"
        assert len(server._connections) == 1
        assert await client.check(address, NodeId("n9"), 5) == "refused"


async def test_a_check_whose_connection_is_mute_dials_anew(
    mesh: OpenMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mesh() as net:
        _, address = net.serve()
        client = net.client()
        assert await client.check(address, N1, 5) == "ack"
        (slot,) = client._slots.values()
        assert slot.connection is not None
        monkeypatch.setattr(slot.connection, "data_received", lambda _: None)
        assert not await slot.connection.answers(0.01)
        # The new connection gets its time, on a busy machine too.
        ask = slot.connection.answers
        monkeypatch.setattr(slot.connection, "answers", lambda seconds: ask(0.01))
        assert await client.check(address, N1, 5) == "ack"


async def test_a_sync_brings_the_other_sides_state(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        server.handlers.register(SYNC_METHOD, echo, purpose=Purpose.GOSSIP)
        client = net.client()
        assert await client.sync(address, N1, b"members", 5) == b"members"
        assert not client._slots


async def test_a_taken_port_is_named(mesh: OpenMesh) -> None:
    async with mesh() as net:
        _, address = net.serve()
        await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match=f"cannot listen on 127.0.0.1:{address[1]}"):
            MeshServer(net.world.server("n1"), address, Handlers(), cluster=CLUSTER, node=N1).listen()


@pytest.mark.parametrize(("bound", "reached"), [("::1", "::1"), ("::", "::1"), ("::", "127.0.0.1")])
async def test_the_mesh_speaks_ipv6_and_both_on_the_unspecified_address(
    mesh: OpenMesh, bound: str, reached: str
) -> None:
    async with mesh() as net:
        server, (_, port) = net.serve(host=bound)
        server.handlers.register("echo", echo)
        assert await net.client().request((reached, port), N1, "echo", b"6", timeout=5) == b"6"


async def test_a_name_is_resolved(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, (_, port) = net.serve()
        server.handlers.register("echo", echo)
        assert await net.client().request(("localhost", port), N1, "echo", b"n", timeout=5) == b"n"


async def test_a_deferred_request_is_answered_when_its_handler_says_so(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        answers: list[Answer] = []

        def take(peer: Peer, body: bytes, answer: Answer) -> None:
            if body == b"refuse":
                raise Conflict("no")
            if body == b"break":
                raise RuntimeError("a bug")
            answers.append(answer)

        server.handlers.register_deferred("take", take)
        client = net.client()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.request(address, N1, "take", b"1", timeout=5))
            second = group.create_task(client.request(address, N1, "take", b"2", timeout=5))
            await eventually(lambda: len(answers) == 2)
            answers[1](b"later")
            assert await second == b"later"
            answers[1](b"once more")  # nobody waits: dropped
            answers[0](b"first")
        assert first.result() == b"first"
        for body, error in ((b"refuse", Conflict), (b"break", Unavailable)):
            with pytest.raises(error):
                await client.request(address, N1, "take", body, timeout=5)
        connection = next(iter(server._connections))
        assert not connection._calls


async def test_a_deferred_request_whose_client_has_gone_is_forgotten(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve()
        answers: list[Answer] = []
        server.handlers.register_deferred("take", lambda peer, body, answer: answers.append(answer))
        client = await connected(net, address)
        with pytest.raises(UnknownOutcome):
            await client.request(address, N1, "take", b"", timeout=0.05)
        connection = next(iter(server._connections))
        await eventually(lambda: not connection._calls)
        answers[0](b"late")
        with pytest.raises(UnknownOutcome):
            await client.request(address, N1, "take", b"", timeout=0.05)
        client.close()
        await eventually(lambda: not server._connections)
        answers[1](b"late")


async def test_deferred_requests_are_bounded_like_others(mesh: OpenMesh) -> None:
    async with mesh() as net:
        server, address = net.serve(limits=Limits(requests_per_connection_max=1))
        answers: list[Answer] = []
        server.handlers.register_deferred("take", lambda peer, body, answer: answers.append(answer))
        client = net.client()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(client.request(address, N1, "take", b"", timeout=5))
            await eventually(lambda: len(answers) == 1)
            with pytest.raises(Overloaded):
                await client.request(address, N1, "take", b"", timeout=5)
            answers[0](b"done")
        assert first.result() == b"done"
