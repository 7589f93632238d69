"""Nodes: names, statuses, deaths, drains."""

from __future__ import annotations

import msgspec

from swarmlet.ids import NodeId
from swarmlet.model.evaluation import Trigger
from swarmlet.model.node import DrainStrategy, Eligibility, NodeStatus
from swarmlet.state.apply import StateMachine
from swarmlet.state.apply_nodes import REMOVALS_LEVEL
from swarmlet.state.command import (
    RegisterNode,
    RemoveNode,
    UpdateNodeDrain,
    UpdateNodeEligibility,
    UpdateNodeStatus,
    UpdateSettings,
)
from swarmlet.state.outcomes import removal_of
from tests.state.replica import Replica, job, node


def test_a_registered_node_is_ready_and_found_by_its_name() -> None:
    replica = Replica("a")
    assert replica.node("a").status is NodeStatus.READY
    assert replica.state.node_by_name("a") == replica.node("a")


def test_a_taken_name_is_refused_and_the_holder_is_named() -> None:
    replica = Replica("a")
    other = msgspec.structs.replace(node("a"), id=NodeId("other"))
    applied = replica.do(RegisterNode(node=other))
    assert applied.error == "Conflict"
    assert "id-a" in applied.message
    assert replica.state.node(NodeId("other")) is None


def test_the_name_of_a_dead_node_may_be_taken_and_the_dead_one_then_stays_out() -> None:
    replica = Replica("a")
    replica.status("a", NodeStatus.DOWN)
    other = msgspec.structs.replace(node("a"), id=NodeId("other"))
    replica.ok(RegisterNode(node=other))
    holder = replica.state.node_by_name("a")
    assert holder is not None
    assert holder.id == "other"
    assert replica.do(RegisterNode(node=node("a"))).error == "Conflict"
    back = UpdateNodeStatus(node_id=NodeId("id-a"), status=NodeStatus.READY)
    assert replica.do(back).error == "Conflict"


def test_a_node_keeps_what_the_leader_knows_of_it_when_it_registers_again() -> None:
    replica = Replica("a")
    replica.ok(UpdateNodeEligibility(node_id=NodeId("id-a"), eligibility=Eligibility.INELIGIBLE))
    replica.ok(RegisterNode(node=msgspec.structs.replace(node("a", boot_id="boot-2"), address="1.2.3.4:1")))
    found = replica.node("a")
    assert (found.eligibility, found.address) == (Eligibility.INELIGIBLE, "1.2.3.4:1")
    assert found.events[-1].message == "Node rebooted"


def test_a_node_may_not_register_another() -> None:
    replica = Replica()
    assert replica.do(RegisterNode(node=node("a")), actor="node:id-b").error == "Unauthorized"


def test_registering_the_same_facts_changes_nothing() -> None:
    replica = Replica("a")
    replica.ok(RegisterNode(node=node("a")))
    assert replica.changes == ()


def test_a_dead_node_opens_one_evaluation_per_job_on_it_and_leaves_its_allocations_to_the_scheduler() -> None:
    replica = Replica("a", "b")
    replica.running(job("one"), ("a", 3))
    replica.running(job("two"), ("a", 1))
    replica.running(job("three"), ("b", 1))
    applied = replica.status("a", NodeStatus.DOWN)
    opened = [replica.evaluation(key) for key in applied.evaluation_ids]
    assert [(row.job_id, row.trigger, row.node_id) for row in opened] == [
        ("one", Trigger.NODE_UPDATE, "id-a"),
        ("two", Trigger.NODE_UPDATE, "id-a"),
    ]
    assert {row.client_status.value for row in replica.allocations("one")} == {"running"}
    back = replica.ok(RegisterNode(node=node("a")))
    assert [replica.evaluation(key).trigger for key in back.evaluation_ids] == [Trigger.RECONNECT] * 2


def test_a_status_from_before_a_reboot_is_refused() -> None:
    replica = Replica("a")
    stale = UpdateNodeStatus(node_id=NodeId("id-a"), status=NodeStatus.DOWN, boot_id="boot-0")
    assert replica.do(stale).error == "Conflict"
    assert replica.node("a").status is NodeStatus.READY


