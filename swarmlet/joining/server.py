"""The cluster's side of joining, on every node: what a node can not decide itself goes to the leader."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from swarmlet.errors import InvalidInput, JoinRefused, NotLeader, Overloaded, Refused, Unauthorized
from swarmlet.ids import ClusterId, NodeId, RequestId, derive
from swarmlet.joining.message import (
    ADMITTED,
    CHECK,
    ENROL,
    HELLO,
    MEMBERS_MAX,
    PROBE,
    RENEW,
    VERSION,
    AdmittedRequest,
    EnrolReply,
    HelloReply,
    MemberAddress,
    ProbeRequest,
    admitted_request_codec,
    enrol_reply_codec,
    enrol_request_codec,
    hello_reply_codec,
    probe_reply_codec,
    probe_request_codec,
    renew_request_codec,
)
from swarmlet.joining.probe import Prober
from swarmlet.security.authority import (
    NODE_CERTIFICATE_HOURS,
    Authority,
    judge_renewal,
    node_id_of,
    requested_key,
)
from swarmlet.security.certificate import key_digest, load_certificate
from swarmlet.security.token import Verdict, secret_hash
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Peer
from swarmlet.transport.server import Handlers

#: Enrolments under way at one node: each is a write of the replicated state.
ENROLMENTS_MAX = 32
#: The longest host name there is.
HOST_CHARACTERS_MAX = 253
#: A node's name: a host name without dots at the ends, that fits a certificate and a column.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """A machine that wants to become a node. Its secret stays outside the replicated state."""

    token_hash: str
    #: SHA-256 of its public key.
    key_digest: bytes
    #: Derived from its key: the same key asking twice is the same machine, and gets the same node.
    node: NodeId
    #: Depends on key, token and name alone. With it as the command's request id, an applicant whose answer
    #: was lost asks again without using the token twice.
    request_id: RequestId
    name: str
    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What the cluster decided about an applicant, and what it gives a node."""

    #: The applicant's `node`.
    node: NodeId
    cluster_key: bytes
    gossip_keys: tuple[bytes, ...]
    members: tuple[MemberAddress, ...]
    feature_level: int


class Enrolment(Protocol):
    """The replicated state's part. Every method may raise NotLeader; then the node asks the leader."""

    async def check(self, token_hash: str) -> None:
        """Raise JoinRefused unless the token could be used now. Uses nothing up."""

    async def is_admitted(self, node: NodeId, request_id: RequestId) -> bool:
        """Whether the applicant with these (see `Applicant`) was let in lately, and has not left since."""

    async def admit(self, applicant: Applicant) -> Admission:
        """Use the token once and take the name, in one command; raise JoinRefused and change nothing otherwise.

        A repeated request id gets the answer of the first.
        """

    async def is_member(self, node: NodeId) -> bool:
        """Whether the cluster knows `node`: it joined, and was not removed."""

    async def authority(self) -> Authority:
        """The CA with its key, opened."""


#: Refusals of a token that was good once: who was let in by it meanwhile may hear so again.
_NO_MORE_USES = frozenset({Verdict.USED_UP.value, Verdict.EXPIRED.value})

Forward = Callable[[str, bytes], Awaitable[bytes]]


