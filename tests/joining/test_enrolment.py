"""Who is let in by the replicated state: newcomers by a token, members again, those who left by a token."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from swarmlet.errors import JoinRefused
from swarmlet.ids import ClusterId, NodeId, RequestId
from swarmlet.joining.enrolment import ReplicatedEnrolment
from swarmlet.joining.server import Applicant
from swarmlet.model.cluster import ClusterSettings, JoinToken
from swarmlet.model.node import Node, NodeStatus
from swarmlet.replica.replica import Replica
from swarmlet.replica.submission import raise_if_refused
from swarmlet.security.sealing import KEY_BYTES, ClusterKey
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import (
    ENVELOPE_VERSION,
    FEATURE_LEVEL,
    Applied,
    Body,
    CollectGarbage,
    Command,
    CreateJoinToken,
    InitializeCluster,
    RegisterNode,
    RemoveNode,
    UpdateNodeStatus,
)

CLUSTER = ClusterId("c")
NODE = NodeId("n2")


class LeadingReplica:
    """A leader alone: what it leads is applied at once."""

    is_leader = True
    leader = NodeId("n1")

    def __init__(self) -> None:
        self.machine = StateMachine()

    @property
    def view(self) -> Any:
        return self.machine.snapshot()

    async def barrier(self) -> Any:
        return self.view

    async def lead(self, body: Body, request_id: RequestId | None = None) -> Applied:
        return self.apply(body, request_id)

    def apply(self, body: Body, request_id: RequestId | None = None, actor: str = "local") -> Applied:
        index = self.machine.index + 1
        command = Command(
            version=ENVELOPE_VERSION,
            request_id=request_id or RequestId(f"r{index}"),
            actor=actor,
            wall_time_ns=index,
            body=body,
        )
        return raise_if_refused(self.machine.apply(index, command)[0])


def _cluster_with_a_member() -> tuple[LeadingReplica, ReplicatedEnrolment]:
    replica = LeadingReplica()
    settings = ClusterSettings(cluster_id=CLUSTER, feature_level=FEATURE_LEVEL)
    replica.apply(InitializeCluster(settings=settings))
    _register(replica, NODE, "two")
    enrolment = ReplicatedEnrolment(
        replica=cast("Replica", replica),
        cluster_key=ClusterKey(CLUSTER, bytes(KEY_BYTES)),
        gossip_keys=lambda: (bytes(32),),
        members=list,
        wall_ns=lambda: 0,
    )
    return replica, enrolment


def _register(replica: LeadingReplica, node: NodeId, name: str) -> None:
    replica.apply(
        RegisterNode(node=Node(id=node, name=name, feature_level=FEATURE_LEVEL)), actor=f"node:{node}"
    )


def _applicant() -> Applicant:
    return Applicant(
        token_hash="no such token",
        key_digest=b"key",
        node=NODE,
        request_id=RequestId("again"),
        name="two",
        host="127.0.0.1",
        port=4747,
    )


async def test_a_member_whose_answer_was_lost_is_let_in_again_without_a_token() -> None:
    _, enrolment = _cluster_with_a_member()
    admission = await enrolment.admit(_applicant())
    assert admission.node == NODE


async def test_a_node_that_left_needs_a_token_like_any_other() -> None:
    replica, enrolment = _cluster_with_a_member()
    replica.apply(UpdateNodeStatus(node_id=NODE, status=NodeStatus.LEFT))
    with pytest.raises(JoinRefused) as refused:
        await enrolment.admit(_applicant())
    assert refused.value.code == "token_wrong"


async def test_who_was_let_in_by_a_token_for_one_use_is_let_in_again_until_it_leaves() -> None:
    replica, enrolment = _cluster_with_a_member()
    replica.apply(
        CreateJoinToken(
            token=JoinToken(accessor="t", secret_hash=b"one use", expires_at_ns=10**18, uses_left=1)
        )
    )
    node = NodeId("n3")
    applicant = dataclasses.replace(_applicant(), token_hash="one use", node=node, name="three")
    assert not await enrolment.is_admitted(node, applicant.request_id)
    await enrolment.admit(applicant)
    with pytest.raises(JoinRefused, match="used as often"):
        await enrolment.check("one use")
    assert await enrolment.is_admitted(node, applicant.request_id)
    assert (await enrolment.admit(applicant)).node == node
    other = dataclasses.replace(applicant, node=NodeId("n4"), request_id=RequestId("other"), name="four")
    with pytest.raises(JoinRefused, match="no uses left"):
        await enrolment.admit(other)
    assert not await enrolment.is_admitted(other.node, other.request_id)

    _register(replica, node, "three")
    replica.apply(UpdateNodeStatus(node_id=node, status=NodeStatus.LEFT))
    assert not await enrolment.is_admitted(node, applicant.request_id)
    with pytest.raises(JoinRefused, match="no uses left"):
        await enrolment.admit(applicant)


def _forget(replica: LeadingReplica, node: NodeId, by: str) -> None:
    replica.apply(UpdateNodeStatus(node_id=node, status=NodeStatus.LEFT))
    if by == "purge":
        replica.apply(RemoveNode(node_id=node))
    else:
        replica.apply(CollectGarbage(nodes_before_ns=10**9))
    assert replica.view.node(node) is None


@pytest.mark.parametrize("by", ["purge", "garbage collection"])
@pytest.mark.parametrize("uses", [1, 2])
async def test_a_token_used_by_a_node_that_was_removed_since_does_not_let_it_in_again(
    uses: int, by: str
) -> None:
    """Each time it joins it uses the token, until that is used up."""
    replica, enrolment = _cluster_with_a_member()
    replica.apply(
        CreateJoinToken(
            token=JoinToken(accessor="t", secret_hash=b"known", expires_at_ns=10**18, uses_left=uses)
        )
    )
    node = NodeId("n3")
    applicant = dataclasses.replace(_applicant(), token_hash="known", node=node, name="three")
    for _ in range(uses):
        assert not await enrolment.is_admitted(node, applicant.request_id)
        await enrolment.admit(applicant)
        # Its answer was lost.
        assert await enrolment.is_admitted(node, applicant.request_id)
        await enrolment.admit(applicant)
        _register(replica, node, "three")
        _forget(replica, node, by)

    assert not await enrolment.is_admitted(node, applicant.request_id)
    with pytest.raises(JoinRefused, match="used as often"):
        await enrolment.check("known")
    with pytest.raises(JoinRefused, match="no uses left"):
        await enrolment.admit(applicant)


async def test_a_node_that_was_removed_joins_with_another_token() -> None:
    replica, enrolment = _cluster_with_a_member()
    for name in ("first", "second"):
        token = JoinToken(accessor=name, secret_hash=name.encode(), expires_at_ns=10**18, uses_left=1)
        replica.apply(CreateJoinToken(token=token))
    node = NodeId("n3")
    applicant = dataclasses.replace(_applicant(), token_hash="first", node=node, name="three")
    await enrolment.admit(applicant)
    _register(replica, node, "three")
    _forget(replica, node, "purge")
    other = dataclasses.replace(applicant, token_hash="second", request_id=RequestId("other"))
    for _ in range(2):
        assert (await enrolment.admit(other)).node == node
    with pytest.raises(JoinRefused, match="no uses left"):
        await enrolment.admit(applicant)


async def test_a_node_that_left_may_not_renew_its_certificate() -> None:
    replica, enrolment = _cluster_with_a_member()
    assert await enrolment.is_member(NODE)
    replica.apply(UpdateNodeStatus(node_id=NODE, status=NodeStatus.LEFT))
    assert not await enrolment.is_member(NODE)
