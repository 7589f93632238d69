"""Commands: from any node, through changes of leaders, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from swarmlet.errors import (
    Conflict,
    NoLeader,
    Overloaded,
    SwarmletError,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
)
from swarmlet.ids import Namespace, RequestId
from swarmlet.raft.message import NOBODY
from swarmlet.raft.ready import Role, SoftState
from swarmlet.replica import replica as replica_module
from swarmlet.replica.submission import Submission, submission_codec
from swarmlet.state.command import DeleteNamespace, Noop, UpsertNamespace
from swarmlet.transport.frame import Purpose
from swarmlet.transport.peer import Peer
from tests.replica.cluster import CLUSTER, Cluster, answer_of
from tests.replica.virtual_time import run


def naming(name: str, description: str = "") -> UpsertNamespace:
    return UpsertNamespace(name=Namespace(name), description=description)


def test_a_command_submitted_anywhere_is_applied_there_and_on_the_leader() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            for replica in cluster.up:
                applied = await replica.submit(naming(f"of-{replica.node_id}"), "local")
                for reader in (replica, leader):
                    assert f"of-{replica.node_id}" in [row.name for row in reader.view.namespaces()]
                    assert reader.view.index >= applied.index
            assert len(set(await cluster.wait_quiet())) == 1

    run(main())


def test_one_node_alone_leads_itself() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            await leader.submit(naming("a"), "local")
            assert (await leader.barrier()).index == leader.view.index
            assert leader.staleness_seconds == 0.0

    run(main())


def test_what_apply_refuses_is_raised_on_the_node_that_asked() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            follower = cluster.followers(await cluster.leader())[0]
            with pytest.raises(Conflict):
                await follower.submit(DeleteNamespace(name=Namespace("default")), "local")

    run(main())


def test_a_lost_answer_is_asked_for_again_and_the_command_applied_once() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            follower = cluster.followers(await cluster.leader())[0]
            await follower.submit(naming("a", "first"), "local")
            cluster.answers_to_lose = 2
            requests = cluster.requests
            applied = await follower.submit(naming("a", "second"), "local")
            assert cluster.requests - requests == 3
            namespace = next(row for row in follower.view.namespaces() if row.name == "a")
            assert (namespace.description, namespace.modify_index) == ("second", applied.index)

    run(main())


def test_the_same_request_under_way_twice_is_proposed_once() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            last = leader.consensus.core.status().last_index
            request = RequestId("r")
            answers = await asyncio.gather(
                *(leader.submit(naming("a"), "local", request_id=request) for _ in range(5))
            )
            assert {answer.index for answer in answers} == {last + 1}
            assert leader.consensus.core.status().last_index == last + 1

    run(main())


def test_commands_of_one_turn_of_the_loop_share_their_packets() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            await cluster.wait_quiet()
            packets = cluster.packets
            await leader.lead_all([naming(f"name-{number}") for number in range(200)])
            assert cluster.packets - packets < 40

    run(main())


def test_large_commands_that_are_proposed_together_are_spread_over_several_turns_of_the_loop() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            await cluster.wait_quiet()
            #: Bytes proposed in each turn of the loop, the last of them in this one.
            turns = [0]
            propose = leader.consensus.propose

            def counted(data: bytes, on_refused: Callable[[SwarmletError], None]) -> None:
                if not turns[-1]:
                    asyncio.get_running_loop().call_soon(turns.append, 0)
                turns[-1] += len(data)
                propose(data, on_refused)

            leader.consensus.propose = counted  # type: ignore[method-assign]
            size = replica_module.PROPOSE_SLICE_BYTES // 4
            answers = await leader.lead_all([naming(f"name-{number}", "x" * size) for number in range(20)])
            indexes = [answer.index for answer in answers]
            assert indexes == list(range(indexes[0], indexes[0] + 20))
            assert sum(turns) > 20 * size
            assert max(turns) < replica_module.PROPOSE_SLICE_BYTES + 2 * size

    run(main())


def test_a_leader_that_is_deposed_while_it_proposes_tells_how_much_it_had_proposed() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            await cluster.wait_quiet()
            size = replica_module.PROPOSE_SLICE_BYTES
            commands = [naming(f"name-{number}", "x" * size) for number in range(3)]
            async with asyncio.TaskGroup() as group:
                asked = group.create_task(leader.lead_all(commands))
                await asyncio.sleep(0)
                leader._role = SoftState(NOBODY, Role.FOLLOWER)
            assert len(asked.result()) == 1

    run(main())


def test_an_answer_that_fails_harms_neither_the_replica_nor_other_answers() -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()

            def broken(outcome: object) -> None:
                raise RuntimeError("a bug")

            leader.propose(RequestId("a"), naming("a"), "local", broken)
            applied = await leader.submit(naming("b"), "local")
            assert applied.index == leader.consensus.core.commit
            assert {row.name for row in leader.view.namespaces()} >= {"a", "b"}

    run(main())


def test_a_dead_leader_does_not_hold_up_a_command_longer_than_the_election() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            follower = cluster.followers(leader)[0]
            # Its answers never come, and nothing refuses the connection: the host is off.
            cluster.cut(leader.node_id)
            started = asyncio.get_running_loop().time()
            await follower.submit(naming("a"), "local")
            assert asyncio.get_running_loop().time() - started < 2.0

    run(main())


def test_a_leader_that_loses_the_lead_says_that_it_does_not_know() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            cluster.cut(leader.node_id)
            with pytest.raises(UnknownOutcome):
                await leader.lead(naming("a"))
            assert not leader.is_leader
            cluster.heal()
            assert len(set(await cluster.wait_quiet())) == 1

    run(main())


def test_without_a_quorum_nothing_is_accepted() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            cluster.cut(leader.node_id)
            await asyncio.sleep(2.0)
            with pytest.raises(NoLeader):
                await leader.submit(naming("a"), "local", timeout_seconds=2.0)
            with pytest.raises(NoLeader):
                await leader.barrier(2.0)
            # Counted from when it ceased to lead, not from when it last followed somebody.
            assert 2.0 < leader.staleness_seconds < 10.0

    run(main())


def test_a_command_that_was_under_way_when_the_quorum_went_has_an_unknown_outcome() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            cluster.cut(leader.node_id)
            with pytest.raises(UnknownOutcome):
                await leader.submit(naming("a"), "local", timeout_seconds=3.0)

    run(main())


def test_leadership_handed_over_in_the_middle_loses_no_command() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            other, third = cluster.followers(leader)
            async with asyncio.TaskGroup() as group:
                for number in range(50):
                    sender = (leader, other, third)[number % 3]
                    group.create_task(sender.submit(naming(f"name-{number:02}"), "local"))
                    if number == 25:
                        leader.consensus.core.transfer(other.consensus.core.status().peer)
                        leader.consensus.pump()
                    await asyncio.sleep(0.002)
            assert len(set(await cluster.wait_quiet())) == 1
            assert sum(1 for _ in other.view.namespaces()) == 50

    run(main())


def test_a_machine_that_is_not_part_of_consensus_yet_reaches_the_leader_through_the_others() -> None:
    async def main() -> None:
        async with Cluster(4, voters=3).running() as cluster:
            await cluster.leader()
            newcomer = cluster["n4"]
            assert newcomer.leader is None
            with pytest.raises(UnknownOutcome, match="took effect"):
                # It is applied, but never here: nobody replicates to this machine.
                await newcomer.submit(naming("a"), "local", timeout_seconds=1.0)
            assert [row.name for row in (await cluster.leader()).view.namespaces()] == ["a"]

    run(main())


def test_nodes_that_know_no_leader_do_not_ask_in_a_tight_circle() -> None:
    async def main() -> None:
        async with Cluster(3).running() as cluster:
            await cluster.leader()
            await cluster.kill("n1")
            await cluster.kill("n2")
            await asyncio.sleep(3.0)
            requests = cluster.requests
            with pytest.raises(Unavailable):
                await cluster["n3"].submit(naming("a"), "local", timeout_seconds=5.0)
            assert cluster.requests - requests < 60

    run(main())


def test_too_many_commands_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "PROPOSALS_MAX", 3)

    async def main() -> None:
        async with Cluster(3).running() as cluster:
            leader = await cluster.leader()
            answers = await asyncio.gather(
                *(leader.submit(naming(f"n{number}"), "local") for number in range(5)),
                return_exceptions=True,
            )
            assert [isinstance(each, Overloaded) for each in answers] == [False] * 3 + [True] * 2

    run(main())


@pytest.mark.parametrize("actor", ["node:n9", "leader:n1"])
def test_a_node_may_not_speak_for_another_one_or_for_the_leader(actor: str) -> None:
    async def main() -> None:
        async with Cluster(1).running() as cluster:
            leader = await cluster.leader()
            body = submission_codec.encode(Submission(request_id=RequestId("r"), actor=actor, body=Noop()))
            peer = Peer(cluster=CLUSTER, node=leader.node_id, purpose=Purpose.RPC, address=("n1", 1))
            with pytest.raises(Unauthorized):
                await answer_of(leader, peer, body)

    run(main())
