"""Joining over real sockets: the way in, and each way to be refused; a refusal leaves the cluster as it was."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
from collections.abc import Callable

import pytest

from swarmlet.errors import InvalidInput, JoinRefused, Refused
from swarmlet.ids import ClusterId
from swarmlet.joining.client import enrol, renew
from swarmlet.joining.message import ADMITTED, CHECK, ENROL, PROBE, VERSION, ProbeRequest, probe_request_codec
from swarmlet.joining.probe import Prober
from swarmlet.joining.server import check_name
from swarmlet.security.authority import Authority
from swarmlet.security.certificate import create_key, load_certificate
from swarmlet.security.contexts import joining_context
from swarmlet.security.token import PART_BYTES, Terms, Token
from swarmlet.transport.client import open_connection
from swarmlet.transport.frame import Purpose
from swarmlet.transport.limits import Limits
from swarmlet.transport.peer import Peer

from .conftest import Cluster, Clusters, wall

OpenClusters = Callable[[], contextlib.AbstractAsyncContextManager[Clusters]]


async def refusal(cluster: Cluster, token: Token, **how: object) -> JoinRefused:
    """How joining is refused; checks that the cluster is unharmed."""
    before = (dict(cluster.enrolment.tokens), dict(cluster.enrolment.nodes))
    with pytest.raises(JoinRefused) as caught:
        await cluster.join(token, **how)  # type: ignore[arg-type]  # a test's keywords, passed through
    assert (cluster.enrolment.tokens, cluster.enrolment.nodes) == before
    return caught.value


async def test_a_machine_with_a_valid_token_becomes_a_node(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        enrolled = await cluster.join(cluster.token())
        identity = enrolled.identity
        assert (identity.cluster, identity.name, identity.authority) == (
            "c1",
            "two",
            cluster.authority.certificate,
        )
        assert identity.node in cluster.enrolment.nodes
        assert load_certificate(identity.certificate).node == identity.node
        assert enrolled.certificate_until > wall() + 89 * 86400
        assert [member.name for member in enrolled.members] == ["one"]
        assert (identity.cluster_key, identity.gossip_keys) == (b"k" * 32, (b"g" * 32,))
        assert enrolled.warnings == ()
        assert enrolled.advertise[0] == "127.0.0.1"
        assert cluster.enrolment.nodes[identity.node].port == enrolled.advertise[1]


async def test_a_node_that_does_not_lead_has_the_leader_enrol(clusters: OpenClusters) -> None:
    async with clusters() as made:
        leader = await made.start()
        other = await made.start(node="n2", leader=leader)
        token = leader.token()
        enrolled = await other.join(token)
        assert enrolled.identity.node in leader.enrolment.nodes
        assert not other.enrolment.nodes
        assert (await refusal(other, token, name="three")).code == "token_used_up"


async def test_a_node_without_a_leader_says_that_it_can_not_take_anyone_now(clusters: OpenClusters) -> None:
    async with clusters() as made:
        leader = await made.start()
        other = await made.start(node="n2", leader=leader)
        token = leader.token()
        leader.enrolment.leads = False
        error = await refusal(other, token)
        assert error.code == "unreachable"
        assert "cannot take a node now" in str(error)


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        (Terms(expires_at=1.0, uses_left=1), "token_expired"),
        (Terms(expires_at=None, uses_left=0), "token_used_up"),
        (Terms(expires_at=None, uses_left=None, revoked=True), "token_revoked"),
    ],
)
async def test_a_token_that_is_not_valid_any_more_is_refused(
    clusters: OpenClusters, terms: Terms, code: str
) -> None:
    async with clusters() as made:
        cluster = await made.start()
        assert (await refusal(cluster, cluster.token(terms))).code == code


async def test_an_unknown_secret_is_refused(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = Token(cluster.token().authority, bytes(PART_BYTES))
        assert (await refusal(cluster, token)).code == "token_wrong"


async def test_a_token_is_used_up_by_its_uses(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = cluster.token(Terms(expires_at=None, uses_left=2))
        await cluster.join(token, name="two")
        await cluster.join(token, name="three")
        assert (await refusal(cluster, token, name="four")).code == "token_used_up"


async def test_the_secret_is_never_sent_to_another_ca(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster, impostor = await made.start(), await made.start("c2")
        asked: list[str] = []
        for method in (PROBE, ENROL):

            async def record(peer: Peer, body: bytes, method: str = method) -> bytes:
                asked.append(method)
                return b""

            impostor.server.handlers.requests[Purpose.JOIN, method] = record
        assert (await refusal(cluster, cluster.token(), address=impostor.address)).code == "ca_mismatch"
        assert asked == []


async def test_an_impostor_that_shows_the_real_ca_is_refused(clusters: OpenClusters) -> None:
    """Anyone may know the CA's certificate: what counts is who signed the server's own."""
    async with clusters() as made:
        cluster = await made.start()
        forged = Authority(
            ClusterId("c1"), cluster.authority.certificate, Authority.create(ClusterId("c1"), 1e9).key
        )
        impostor = await made.start("c1", node="evil", authority=Authority.create(ClusterId("c1"), wall()))
        cluster_id, node, name, _ = impostor.join_server._hello
        impostor.join_server._hello = (cluster_id, node, name, forged.certificate)
        error = await refusal(cluster, cluster.token(), address=impostor.address)
        assert error.code == "ca_mismatch"
        assert "did not issue" in str(error)


async def test_a_node_that_claims_another_cluster_is_refused(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start("c1", says="c9")
        assert (await refusal(cluster, cluster.token())).code == "other_cluster"


async def test_a_node_whose_certificate_has_expired_is_not_joined_through(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start(issued=wall() - 100 * 86400)
        error = await refusal(cluster, cluster.token())
        assert error.code == "ca_mismatch"
        assert "has expired" in str(error)


async def test_a_clock_far_off_is_refused_and_one_a_little_off_is_warned_of(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = cluster.token()
        for skew, way in ((400.0, "behind"), (-400.0, "ahead of")):
            cluster.skew[0] = skew
            error = await refusal(cluster, token)
            assert error.code == "clock_skew"
            assert f"400 s {way}" in str(error)
        cluster.skew[0] = 10.0
        (warning,) = (await cluster.join(token)).warnings
        assert "10 s behind" in warning


async def test_a_taken_name_is_refused(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = cluster.token(Terms(expires_at=None, uses_left=None))
        await cluster.join(token, name="two")
        assert (await refusal(cluster, token, name="two")).code == "name_taken"


async def test_the_same_key_becomes_the_same_node_again(clusters: OpenClusters) -> None:
    """An applicant whose answer was lost asks again."""
    async with clusters() as made:
        cluster = await made.start()
        key, token = create_key(), cluster.token(Terms(expires_at=None, uses_left=2))
        first = await cluster.join(token, key=key)
        second = await cluster.join(token, key=key)
        assert first.identity.node == second.identity.node
        assert [terms.uses_left for terms in cluster.enrolment.tokens.values()] == [1]


@pytest.mark.parametrize("is_forwarded", [False, True])
async def test_a_token_for_one_use_lets_the_same_machine_in_again_whose_answer_was_lost(
    clusters: OpenClusters, is_forwarded: bool
) -> None:
    """Its key says that it is the same; another machine with the same token is none the wiser."""
    async with clusters() as made:
        leader = await made.start()
        cluster = await made.start(node="n2", leader=leader) if is_forwarded else leader
        key, token = create_key(), leader.token()
        leader.enrolment.loses_answers = True
        with pytest.raises(JoinRefused) as lost:
            await cluster.join(token, key=key, step_seconds=0.5)
        assert lost.value.code == "unreachable"
        assert [terms.uses_left for terms in leader.enrolment.tokens.values()] == [0]
        leader.enrolment.loses_answers = False
        assert (await refusal(cluster, token)).code == "token_used_up"
        assert (await refusal(cluster, token, name="three", key=key)).code == "token_used_up"
        assert (await cluster.join(token, key=key)).identity.node in leader.enrolment.nodes


async def test_whose_answer_was_lost_hears_it_after_the_tokens_time_but_not_once_it_is_revoked(
    clusters: OpenClusters,
) -> None:
    async with clusters() as made:
        cluster = await made.start()
        key, token = create_key(), cluster.token()
        await cluster.join(token, key=key)
        made_over(cluster, Terms(expires_at=wall() - 1, uses_left=0, revoked=True))
        assert (await refusal(cluster, token, key=key)).code == "token_revoked"
        made_over(cluster, Terms(expires_at=wall() - 1, uses_left=0))
        assert (await refusal(cluster, token)).code == "token_expired"
        await cluster.join(token, key=key)


def made_over(cluster: Cluster, terms: Terms) -> None:
    """What the cluster's one token is worth from now on."""
    (token_hash,) = cluster.enrolment.tokens
    cluster.enrolment.tokens[token_hash] = terms


