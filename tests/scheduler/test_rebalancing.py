"""Rebalancing: nodes are freed, nothing is exceeded at any prefix, constraints hold, and it can be taken back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlet.ids import NodeId
from swarmlet.leader.rebalance import PATIENCE_NS, Rebalancer
from swarmlet.model.cluster import ClusterSettings, Move, RebalanceMode, Rebalancing, SchedulerConfiguration
from swarmlet.model.job import Algorithm, Constraint, DeviceRequest, Job, MigrateStrategy, TaskGroup
from swarmlet.model.node import Node, NodeDevice
from swarmlet.model.resources import Port
from swarmlet.scheduler.rebalancing import plan_rebalancing
from swarmlet.scheduler.what_if import WhatIf
from swarmlet.state.command import Body, UpdateSettings
from tests.scheduler.builders import a_group, a_job, a_node

NOW = 1_000_000 * 10**9
MINUTE = 60 * 10**9


def world(nodes: list[Node], *jobs: Job) -> WhatIf:
    """Placed while every node was preferred in turn, so that there is something to improve."""
    trial = WhatIf.invented(nodes, (), NOW)
    for job in jobs:
        trial.submit([job])
        trial.settle()
    trial.now_ns += MINUTE
    return trial


def pinned(name: str, node: str, memory: int) -> Job:
    """A job that was started on one node, and may run on any."""
    return a_job(
        a_group(constraints=(Constraint(left="${node.unique.name}", right=node),), memory=memory),
        name=name,
    )


def freed(trial: WhatIf, job: Job) -> None:
    """The same job without its constraint: updated in place."""
    group = job.groups[0]
    trial.submit([replace(job, groups=(replace(group, constraints=()),))])
    trial.settle()
    trial.now_ns += MINUTE


def scattered() -> WhatIf:
    jobs = [pinned(f"job{n}", f"n{n}", memory=1000) for n in range(3)]
    trial = world([a_node(f"n{n}") for n in range(3)], *jobs)
    for job in jobs:
        freed(trial, job)
    return trial


def test_scattered_allocations_are_gathered_and_nodes_freed() -> None:
    trial = scattered()
    moves, nodes = plan_rebalancing(trial.view, 10, trial.now_ns)
    assert (len(moves), len(nodes)) == (2, 2)
    assert len({move.target for move in moves}) == 1
    assert plan_rebalancing(trial.view, 1, trial.now_ns)[1] == nodes[:1]


def look(trial: WhatIf, rebalancer: Rebalancer) -> tuple[Body, ...]:
    commands = list(rebalancer.look(trial.view, trial.now_ns).commands)
    moves_max = rebalancer.due(trial.view, trial.now_ns)
    if moves_max:
        moves, _ = plan_rebalancing(trial.view, moves_max, trial.now_ns)
        commands.append(UpdateSettings(rebalancing=Rebalancing(moves=moves)))
    for command in commands:
        trial._submit(command)
    trial.settle()
    return tuple(commands)


def configure(trial: WhatIf, mode: RebalanceMode) -> None:
    trial._submit(
        UpdateSettings(scheduler=SchedulerConfiguration(rebalance=mode, rebalance_interval_ns=MINUTE))
    )


def nodes_in_use(trial: WhatIf) -> set[str]:
    return {each.node_id for each in trial.view.allocations() if not each.is_terminal()}


def settings_of(trial: WhatIf) -> ClusterSettings:
    found = trial.view.settings()
    assert found is not None
    return found


def test_automatic_rebalancing_moves_and_can_be_taken_back() -> None:
    trial = scattered()
    configure(trial, RebalanceMode.AUTOMATIC)
    rebalancer = Rebalancer(trial.now_ns)
    assert look(trial, rebalancer) == ()
    trial.now_ns += MINUTE
    for _ in range(10):
        look(trial, rebalancer)
    assert len(nodes_in_use(trial)) == 1
    done = settings_of(trial).rebalancing
    assert (done.moves, len(done.undo)) == ((), 2)
    configure(trial, RebalanceMode.OFF)
    trial.now_ns += MINUTE
    trial._submit(UpdateSettings(rebalancing=Rebalancing(moves=done.undo[::-1])))
    for _ in range(10):
        look(trial, rebalancer)
        trial.now_ns += MINUTE // 4
    assert len(nodes_in_use(trial)) == 3


def test_nothing_is_planned_unless_it_is_automatic() -> None:
    trial = scattered()
    for mode in (RebalanceMode.OFF, RebalanceMode.ADVISED):
        configure(trial, mode)
        rebalancer = Rebalancer(trial.now_ns)
        trial.now_ns += 10 * MINUTE
        assert look(trial, rebalancer) == ()


def test_a_move_whose_target_has_no_room_any_more_is_dropped() -> None:
    trial = scattered()
    rows = {str(each.job_id): each for each in trial.view.allocations() if not each.is_terminal()}
    move = Move(allocation_id=rows["job0"].id, source=NodeId("n0"), target=NodeId("n1"))
    trial.submit([pinned("big", "n1", memory=7000)])
    trial.settle()
    trial._submit(UpdateSettings(rebalancing=Rebalancing(moves=(move,))))
    rebalancer = Rebalancer(trial.now_ns)
    look(trial, rebalancer)
    trial.now_ns += PATIENCE_NS + 1
    look(trial, rebalancer)
    assert settings_of(trial).rebalancing.moves == ()
    row = trial.view.allocation(move.allocation_id)
    assert row is not None
    assert (row.transition.migrate, row.is_terminal()) == (False, False)


shapes = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(1, 12))
def test_every_prefix_is_feasible_and_no_constraint_is_broken(
    jobs: list[tuple[int, int, int, int]], moves_max: int
) -> None:
    nodes = [a_node(f"n{n}", cpu=2000, memory=4000, meta={"kind": "ab"[n % 2]}) for n in range(5)]
    trial = WhatIf.invented(nodes, (), NOW)
    for number, (node, size, count, rules) in enumerate(jobs):
        ports = (Port(label="http", static=8000),) if rules == 1 else ()
        constraints: tuple[Constraint, ...] = ()
        if rules >= 2:
            rule = Constraint(left="${meta.kind}", right="a")
            constraints = (rule if rules == 2 else Constraint(operand="distinct_hosts"),)
        group = a_group(count=count, cpu=size * 100, memory=size * 300, ports=ports, constraints=constraints)
        # Something is in the way first, so that what comes is scattered.
        blocker = pinned("blocker", f"n{node}", memory=3000)
        trial.submit([blocker])
        trial.settle()
        trial.submit([a_job(replace(group, migrate=MigrateStrategy(max_parallel=2)), name=f"job{number}")])
        trial.settle()
        trial.stop(blocker.namespace, blocker.id)
        trial.settle()
    trial.now_ns += MINUTE
    view = trial.view
    moves, free_after = plan_rebalancing(view, moves_max, trial.now_ns)
    assert len(moves) <= moves_max
    left = {node.id: node.available().minus(view.usage(node).quantity) for node in view.nodes()}
    taken_ports = {node.id: set(view.usage(node).ports) for node in view.nodes()}
    held = {(each.node_id, each.job_id, each.group) for each in view.allocations() if each.holds_resources()}
    for move in moves:
        row = view.allocation(move.allocation_id)
        assert row is not None
        target = view.node(move.target)
        assert target is not None
        assert left[move.target].covers(row.resources)
        left[move.target] = left[move.target].minus(row.resources)
        static = {port.value for port in row.ports if port.value == 8000}
        assert static.isdisjoint(taken_ports[move.target])
        taken_ports[move.target] |= static
        group_of_row = _group(trial, row.job_id, row.group)
        if any(each.left for each in group_of_row.constraints):
            assert target.meta["kind"] == "a"
        assert (move.target, row.job_id, row.group) not in held
        held.add((move.target, row.job_id, row.group))
    moved = {move.allocation_id for move in moves}
    for node_id in free_after:
        assert all(each.id in moved for each in view.allocations_on_node(node_id) if each.holds_resources())


def _group(trial: WhatIf, job_id: str, name: str) -> TaskGroup:
    for job in trial.view.jobs():
        group = job.group(name)
        if job.id == job_id and group is not None:
            return group
    raise AssertionError(job_id)


def crowded() -> WhatIf:
    """Everything on n0, nothing on n1 and n2."""
    jobs = [pinned(f"job{n}", "n0", memory=2000) for n in range(3)]
    trial = world([a_node(f"n{n}") for n in range(3)], *jobs)
    for job in jobs:
        freed(trial, job)
    return trial


def wanting(trial: WhatIf, configuration: SchedulerConfiguration) -> None:
    trial._submit(UpdateSettings(scheduler=configuration))


def test_where_work_is_spread_nodes_are_evened_out_instead_of_freed() -> None:
    trial = crowded()
    assert plan_rebalancing(trial.view, 10, trial.now_ns) == ((), ())
    wanting(trial, SchedulerConfiguration(algorithm=Algorithm.SPREAD))
    moves, nodes = plan_rebalancing(trial.view, 10, trial.now_ns)
    assert nodes == ()
    assert sorted(move.target for move in moves) == ["n1", "n2"]
    assert len(plan_rebalancing(trial.view, 1, trial.now_ns)[0]) == 1
    trial._submit(UpdateSettings(rebalancing=Rebalancing(moves=moves)))
    rebalancer = Rebalancer(trial.now_ns)
    for _ in range(10):
        look(trial, rebalancer)
        trial.now_ns += MINUTE // 4
    assert len(nodes_in_use(trial)) == 3
    assert plan_rebalancing(trial.view, 10, trial.now_ns) == ((), ())


def test_each_node_pool_has_what_its_own_algorithm_wants() -> None:
    nodes = [a_node("n0"), a_node("n1"), *(replace(a_node(f"s{n}"), node_pool="wide") for n in range(2))]
    jobs = [pinned(f"job{n}", f"n{n}", memory=1000) for n in range(2)]
    wide = [replace(pinned(f"wide{n}", "s0", memory=2000), node_pool="wide") for n in range(2)]
    trial = world(nodes, *jobs, *wide)
    for job in (*jobs, *wide):
        freed(trial, job)
    wanting(trial, SchedulerConfiguration(pool_algorithms={"wide": Algorithm.SPREAD}))
    moves, nodes_freed = plan_rebalancing(trial.view, 10, trial.now_ns)
    assert len(nodes_freed) == 1
    assert {(move.source[0], move.target[0]) for move in moves} == {("n", "n"), ("s", "s")}


def test_a_job_that_wants_otherwise_and_devices_stay_where_they_are() -> None:
    jobs = [replace(pinned(f"job{n}", f"n{n}", memory=1000), algorithm=Algorithm.SPREAD) for n in range(2)]
    trial = world([a_node("n0"), a_node("n1")], *jobs)
    for job in jobs:
        freed(trial, job)
    assert plan_rebalancing(trial.view, 10, trial.now_ns) == ((), ())
    gpus = NodeDevice(vendor="nvidia", type="gpu", name="a100", ids=("0",))
    nodes = [replace(a_node(f"n{n}"), devices=(gpus,)) for n in range(2)]
    group = a_group(memory=1000)
    asking = replace(group, tasks=(replace(group.tasks[0], devices=(DeviceRequest(name="gpu"),)),))
    trial = world(nodes, *(a_job(asking, name=f"job{n}") for n in range(2)))
    assert plan_rebalancing(trial.view, 10, trial.now_ns) == ((), ())
