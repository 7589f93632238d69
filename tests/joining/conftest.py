"""A cluster of one voter and one other node that machines can join, on loopback, without a replicated state."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from ssl import SSLContext

import pytest
import uvloop
from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.errors import JoinRefused, NotLeader
from swarmlet.ids import ClusterId, NodeId, RequestId
from swarmlet.joining.client import Enrolled, KeptKey, enrol
from swarmlet.joining.identity import Identity
from swarmlet.joining.message import MemberAddress
from swarmlet.joining.probe import MAGIC, Prober
from swarmlet.joining.server import Admission, Applicant, JoinServer
from swarmlet.security.authority import Authority, authority_digest
from swarmlet.security.certificate import create_key, create_request, key_to_pem, to_pem
from swarmlet.security.contexts import client_context, server_context
from swarmlet.security.token import (
    PART_BYTES,
    Terms,
    Token,
    Verdict,
    create_token,
    judge,
    refusal,
    secret_hash,
)
from swarmlet.transport.client import MeshClient
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address
from swarmlet.transport.server import Handlers, MeshServer


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every asynchronous test of this folder runs on both loops."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def wall() -> float:
    return time.time_ns() / 1e9


class MemoryEnrolment:
    """What the replicated state does, in memory."""

    def __init__(self, authority: Authority) -> None:
        self.ca = authority
        self.tokens: dict[str, Terms] = {}
        self.nodes: dict[NodeId, Applicant] = {}
        #: No answer after this one ever comes, though the applicant is let in.
        self.loses_answers = False
        self.leads = True
        #: No answer to an applicant ever comes.
        self.is_stuck = False

    def _judge(self, token_hash: str) -> Terms:
        if not self.leads:
            raise NotLeader("n1")
        terms = self.tokens.get(token_hash)
        verdict = judge(terms, wall())
        if terms is None or verdict is not Verdict.VALID:
            raise refusal(verdict)
        return terms

    async def check(self, token_hash: str) -> None:
        self._judge(token_hash)

    async def is_admitted(self, node: NodeId, request_id: RequestId) -> bool:
        if not self.leads:
            raise NotLeader("n1")
        return node in self.nodes and self.nodes[node].request_id == request_id

    async def admit(self, applicant: Applicant) -> Admission:
        if self.is_stuck:
            await asyncio.Event().wait()
        if applicant.node not in self.nodes:
            terms = self._judge(applicant.token_hash)
            if any(known.name == applicant.name for known in self.nodes.values()):
                raise JoinRefused("name_taken", f"a node named {applicant.name} is in the cluster already")
            if terms.uses_left is not None:
                self.tokens[applicant.token_hash] = replace(terms, uses_left=terms.uses_left - 1)
            self.nodes[applicant.node] = applicant
        if self.loses_answers:
            await asyncio.Event().wait()
        members = (MemberAddress(node="n1", name="one", host="127.0.0.1", port=4747),)
        return Admission(
            node=applicant.node,
            cluster_key=b"k" * 32,
            gossip_keys=(b"g" * 32,),
            members=members,
            feature_level=1,
        )

    async def is_member(self, node: NodeId) -> bool:
        return node in self.nodes

    async def authority(self) -> Authority:
        if not self.leads:
            raise NotLeader("n1")
        return self.ca


@dataclass
class Wire(asyncio.DatagramProtocol):
    """The node's UDP socket; each way can be cut."""

    sends: bool = True
    receives: bool = True
    prober: Prober | None = None
    transport: asyncio.DatagramTransport | None = None

    def sendto(self, data: bytes, address: Address) -> None:
        if self.sends and self.transport is not None:
            self.transport.sendto(data, address)

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        if self.receives and data.startswith(MAGIC) and self.prober is not None:
            self.prober.on_datagram(data)