def test_three_deaths_in_ten_minutes_make_a_node_ineligible_for_ten() -> None:
    replica = Replica("a")
    for _ in range(3):
        assert replica.node("a").eligibility is Eligibility.ELIGIBLE
        replica.status("a", NodeStatus.DOWN)
        replica.status("a", NodeStatus.READY)
    assert replica.node("a").eligibility is Eligibility.INELIGIBLE
    replica.wait(601)
    replica.status("a", NodeStatus.DISCONNECTED)
    replica.status("a", NodeStatus.READY)
    assert replica.node("a").eligibility is Eligibility.ELIGIBLE


def test_deaths_far_apart_do_no_harm() -> None:
    replica = Replica("a")
    for _ in range(5):
        replica.status("a", NodeStatus.DOWN)
        replica.status("a", NodeStatus.READY)
        replica.wait(400)
    assert replica.node("a").eligibility is Eligibility.ELIGIBLE


def test_a_draining_node_takes_no_work_and_gets_its_deadline_from_the_states_time() -> None:
    replica = Replica("a")
    replica.running(job(), ("a", 1))
    applied = replica.ok(
        UpdateNodeDrain(node_id=NodeId("id-a"), drain=DrainStrategy(deadline_ns=60, force_at_ns=0))
    )
    found = replica.node("a")
    assert found.drain is not None
    assert found.drain.force_at_ns == replica.now_ns + 60
    assert not found.is_placeable()
    assert replica.evaluation(applied.evaluation_id).trigger is Trigger.NODE_DRAIN
    eligible = UpdateNodeEligibility(node_id=NodeId("id-a"), eligibility=Eligibility.ELIGIBLE)
    assert replica.do(eligible).error == "Conflict"
    replica.ok(UpdateNodeDrain(node_id=NodeId("id-a"), mark_eligible=True))
    assert replica.node("a").is_placeable()


def test_only_a_node_that_is_gone_and_empty_is_forgotten() -> None:
    replica = Replica("a", "b")
    replica.running(job(), ("a", 1))
    assert replica.do(RemoveNode(node_id=NodeId("id-b"))).error == "Conflict"
    replica.status("a", NodeStatus.DOWN)
    replica.status("b", NodeStatus.LEFT)
    assert replica.do(RemoveNode(node_id=NodeId("id-a"))).error == "Conflict"
    replica.ok(RemoveNode(node_id=NodeId("id-b")))
    assert replica.state.node_by_name("b") is None
    assert replica.do(RemoveNode(node_id=NodeId("id-b"))).error == "NotFound"


def test_cores_are_kept_in_order_each_once() -> None:
    replica = Replica()
    for cores in ((1, 0), (0, 0), tuple(range(5_000))):
        applied = replica.do(RegisterNode(node=msgspec.structs.replace(node("a"), cores=cores)))
        assert applied.error == "InvalidInput"
        assert "cores in order" in applied.message
    replica.ok(RegisterNode(node=msgspec.structs.replace(node("a"), cores=(0, 2))))
    assert replica.node("a").cores == (0, 2)


def _removed(level: int) -> Replica:
    replica = Replica()
    replica.ok(UpdateSettings(feature_level=level))
    replica.ok(RegisterNode(node=msgspec.structs.replace(node("a"), feature_level=level)))
    replica.status("a", NodeStatus.LEFT)
    replica.ok(RemoveNode(node_id=NodeId("id-a")))
    return replica


def test_a_removal_is_noted_with_its_index_and_kept_in_snapshots() -> None:
    replica = _removed(REMOVALS_LEVEL)
    noted = replica.state.outcome(removal_of(NodeId("id-a")))
    assert noted is not None
    assert noted.index == replica.index
    loaded = StateMachine.load(replica.machine.save())
    assert loaded.snapshot().outcome(removal_of(NodeId("id-a"))) == noted
    assert loaded.digest() == replica.machine.digest()


def test_below_the_level_at_which_all_replicas_note_removals_none_does() -> None:
    """Replicas of the version before would part from this one otherwise."""
    assert _removed(REMOVALS_LEVEL - 1).state.outcome(removal_of(NodeId("id-a"))) is None