def check_name(name: str) -> None:
    """Raise InvalidInput unless `name` can name a node."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"a node's name has 1 to 63 letters, digits, '.', '-', '_' and begins and ends with a letter or "
            f"digit, not {name[:80]!r}; choose one with --name"
        )


class JoinServer:
    """Answers joiners. `forward(method, body)` sends a request to the leader over the mesh (`Purpose.RPC`)."""

    def __init__(
        self,
        *,
        cluster: ClusterId,
        node: NodeId,
        name: str,
        authority: bytes,
        enrolment: Enrolment,
        forward: Forward,
        prober: Prober,
        now: Callable[[], float],
        feature_level: Callable[[], int],
        certificate_hours: float = NODE_CERTIFICATE_HOURS,
    ) -> None:
        """`authority` is the CA's certificate (DER); `now` wall time in seconds; `feature_level` the cluster's."""
        self._hello = (cluster, node, name, authority)
        self._feature_level = feature_level
        self._certificate_hours = certificate_hours
        self._cluster = cluster
        self._authority = authority
        self._enrolment = enrolment
        self._forward = forward
        self._prober = prober
        self._now = now
        self._under_way = 0

    def register(self, handlers: Handlers) -> None:
        """Register what joiners may call, and what other nodes forward."""
        handlers.register(HELLO, self.hello, purpose=Purpose.JOIN)
        handlers.register(PROBE, self.probe, purpose=Purpose.JOIN)
        handlers.register(CHECK, self.check, purpose=Purpose.RPC)
        handlers.register(ADMITTED, self.admitted, purpose=Purpose.RPC)
        for purpose in (Purpose.JOIN, Purpose.RPC):
            handlers.register(ENROL, self.enrol, purpose=purpose)
            handlers.register(RENEW, self.renew, purpose=purpose)

    async def hello(self, peer: Peer, body: bytes) -> bytes:
        """Who we are and what time it is. Nothing here is secret."""
        cluster, node, name, authority = self._hello
        reply = HelloReply(
            version=VERSION,
            cluster=cluster,
            node=node,
            name=name,
            authority=authority,
            now=self._now(),
            feature_level=self._feature_level(),
        )
        return hello_reply_codec.encode(reply)

    async def probe(self, peer: Peer, body: bytes) -> bytes:
        """Connect back to the joiner, once its token is known to be good: strangers can not aim us at others."""
        request = probe_request_codec.decode(body)
        try:
            await self._at_leader(peer, CHECK, secret_hash(request.secret).encode(), self.check)
        except JoinRefused as error:
            if error.code not in _NO_MORE_USES or not await self._is_admitted(peer, request):
                raise
        return probe_reply_codec.encode(await self._prober.probe((request.host, request.port), request.nonce))

    async def check(self, peer: Peer, body: bytes) -> bytes:
        """Whether a token (its hash) could be used now."""
        await self._enrolment.check(body.decode("ascii", "replace"))
        return b""

    async def admitted(self, peer: Peer, body: bytes) -> bytes:
        """Whether an applicant was let in: something, else nothing."""
        request = admitted_request_codec.decode(body)
        is_admitted = await self._enrolment.is_admitted(NodeId(request.node), RequestId(request.request_id))
        return b"\x01" if is_admitted else b""

    async def enrol(self, peer: Peer, body: bytes) -> bytes:
        """Make the applicant a node, or refuse and change nothing."""
        if self._under_way >= ENROLMENTS_MAX:
            raise Overloaded(f"{ENROLMENTS_MAX} machines are joining already", 1.0)
        self._under_way += 1
        try:
            return await self._at_leader(peer, ENROL, body, self._enrol_here)
        finally:
            self._under_way -= 1

    async def renew(self, peer: Peer, body: bytes) -> bytes:
        """A new certificate for a known key; the old one may have expired."""
        return await self._at_leader(peer, RENEW, body, self._renew_here)

    async def _is_admitted(self, peer: Peer, request: ProbeRequest) -> bool:
        """Whether who asks was let in by this very token before: its answer was lost. `enrol` will have it prove its key."""
        node = node_id_of(self._cluster, request.key_digest)
        request_id = _request_id(node, secret_hash(request.secret), request.name)
        body = admitted_request_codec.encode(AdmittedRequest(node=node, request_id=request_id))
        try:
            return bool(await self._at_leader(peer, ADMITTED, body, self.admitted))
        except Refused:
            # A leader of an earlier version does not know the question.
            return False

    async def _enrol_here(self, peer: Peer, body: bytes) -> bytes:
        request = enrol_request_codec.decode(body)
        # Everything that can be wrong with the request itself, before the token is used up.
        if request.version != VERSION:
            raise JoinRefused(
                "version",
                f"this cluster speaks joining version {VERSION}, the joiner {request.version}: upgrade it",
            )
        level = self._feature_level()
        if request.feature_level < level:
            raise JoinRefused(
                "version",
                f"this cluster is at feature level {level}, the joiner knows {request.feature_level}: install the "
                "version of swarmlet that the cluster's nodes run",
            )
        check_name(request.name)
        if not 0 < request.port < 65536 or not 0 < len(request.host) <= HOST_CHARACTERS_MAX:
            raise InvalidInput(f"not an address: {request.host[:HOST_CHARACTERS_MAX]!r} port {request.port}")
        key = key_digest(requested_key(request.request))
        authority = await self._enrolment.authority()
        token_hash, node = secret_hash(request.secret), node_id_of(self._cluster, key)
        applicant = Applicant(
            token_hash=token_hash,
            key_digest=key,
            node=node,
            request_id=_request_id(node, token_hash, request.name),
            name=request.name,
            host=request.host,
            port=request.port,
        )
        admission = await self._enrolment.admit(applicant)
        assert admission.node == node, "a node's id is derived from its key"
        certificate = authority.sign(
            request.request,
            node=node,
            name=request.name,
            addresses=(request.host,),
            now=self._now(),
            valid_hours=self._certificate_hours,
        )
        reply = EnrolReply(
            node=node,
            cluster=self._cluster,
            certificate=certificate,
            authority=self._authority,
            cluster_key=admission.cluster_key,
            gossip_keys=admission.gossip_keys,
            members=admission.members[:MEMBERS_MAX],
            feature_level=admission.feature_level,
        )
        return enrol_reply_codec.encode(reply)

    async def _renew_here(self, peer: Peer, body: bytes) -> bytes:
        request = renew_request_codec.decode(body)
        old = load_certificate(request.certificate)
        is_member = await self._enrolment.is_member(old.node)
        judge_renewal(request.certificate, self._authority, request.request, lambda _: is_member)
        authority = await self._enrolment.authority()
        hosts = (request.host,) if request.host else ()
        return authority.sign(
            request.request,
            node=old.node,
            name=old.name,
            addresses=hosts,
            now=self._now(),
            valid_hours=self._certificate_hours,
        )

    async def _at_leader(
        self, peer: Peer, method: str, body: bytes, here: Callable[[Peer, bytes], Awaitable[bytes]]
    ) -> bytes:
        """Answer here, or have the leader answer; a request that was forwarded once is not forwarded again."""
        if peer.purpose is Purpose.RPC and peer.node is None:
            raise Unauthorized("only nodes forward requests to join")
        try:
            return await here(peer, body)
        except NotLeader:
            if peer.purpose is Purpose.RPC:
                raise
            return await self._forward(method, body)


def _request_id(node: NodeId, token_hash: str, name: str) -> RequestId:
    return RequestId(derive("enrol", node, token_hash, name))
