"""Every table has a bound: beyond it a request is refused, or what ended longest ago goes."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from swarmlet.ids import AllocationId, Namespace, NodeId
from swarmlet.model.allocation import ClientStatus
from swarmlet.model.cluster import Move, Rebalancing, SchedulerConfiguration
from swarmlet.model.job import Algorithm
from swarmlet.model.node import NODE_EVENTS_MAX
from swarmlet.model.plan import Stop
from swarmlet.model.variable import VariableKey
from swarmlet.state import (
    allocation_block,
    apply_cluster,
    apply_jobs,
    apply_nodes,
    apply_plan,
    apply_variables,
    apply_volumes,
    store,
)
from swarmlet.state.command import (
    AddVariableKey,
    ApplyPlan,
    Body,
    CollectGarbage,
    PutVolume,
    PutVolumeSnapshot,
    RegisterJob,
    RegisterNode,
    UpdateSettings,
    UpsertNamespace,
)
from tests.state.replica import Replica, group, job, node
from tests.state.test_apply_plan import deployment
from tests.state.test_apply_volumes import snapshot, volume


@pytest.mark.parametrize(
    ("bound", "body"),
    [
        ((apply_nodes, "NODES_MAX"), lambda n: RegisterNode(node=node(f"n{n}"))),
        ((apply_jobs, "JOBS_MAX"), lambda n: RegisterJob(job=job(f"j{n}"))),
        ((apply_cluster, "NAMESPACES_MAX"), lambda n: UpsertNamespace(name=Namespace(f"s{n}"))),
        ((apply_variables, "VARIABLE_KEYS_MAX"), lambda n: AddVariableKey(key=VariableKey(id=n, sealed=b""))),
        ((apply_volumes, "VOLUMES_MAX"), lambda n: PutVolume(volume=volume(f"v{n}", f"0{n}"))),
        ((apply_volumes, "VOLUME_SNAPSHOTS_MAX"), lambda n: PutVolumeSnapshot(snapshot=snapshot(f"0{n}"))),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_a_full_table_refuses_what_is_new(
    bound: tuple[object, str], body: Callable[[int], Body], monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica("a")
    # Some have a row already: the node, the default namespace.
    monkeypatch.setattr(*bound, 3)
    answers = [replica.do(body(number)).error for number in range(1, 5)]
    assert answers[-1] == "Overloaded"
    assert set(answers) == {"", "Overloaded"}
    assert answers == sorted(answers)


def test_deployments_beyond_the_bound_are_dropped_from_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "DEPLOYMENTS_MAX", 2)
    replica = Replica("a")
    for version in range(4):
        evaluation = replica.register(job("shop", group(count=version + 1)))
        replica.place(evaluation, ("a", 1), start=version, deployment=deployment(version, f"d{version}"))
    assert sorted(row.id for row in replica.state.deployments()) == ["d2", "d3"]


def test_no_more_allocations_are_placed_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_plan, "ALLOCATIONS_MAX", 3)
    replica = Replica("a")
    replica.running(job("one", group(count=2, memory=1)), ("a", 2))
    plan = replica.plan(replica.register(job("two", group(count=2, memory=1))), ("a", 2))
    refused = replica.do(ApplyPlan(plan=plan))
    assert (refused.error, refused.message) == ("Overloaded", "the cluster keeps at most 3 allocations")
    assert replica.allocations("two") == []


@pytest.mark.parametrize(("level", "error"), [(3, ""), (4, "Overloaded")])
def test_ids_that_blocks_leave_behind_are_bounded_once_every_replica_knows_that(
    level: int, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One allocation that is left keeps the ids of all that were placed together with it."""
    monkeypatch.setattr(allocation_block, "BLOCK_MIN", 2)
    monkeypatch.setattr(apply_plan, "ALLOCATION_IDS_MAX", 6)
    replica = Replica()
    replica.ok(UpdateSettings(feature_level=level))
    replica.ok(RegisterNode(node=msgspec.structs.replace(node("a"), feature_level=level)))
    rows = replica.running(job("shrunk", group(count=5, memory=1)), ("a", 5))
    stops = tuple(Stop(allocation_id=row.id, description="scaled down") for row in rows[1:])
    replica.place(replica.register(job("shrunk", group(count=1, memory=1))), stops=stops)
    for row in rows[1:]:
        replica.report(row, ClientStatus.COMPLETE)
    replica.ok(CollectGarbage(allocations_before_ns=replica.now_ns + 10**12))
    assert [row.id for row in replica.allocations("shrunk")] == [rows[0].id]
    plan = replica.plan(replica.register(job("next", group(count=2, memory=1))), ("a", 2))
    assert replica.do(ApplyPlan(plan=plan)).error == error


def test_lists_in_the_settings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply_cluster, "REBALANCE_MOVES_MAX", 1)
    monkeypatch.setattr(apply_cluster, "POOL_ALGORITHMS_MAX", 1)
    replica = Replica()
    move = Move(allocation_id=AllocationId("a"), source=NodeId("n1"), target=NodeId("n2"))
    for many in (Rebalancing(moves=(move, move)), Rebalancing(undo=(move, move))):
        assert replica.do(UpdateSettings(rebalancing=many)).error == "InvalidInput"
    pools = dict.fromkeys(("a", "b"), Algorithm.SPREAD)
    scheduler = SchedulerConfiguration(pool_algorithms=pools, rebalance_moves_max=1)
    assert replica.do(UpdateSettings(scheduler=scheduler)).error == "InvalidInput"
    replica.ok(UpdateSettings(rebalancing=Rebalancing(moves=(move,), undo=(move,))))


def test_a_node_remembers_the_newest_of_its_events() -> None:
    replica = Replica("a")
    for number in range(NODE_EVENTS_MAX):
        replica.ok(RegisterNode(node=node("a", boot_id=f"boot-{number}")))
    events = replica.node("a").events
    assert [event.message for event in events] == ["Node rebooted"] * NODE_EVENTS_MAX
    assert events[-1].at_ns == replica.now_ns
