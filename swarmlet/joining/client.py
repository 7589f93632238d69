"""The joiner's side: check whom we talk to, then the clock, the paths and the token; then become a node.

Nothing secret is sent before the CA of the other side was checked against the token's digest, and the
token is not used up before everything else is known to work.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar, overload

from cryptography.hazmat.primitives.asymmetric import ec

from swarmlet.config import parse_address
from swarmlet.errors import InvalidInput, JoinRefused, Refused, SwarmletError, Unavailable, WireError
from swarmlet.ids import ClusterId, NodeId
from swarmlet.joining.identity import Identity
from swarmlet.joining.message import (
    ENROL,
    HELLO,
    PROBE,
    RENEW,
    VERSION,
    EnrolReply,
    EnrolRequest,
    HelloReply,
    MemberAddress,
    ProbeReply,
    ProbeRequest,
    RenewRequest,
    enrol_reply_codec,
    enrol_request_codec,
    hello_reply_codec,
    probe_reply_codec,
    probe_request_codec,
    renew_request_codec,
)
from swarmlet.joining.probe import NONCE_BYTES, PROBE_SECONDS, Listening, listening, wait_event
from swarmlet.joining.server import check_name
from swarmlet.security.authority import authority_digest, is_issued_by
from swarmlet.security.certificate import (
    create_request,
    key_digest,
    key_from_pem,
    key_to_pem,
    load_certificate,
)
from swarmlet.security.contexts import joining_context
from swarmlet.security.token import Token
from swarmlet.state.command import FEATURE_LEVEL
from swarmlet.transport.client import ClientConnection, open_connection
from swarmlet.transport.frame import Purpose
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Address, text
from swarmlet.wire import Codec

T = TypeVar("T")

#: Certificates, tokens and leases all compare clocks.
SKEW_SECONDS_MAX = 300.0
SKEW_SECONDS_WARNED = 2.0
#: Each step of joining, the leader's write included.
STEP_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A machine that became a node."""

    identity: Identity
    members: tuple[MemberAddress, ...]
    feature_level: int
    #: Sentences for the user.
    warnings: tuple[str, ...]
    #: When the certificate ends: wall time in seconds.
    certificate_until: float
    #: Where the others reach this node.
    advertise: Address


class KeptKey(Protocol):
    """What keeps a joiner's key where the answer to its request may be lost."""

    def keep(self) -> None:
        """Keep it for the next try."""

    def forget(self) -> None:
        """There is no node of this key."""


async def enrol(
    token: Token,
    target: Address,
    *,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    bind: str,
    port: int,
    advertise: str = "",
    now: Callable[[], float],
    current: Identity | None = None,
    kept: KeptKey | None = None,
    limits: Limits | None = None,
    step_seconds: float = STEP_SECONDS,
    probe_seconds: float = PROBE_SECONDS,
    feature_level: int = FEATURE_LEVEL,
) -> Enrolled:
    """Become a node of the cluster that `target` belongs to.

    `bind` and `port` are this machine's mesh port (TCP and UDP), free until this returns. `advertise` is where
    others reach it; empty: the address this machine uses towards `target`. `current` is what the data
    directory holds already. `kept` keeps the key from when the certificate is asked for until the cluster has
    refused; whoever calls forgets it with success. `now` gives wall time in seconds.

    Raises JoinRefused with one of the codes in `docs/reference/join-errors.md`; InvalidInput for the name or a taken port.
    """
    check_name(name)
    _check_vacant(current)
    limits = limits or Limits()
    async with _connected(target, limits, step_seconds) as connection:
        sent = now()
        hello = await _ask(connection, HELLO, b"", step_seconds, hello_reply_codec)
        skew = hello.now - (sent + now()) / 2
        check_pinned(token, hello, connection.certificate, target)
        if hello.feature_level > feature_level:
            raise JoinRefused(
                "version",
                f"the cluster of {text(target)} is at feature level {hello.feature_level}, this program knows "
                f"{feature_level}: install the version of swarmlet that the cluster's nodes run",
            )
        warnings = _check_clock(skew, target)
        _check_validity(connection.certificate, now(), target)
        # From here on we know whom we talk to, and may say the secret.
        host, port_told = parse_address(advertise, 0) if advertise else (connection.local_host, 0)
        async with listening(bind, port, os.urandom(NONCE_BYTES)) as own:
            address = (host, port_told or own.port)
            probe = ProbeRequest(
                version=VERSION,
                secret=token.secret,
                host=address[0],
                port=address[1],
                nonce=own.nonce,
                key_digest=key_digest(key.public_key()),
                name=name,
            )
            await _probe(connection, probe, own, target, step_seconds, probe_seconds)
        request = EnrolRequest(
            version=VERSION,
            secret=token.secret,
            request=create_request(key, name),
            name=name,
            host=address[0],
            port=address[1],
            feature_level=feature_level,
        )
        reply = await _enrol(connection, request, kept, step_seconds)
    return _enrolled(reply, hello, key, name, address, warnings)