@dataclass
class Cluster:
    """One node that answers joiners."""

    authority: Authority
    enrolment: MemoryEnrolment
    wire: Wire
    server: MeshServer
    join_server: JoinServer
    address: Address
    #: Added to the cluster's clock, in seconds.
    skew: list[float]

    def token(self, terms: Terms | None = None, secret: bytes = b"s" * PART_BYTES) -> Token:
        token = create_token(authority_digest(self.authority.certificate), secret)
        self.enrolment.tokens[secret_hash(token.secret)] = terms or Terms(expires_at=wall() + 60, uses_left=1)
        return token

    async def join(
        self,
        token: Token,
        *,
        name: str = "two",
        key: ec.EllipticCurvePrivateKey | None = None,
        advertise: str = "",
        current: Identity | None = None,
        kept: KeptKey | None = None,
        address: Address | None = None,
        step_seconds: float = 5.0,
    ) -> Enrolled:
        return await enrol(
            token,
            address or self.address,
            name=name,
            key=key or create_key(),
            bind="127.0.0.1",
            port=0,
            advertise=advertise,
            now=wall,
            current=current,
            kept=kept,
            step_seconds=step_seconds,
            probe_seconds=0.2,
        )


@dataclass
class Clusters:
    """Makes clusters for one test, and ends them with it."""

    folder: Path
    group: asyncio.TaskGroup
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    transports: list[asyncio.BaseTransport] = field(default_factory=list)

    def context(
        self, authority: Authority, node: str, *, server: bool, issued: float | None = None
    ) -> SSLContext:
        key = create_key()
        pem = self.folder / f"{authority.cluster}-{node}-{server}-{issued}"
        certificate = authority.sign(
            create_request(key, node),
            node=NodeId(node),
            name=node,
            addresses=("127.0.0.1",),
            now=issued or wall(),
        )
        pem.write_bytes(to_pem(certificate) + key_to_pem(key))
        make = server_context if server else client_context
        return make(authority.certificate, pem, pem)

    async def start(
        self,
        name: str = "c1",
        node: str = "n1",
        *,
        authority: Authority | None = None,
        leader: Cluster | None = None,
        issued: float | None = None,
        says: str | None = None,
    ) -> Cluster:
        """`says`: the cluster id it claims, where that is not its certificate's."""
        cluster = ClusterId(name)
        authority = authority or (leader.authority if leader else Authority.create(cluster, wall()))
        enrolment, wire, handlers = MemoryEnrolment(authority), Wire(), Handlers()
        enrolment.leads = leader is None
        server = MeshServer(
            self.context(authority, node, server=True, issued=issued),
            ("127.0.0.1", 0),
            handlers,
            cluster=cluster,
            node=NodeId(node),
            limits=Limits(handshake_seconds=2),
        )
        address = server.listen()
        client = MeshClient(
            self.context(authority, node, server=False), cluster, NodeId(node), rng=random.Random(1)
        )

        async def forward(method: str, body: bytes) -> bytes:
            assert leader is not None
            return await client.request(leader.address, NodeId("n1"), method, body, timeout=5)

        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        udp.bind(address)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: wire, sock=udp)
        wire.transport = transport
        wire.prober = Prober(wire, seconds=0.2)
        skew, level = [0.0], [1]
        join_server = JoinServer(
            cluster=ClusterId(says or name),
            node=NodeId(node),
            name="one",
            authority=authority.certificate,
            enrolment=enrolment,
            forward=forward,
            prober=wire.prober,
            now=lambda: wall() + skew[0],
            feature_level=lambda: level[0],
        )
        join_server.register(handlers)
        self.transports.append(transport)
        self.tasks += [self.group.create_task(server.serve()), self.group.create_task(client.run())]
        await asyncio.sleep(0)
        return Cluster(authority, enrolment, wire, server, join_server, address, skew)


@pytest.fixture
def clusters(tmp_path: Path) -> Callable[[], contextlib.AbstractAsyncContextManager[Clusters]]:
    """Opens a place where clusters can be started; leaving it ends them."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Clusters]:
        async with asyncio.TaskGroup() as group:
            made = Clusters(tmp_path, group)
            try:
                yield made
            finally:
                for transport in made.transports:
                    transport.close()
                for task in made.tasks:
                    task.cancel()

    return opened
