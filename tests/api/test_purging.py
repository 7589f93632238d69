"""Forgetting a machine that is gone for good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from swarmlet.api.purging import why_needed, why_not_gone
from swarmlet.errors import Conflict
from swarmlet.gossip.effect import MemberState
from swarmlet.ids import DEFAULT_NAMESPACE, NodeId, peer_id
from swarmlet.leader.operations import PeerFacts
from swarmlet.model.node import NodeStatus
from swarmlet.model.volume import Volume
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state.command import PutVolume, UpdateNodeStatus
from tests.agents.cluster import Cli
from tests.api.trial import Served, served
from tests.scheduler.builders import a_group, a_job, a_node

pytestmark = pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")
NAMES = ("n1", "n2", "n3")
NOW = 10**18


@dataclass
class Gossip:
    """Members as this node sees them."""

    states: dict[str, MemberState]
    left: list[str] = field(default_factory=list)

    def members(self) -> list[Any]:
        return [SimpleNamespace(id=name, name=name, state=state) for name, state in self.states.items()]

    def force_leave(self, node: NodeId) -> None:
        self.left.append(node)


@dataclass
class Scheduling:
    """Whoever waits for changes lets the leader do its work, unless it is stuck; `before`: what happens first."""

    trial: WhatIf
    is_stuck: bool = False
    before: Callable[[], None] = lambda: None

    async def wait_changed(self, keys: list[str], is_ready: Callable[[], bool], seconds: float) -> bool:
        assert keys == ["node:n3"]
        assert seconds > 0
        self.before()
        if not self.is_stuck:
            self.trial.settle()
        return is_ready()


@pytest.fixture
def gossip() -> Gossip:
    return Gossip({"n1": MemberState.ALIVE, "n2": MemberState.ALIVE, "n3": MemberState.DEAD})


@pytest.fixture
def world(tmp_path: Path, gossip: Gossip) -> Iterator[Served]:
    """Three nodes; the one that has the only allocation of a job with data on its disk has gone silent."""
    trial = WhatIf.invented([a_node("n3", volumes=("data",)), a_node("n1"), a_node("n2")], (), NOW)
    stateful = replace(a_job(a_group("db", volume="data")), id="db", name="db")
    trial.submit([stateful])
    trial.settle()
    assert [row.node_id for row in trial.view.allocations_on_node(NodeId("n3"))] == ["n3"]
    trial._submit(UpdateNodeStatus(node_id=NodeId("n3"), status=NodeStatus.DOWN))
    trial.settle()
    assert held(trial, "n3") == 1, "it waits for its node"

    async def peers() -> Any:
        return SimpleNamespace(peers=facts(), is_leaders=True)

    context = {
        "members": gossip.members,
        "gossip": gossip,
        "operations": SimpleNamespace(peers=peers),
        "node_id": NodeId("n1"),
    }
    with served(trial, tmp_path, **context) as made:
        made.replica.watches = Scheduling(trial)
        yield made


def held(trial: WhatIf, node: str) -> int:
    return sum(row.holds_resources() for row in trial.view.allocations_on_node(NodeId(node)))


def facts(voters: tuple[str, ...] = NAMES, *learners: str) -> list[PeerFacts]:
    return [
        PeerFacts(
            peer=peer_id(NodeId(name)),
            is_leader=name == "n1",
            is_voter=name in voters,
            healthy_seconds=60.0 if name in learners else None,
        )
        for name in (*voters, *learners)
    ]


def test_its_work_counts_as_lost_first_and_then_it_is_forgotten(
    world: Served, gossip: Gossip, cli: Cli
) -> None:
    said = cli("node", "purge", "n3")
    assert (said.code, said.err) == (0, "")
    assert said.out == "n3 (n3) is forgotten; allocations of it that count as lost now: 1\n"
    view = world.trial.view
    assert sorted(node.name for node in view.nodes()) == ["n1", "n2"]
    assert [row.client_status.value for row in view.allocations() if row.node_id == "n3"] == ["lost"]
    assert gossip.left == ["n3"]


def test_to_purge_again_changes_nothing(world: Served, cli: Cli) -> None:
    assert cli("node", "purge", "n3", "--json").json()["Purged"] is True
    index = world.trial.machine.index
    again = cli("node", "purge", "n3")
    assert (again.code, again.out) == (0, "no node 'n3' is known: there is nothing to purge\n")
    assert cli("node", "purge", "n3", "--json").json() == {"Purged": False, "Name": "n3"}
    assert world.trial.machine.index == index


def test_a_living_node_is_refused_untouched(world: Served, gossip: Gossip, cli: Cli) -> None:
    gossip.states["n3"] = MemberState.ALIVE
    index = world.trial.machine.index
    said = cli("node", "purge", "n3")
    assert (said.code, said.err) == (1, 'error: node "n3" is alive: run `swarmlet leave` there\n')
    assert world.trial.machine.index == index


def test_a_machine_that_joined_again_under_its_name_is_told_from_its_former_self(
    world: Served, gossip: Gossip
) -> None:
    world.trial.add_nodes([replace(a_node("new"), name="n3")])
    gossip.states["new"] = MemberState.ALIVE
    with pytest.raises(Conflict, match=r"the one that had this name before is n3$"):
        world.api.put("/v1/node/new/purge")


def test_volumes_go_with_it_only_by_force(world: Served, cli: Cli) -> None:
    volume = Volume(
        namespace=DEFAULT_NAMESPACE,
        id="6c0f5b1e-8f4e-4c39-9a53-0d8d6d1c9b11",
        name="books",
        node_id=NodeId("n3"),
        path="/v",
    )
    world.trial._submit(PutVolume(volume=volume))
    said = cli("node", "purge", "n3")
    assert said.code == 1
    assert 'node "n3" has the only copy of 1 volumes: books' in said.err
    assert held(world.trial, "n3") == 1
    said = cli("node", "purge", "--force", "n3")
    assert (said.code, said.err) == (0, "")
    assert said.out.endswith("volumes that are lost with it: books\n")
    assert not list(world.trial.view.volumes())


def test_work_that_is_not_given_up_in_time_is_told_and_a_second_try_goes_on(world: Served) -> None:
    world.replica.watches.is_stuck = True
    with pytest.raises(Conflict, match=r"1 allocations are not given up yet after 20 s: ask again"):
        world.api.put("/v1/node/n3/purge")
    world.replica.watches.is_stuck = False
    assert world.api.put("/v1/node/n3/purge")["Lost"] == 1


def test_a_node_that_comes_back_meanwhile_is_not_forgotten(world: Served, gossip: Gossip) -> None:
    def come_back() -> None:
        gossip.states["n3"] = MemberState.ALIVE

    world.replica.watches.before = come_back
    with pytest.raises(Conflict, match="came back meanwhile"):
        world.api.put("/v1/node/n3/purge")
    node = world.trial.view.node(NodeId("n3"))
    assert node is not None
    assert node.status is NodeStatus.READY


@pytest.mark.parametrize(
    ("status", "state", "why"),
    [
        (NodeStatus.DOWN, MemberState.DEAD, ""),
        (NodeStatus.DOWN, None, ""),
        (NodeStatus.DOWN, MemberState.AGENT_DOWN, ""),
        (NodeStatus.LEFT, MemberState.LEFT, ""),
        # Too much died at once: nothing is replaced yet, but an operator knows better.
        (NodeStatus.DISCONNECTED, MemberState.DEAD, ""),
        (NodeStatus.DISCONNECTED, MemberState.AGENT_DOWN, "its host answers"),
        (NodeStatus.DOWN, MemberState.ALIVE, "is alive"),
        (NodeStatus.READY, MemberState.SUSPECT, "is suspected"),
        (NodeStatus.READY, MemberState.DEAD, "ready by the leader's word"),
        (NodeStatus.READY, None, "ready by the leader's word"),
    ],
)
def test_only_what_is_gone_may_be_forgotten(status: NodeStatus, state: MemberState | None, why: str) -> None:
    found = why_not_gone(replace(a_node("n3"), status=status), state)
    assert why in found
    assert bool(found) == bool(why)


def test_a_dead_voter_may_go_while_the_rest_keeps_a_majority() -> None:
    node = a_node("n3")
    alive = {peer_id(NodeId(name)) for name in ("n1", "n2")}
    assert why_needed(node, facts(), alive, 0) == ""
    assert why_needed(node, facts(("n1", "n2"), "n3"), alive, 0) == ""


def test_a_voter_without_which_there_is_no_majority_stays() -> None:
    five = ("n1", "n2", "n3", "n4", "n5")
    alive = {peer_id(NodeId(name)) for name in ("n1", "n2")}
    assert "2 of 4 voters would live, which is no majority" in why_needed(a_node("n3"), facts(five), alive, 0)


def test_the_last_of_so_many_voters_goes_only_when_another_takes_its_place() -> None:
    node = a_node("n3")
    alive = {peer_id(NodeId(name)) for name in ("n1", "n2", "n4")}
    assert "one of 3 voters, there are to be no fewer" in why_needed(node, facts(), alive, 3)
    assert why_needed(node, facts(NAMES, "n4"), alive, 3) == ""