async def _enrol(
    connection: ClientConnection, request: EnrolRequest, kept: KeptKey | None, seconds: float
) -> EnrolReply:
    """Ask for the certificate; the one step after which there may be a node, whatever arrives here."""
    if kept is not None:
        kept.keep()
    try:
        answer = await _ask(connection, ENROL, enrol_request_codec.encode(request), seconds, None)
    except (InvalidInput, Refused, JoinRefused) as error:
        is_lost = isinstance(error, JoinRefused) and error.code == "unreachable"
        if kept is not None and not is_lost:
            kept.forget()
        raise
    return _decoded(connection, ENROL, answer, enrol_reply_codec)


async def renew(
    target: Address,
    identity: Identity,
    *,
    host: str = "",
    limits: Limits | None = None,
    step_seconds: float = STEP_SECONDS,
) -> Identity:
    """`identity` with a new certificate, from the node at `target`. Works with an expired certificate, too.

    Raises Refused (no such node any more, revoked), JoinRefused (another cluster answers), Unavailable.
    """
    request = RenewRequest(
        version=VERSION,
        certificate=identity.certificate,
        request=create_request(key_from_pem(identity.key), identity.name),
        host=host,
    )
    async with _connected(target, limits or Limits(), step_seconds) as connection:
        # The CA is known here, and nothing in the request is secret.
        if not is_issued_by(connection.certificate, identity.authority):
            raise JoinRefused("other_cluster", f"{text(target)} belongs to another cluster than this node")
        certificate = await _ask(connection, RENEW, renew_request_codec.encode(request), step_seconds, None)
    _check_issued(certificate, identity.authority, identity.cluster, identity.node, identity.key)
    return replace(identity, certificate=certificate)


def check_pinned(token: Token, hello: HelloReply, certificate: bytes, target: Address) -> None:
    """Raise JoinRefused unless `certificate` was issued by the CA that `token` pins, for the cluster in `hello`.

    TLS has proved that the other side owns the certificate's key; together that makes it a node of the
    cluster where the token was made.
    """
    where = text(target)
    if not token.pins(authority_digest(hello.authority)):
        raise JoinRefused(
            "ca_mismatch",
            f"{where} is not of the cluster that made this token: its CA is another. "
            "Check the address and the token; nothing secret was sent",
        )
    if not is_issued_by(certificate, hello.authority):
        raise JoinRefused(
            "ca_mismatch",
            f"{where} shows a certificate that this cluster's CA did not issue; nothing secret was sent",
        )
    try:
        cluster = load_certificate(certificate).cluster
    except InvalidInput as error:
        raise JoinRefused("ca_mismatch", f"{where} shows no node's certificate: {error}") from error
    if cluster != hello.cluster:
        raise JoinRefused(
            "other_cluster",
            f"{where} says it is of cluster {hello.cluster[:64]}, its certificate says {cluster}",
        )


def _check_vacant(current: Identity | None) -> None:
    if current is not None:
        raise JoinRefused(
            "already_member",
            f"this data directory belongs to node {current.name} of cluster {current.cluster}: start its agent, "
            "or run `swarmlet leave` first, or choose another with --data-dir",
        )


def _check_clock(skew: float, target: Address) -> tuple[str, ...]:
    """Warnings about the clocks; raises JoinRefused where they are too far apart. `skew`: theirs minus ours."""
    way = "behind" if skew > 0 else "ahead of"
    what = f"this machine's clock is {abs(skew):.0f} s {way} that of {text(target)}"
    if abs(skew) > SKEW_SECONDS_MAX:
        raise JoinRefused(
            "clock_skew", f"{what}; at most {SKEW_SECONDS_MAX:.0f} s are allowed: set the clock (NTP)"
        )
    return (f"{what}; synchronise both (NTP)",) if abs(skew) > SKEW_SECONDS_WARNED else ()


def _check_validity(certificate: bytes, now: float, target: Address) -> None:
    if not load_certificate(certificate).is_valid(now):
        raise JoinRefused(
            "ca_mismatch", f"the certificate of {text(target)} has expired: join through another node"
        )