async def test_a_leader_that_does_not_know_the_question_refuses_as_before(clusters: OpenClusters) -> None:
    async with clusters() as made:
        leader = await made.start()
        cluster = await made.start(node="n2", leader=leader)
        key, token = create_key(), leader.token()
        await cluster.join(token, key=key)
        del leader.server.handlers.requests[Purpose.RPC, ADMITTED]
        assert (await refusal(cluster, token, key=key)).code == "token_used_up"


class Kept:
    """What became of a joiner's key."""

    def __init__(self) -> None:
        self.steps: list[str] = []

    def keep(self) -> None:
        self.steps.append("kept")

    def forget(self) -> None:
        self.steps.append("forgotten")


async def test_a_key_is_kept_from_the_request_until_the_cluster_has_refused(clusters: OpenClusters) -> None:
    """What is refused before is known to nobody; an answer that does not come may have been a yes."""
    async with clusters() as made:
        cluster = await made.start()
        token, kept = cluster.token(Terms(expires_at=None, uses_left=None)), Kept()
        cluster.skew[0] = 1_000.0
        assert (await refusal(cluster, token, kept=kept)).code == "clock_skew"
        assert kept.steps == []
        cluster.skew[0] = 0.0
        await cluster.join(token, kept=kept)
        assert kept.steps == ["kept"]
        kept.steps.clear()
        assert (await refusal(cluster, token, kept=kept)).code == "name_taken"
        assert kept.steps == ["kept", "forgotten"]
        kept.steps.clear()
        cluster.enrolment.is_stuck = True
        assert (await refusal(cluster, token, kept=kept, step_seconds=0.2)).code == "unreachable"
        assert kept.steps == ["kept"]


