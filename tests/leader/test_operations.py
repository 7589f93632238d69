"""Handing over and removing peers on an operator's word: asked anywhere, done by the leader, never unsafely."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from swarmlet.errors import Conflict, NotFound, Unauthorized, Unavailable
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId, PeerId, peer_id
from swarmlet.leader.operations import Operations, PeersRequest, request_codec
from swarmlet.replica.replica import Replica
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Peer
from tests.leader.test_service import World, a_world
from tests.replica.cluster import CLUSTER
from tests.replica.virtual_time import run


def peer(name: str) -> Peer:
    return Peer(cluster=CLUSTER, node=NodeId(name), purpose=Purpose.RPC, address=(name, 1))


def operations(world: World) -> Callable[[Replica], Operations]:
    """Of any replica of the world; a request that goes to the leader goes there at once."""
    made: dict[NodeId, Operations] = {}

    def of(replica: Replica) -> Operations:
        async def forward(method: str, body: bytes) -> bytes:
            leader = replica.leader
            if leader is None or leader not in world.cluster.hosts:
                raise Unavailable("the cluster has no leader right now")
            target = world.cluster.hosts[leader].replica
            if target is None:
                raise Unavailable("the leader does not answer")
            return await of(target)._serve(peer(replica.node_id), body)

        if replica.node_id not in made:
            made[replica.node_id] = Operations(
                replica=replica,
                members=world.members,
                forward=forward,
                health=world.services[replica.node_id].peer_health,
            )
        return made[replica.node_id]

    return of


def test_any_node_tells_who_takes_part_by_the_leaders_word() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            for replica in world.cluster.up:
                report = await of(replica).peers()
                assert report.is_leaders
                assert [each.peer for each in report.peers if each.is_leader] == [peer_id(leader.node_id)]
                assert all(each.is_voter for each in report.peers)
                assert all(each.behind is not None for each in report.peers)

    run(main())


def test_without_a_leader_a_node_tells_what_it_knows() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            one = world.cluster.followers(leader)[0]
            for other in world.cluster.up:
                if other is not one:
                    await world.die(other.node_id)
            report = await of(one).peers()
            assert not report.is_leaders
            assert len(report.peers) == 3
            assert all(each.healthy_seconds is None for each in report.peers)

    run(main())


def test_leadership_moves_to_the_chosen_voter_from_any_node() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            chosen, asked = world.cluster.followers(leader)
            assert await of(asked).transfer(peer_id(chosen.node_id)) == peer_id(chosen.node_id)
            assert await world.cluster.leader() is chosen
            anyone = await of(asked).transfer()
            assert anyone != peer_id(chosen.node_id)

    run(main())


def test_leadership_is_not_handed_to_who_cannot_lead() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            other = world.cluster.followers(leader)[0]
            with pytest.raises(Conflict, match="leads already"):
                await of(leader).transfer(peer_id(leader.node_id))
            with pytest.raises(NotFound, match="takes no part"):
                await of(other).transfer(PeerId(7))
            world.states[other.node_id] = MemberState.DEAD
            with pytest.raises(Conflict, match="is not alive"):
                await of(leader).transfer(peer_id(other.node_id))
            for name in world.states:
                world.states[name] = MemberState.DEAD
            with pytest.raises(Conflict, match="no other living voter"):
                await of(leader).transfer()

    run(main())


def test_a_peer_that_does_not_take_over_is_said_so() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            other = world.cluster.followers(leader)[0]
            world.cluster.cut(other.node_id)
            with pytest.raises(Unavailable, match="did not take over"):
                await of(leader).transfer(peer_id(other.node_id))
            assert leader.is_leader

    run(main())


def test_a_peer_that_is_gone_is_removed_and_one_that_lives_is_not() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            gone, other = world.cluster.followers(leader)
            with pytest.raises(Conflict, match="is alive"):
                await of(other).remove(peer_id(gone.node_id))
            with pytest.raises(Conflict, match="leads: hand over first"):
                await of(other).remove(peer_id(leader.node_id))
            with pytest.raises(NotFound, match="takes no part"):
                await of(other).remove(PeerId(7))
            await world.die(gone.node_id)
            await of(other).remove(peer_id(gone.node_id))
            assert peer_id(gone.node_id) not in leader.consensus.core.status().config.voters

    run(main())


def test_a_removal_that_would_leave_no_living_majority_is_refused() -> None:
    async def main() -> None:
        async with a_world() as world:
            of = operations(world)
            leader = await world.cluster.leader()
            first, second = world.cluster.followers(leader)
            world.states[first.node_id] = MemberState.AGENT_DOWN
            world.states[second.node_id] = MemberState.AGENT_DOWN
            with pytest.raises(Conflict, match="1 of 2 voters would live"):
                await of(leader).remove(peer_id(first.node_id))

    run(main())


def test_a_stranger_may_not_pass_anything_on() -> None:
    async def main() -> None:
        async with a_world() as world:
            leader = await world.cluster.leader()
            stranger = Peer(cluster=CLUSTER, node=None, purpose=Purpose.RPC, address=("x", 1))
            with pytest.raises(Unauthorized):
                await operations(world)(leader)._serve(stranger, request_codec.encode(PeersRequest()))

    run(main())