async def _probe(
    connection: ClientConnection,
    request: ProbeRequest,
    own: Listening,
    target: Address,
    step_seconds: float,
    probe_seconds: float,
) -> None:
    """Raise JoinRefused naming the blocked path, if one is."""
    address = (request.host, request.port)
    failure: SwarmletError | None = None
    seen = ProbeReply(tcp_in=False, udp_out=False)
    async with asyncio.TaskGroup() as group:
        answering = group.create_task(own.answer((connection.address[0], target[1]), probe_seconds))
        try:
            body = probe_request_codec.encode(request)
            seen = await _ask(connection, PROBE, body, step_seconds + probe_seconds, probe_reply_codec)
        except SwarmletError as error:
            failure = error  # raised below: a task group would wrap it
        finally:
            answering.cancel()
    if failure is not None:
        raise failure
    if not seen.tcp_in:
        raise JoinRefused(
            "port_blocked_tcp",
            f"tcp in is blocked: {text(target)} cannot connect to {text(address)} ({seen.reason}); "
            f"open TCP port {address[1]} on this machine, or tell where it is reached with --advertise",
        )
    if not seen.udp_checked:
        return
    udp_in = await wait_event(own.udp_in, probe_seconds / 10)
    blocked = [way for way, works in (("udp in", udp_in), ("udp out", seen.udp_out)) if not works]
    if blocked:
        raise JoinRefused(
            "port_blocked_udp",
            f"{' and '.join(blocked)} {'are' if len(blocked) > 1 else 'is'} blocked between {text(address)} and "
            f"{text(target)}: open UDP port {address[1]} on this machine and {target[1]} on that one",
        )


def _enrolled(
    reply: EnrolReply,
    hello: HelloReply,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    address: Address,
    warnings: tuple[str, ...],
) -> Enrolled:
    cluster, node, pem = ClusterId(reply.cluster), NodeId(reply.node), key_to_pem(key)
    until = _check_issued(reply.certificate, hello.authority, ClusterId(hello.cluster), node, pem)
    identity = Identity(
        node=node,
        name=name,
        cluster=cluster,
        certificate=reply.certificate,
        key=pem,
        authority=hello.authority,
        cluster_key=reply.cluster_key,
        gossip_keys=reply.gossip_keys,
    )
    return Enrolled(
        identity=identity,
        members=reply.members,
        feature_level=reply.feature_level,
        warnings=warnings,
        certificate_until=until,
        advertise=address,
    )


def _check_issued(
    certificate: bytes, authority: bytes, cluster: ClusterId, node: NodeId, key: bytes
) -> float:
    """When the certificate we were given ends. Raises JoinRefused unless it is the one we asked for."""
    try:
        read = load_certificate(certificate)
    except InvalidInput as error:
        raise JoinRefused("ca_mismatch", f"the cluster answered with {error}") from error
    if not is_issued_by(certificate, authority) or (read.cluster, read.node, read.key_digest) != (
        cluster,
        node,
        key_digest(key_from_pem(key).public_key()),
    ):
        raise JoinRefused("ca_mismatch", "the cluster answered with a certificate that is not for this node")
    return read.not_after


@asynccontextmanager
async def _connected(target: Address, limits: Limits, seconds: float) -> AsyncIterator[ClientConnection]:
    """A connection to `target` on which nothing is verified yet. Raises JoinRefused: unreachable."""
    try:
        async with asyncio.timeout(seconds):
            connection = await open_connection(target, joining_context(), "", Purpose.JOIN, limits)
    except (Unavailable, WireError) as error:
        raise JoinRefused(
            "unreachable", f"{error}; is its agent running, and TCP port {target[1]} open on that machine?"
        ) from error
    except Refused as error:
        raise JoinRefused("version", str(error)) from error
    except TimeoutError as error:
        raise JoinRefused(
            "unreachable",
            f"{text(target)} did not answer within {seconds:g} s; check the address, and that TCP port "
            f"{target[1]} is open on that machine",
        ) from error
    try:
        yield connection
    finally:
        connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await connection.wait_lost()


@overload
async def _ask(
    connection: ClientConnection, method: str, body: bytes, seconds: float, codec: Codec[T]
) -> T: ...
@overload
async def _ask(
    connection: ClientConnection, method: str, body: bytes, seconds: float, codec: None
) -> bytes: ...
async def _ask(
    connection: ClientConnection, method: str, body: bytes, seconds: float, codec: Codec[T] | None
) -> T | bytes:
    """The answer to one step. Raises what the cluster said, JoinRefused: unreachable when it said nothing."""
    try:
        async with asyncio.timeout(seconds):
            answer = await connection.request(method, body)
    except TimeoutError as error:
        what = f"{text(connection.address)} did not answer {method} within {seconds:g} s; try again"
        raise JoinRefused("unreachable", what) from error
    except Unavailable as error:
        raise JoinRefused("unreachable", f"the cluster cannot take a node now: {error}; try again") from error
    return answer if codec is None else _decoded(connection, method, answer, codec)


def _decoded(connection: ClientConnection, method: str, answer: bytes, codec: Codec[T]) -> T:
    try:
        return codec.decode(answer)
    except WireError as error:
        what = f"{text(connection.address)} answers {method} in a form this version does not know: {error}"
        raise JoinRefused("version", what) from error