@pytest.mark.slow
async def test_blocked_tcp_is_named(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{closed.getsockname()[1]}"
            error = await refusal(cluster, cluster.token(), advertise=where)
            assert error.code == "port_blocked_tcp"
            assert "Connection refused" in str(error)
            closed.listen()
            error = await refusal(cluster, cluster.token(), advertise=where)
            assert "no answer within" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sends", "receives", "named"),
    [(False, True, "udp in is"), (True, False, "udp out is"), (False, False, "udp in and udp out are")],
)
async def test_blocked_udp_is_named_with_its_direction(
    clusters: OpenClusters, sends: bool, receives: bool, named: str
) -> None:
    async with clusters() as made:
        cluster = await made.start()
        cluster.wire.sends, cluster.wire.receives = sends, receives
        error = await refusal(cluster, cluster.token())
        assert error.code == "port_blocked_udp"
        assert str(error).startswith(f"{named} blocked")


async def test_a_node_without_a_datagram_socket_judges_tcp_alone(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        cluster.join_server._prober = Prober(None, seconds=0.2)
        await cluster.join(cluster.token())


async def test_an_address_without_an_agent_is_unreachable(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            error = await refusal(cluster, cluster.token(), address=other.getsockname())
            assert error.code == "unreachable"
            assert "Connection refused" in str(error)
            other.listen()
            error = await refusal(cluster, cluster.token(), address=other.getsockname(), step_seconds=0.1)
            assert error.code == "unreachable"
            assert "did not answer within" in str(error)


async def test_a_member_does_not_join_again(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = cluster.token(Terms(expires_at=None, uses_left=None))
        current = (await cluster.join(token)).identity
        error = await refusal(cluster, token, name="three", current=current)
        assert error.code == "already_member"
        assert "node two of cluster c1" in str(error)


async def test_a_bad_name_or_a_taken_port_is_the_users_to_change(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        token = cluster.token()
        with pytest.raises(InvalidInput, match="a node's name"):
            await cluster.join(token, name="-two")
        with pytest.raises(InvalidInput, match="another program has it"):
            await enrol(
                token,
                cluster.address,
                name="two",
                key=create_key(),
                bind="127.0.0.1",
                port=cluster.address[1],
                now=wall,
            )


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a" * 64, "a/b", "ä"])
def test_names_that_fit_no_certificate_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_name(name)


async def test_a_stranger_without_a_token_can_not_aim_a_probe(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        connection = await open_connection(cluster.address, joining_context(), "", Purpose.JOIN, Limits())
        request = ProbeRequest(version=VERSION, secret=b"x", host="127.0.0.1", port=1, nonce=bytes(16))
        with pytest.raises(JoinRefused, match="no such join token"):
            await connection.request(PROBE, probe_request_codec.encode(request))
        with pytest.raises(Refused, match="no method"):
            await connection.request(CHECK, b"")
        connection.close()
        await connection.wait_lost()


async def test_a_member_renews_and_a_removed_node_does_not(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        identity = (await cluster.join(cluster.token())).identity
        renewed = await renew(cluster.address, identity, host="127.0.0.1")
        assert renewed.certificate != identity.certificate
        assert dataclasses.replace(renewed, certificate=b"") == dataclasses.replace(identity, certificate=b"")
        del cluster.enrolment.nodes[identity.node]
        with pytest.raises(Refused, match="not a member"):
            await renew(cluster.address, identity)
        other = await made.start("c2")
        with pytest.raises(JoinRefused, match="another cluster"):
            await renew(other.address, identity)


async def test_an_advertised_name_that_does_not_resolve_is_named(clusters: OpenClusters) -> None:
    async with clusters() as made:
        cluster = await made.start()
        error = await refusal(cluster, cluster.token(), advertise="no..such")
        assert error.code == "port_blocked_tcp"
        assert "no..such: Invalid argument" in str(error)
