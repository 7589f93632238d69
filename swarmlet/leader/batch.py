"""Plans for several jobs at once: each made from the state as the plans before it will leave it. Pure.

Plans of one batch go into the log together, so that many small jobs cost one round trip and one sync of the disk
and not one each. Nothing is guessed: there is one scheduler, and what it planned a moment ago is tried on a fork of
the state before the next plan is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from swarmlet.ids import NodeId, RequestId
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.fit import asked_ports
from swarmlet.model.plan import Plan
from swarmlet.placement.cluster import Fleet
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import ENVELOPE_VERSION, ApplyPlan, Command
from swarmlet.state.view import Table

#: Evaluations of one batch: at 1 to 3 ms each the log's round trip is a small part, and the first job still starts soon.
BATCH_MAX = 32
#: Placements after which a batch is closed, so that what is large travels alone.
BATCH_PLACEMENTS_MAX = 20_000


def schedule_batch(
    machine: StateMachine,
    evaluations: Sequence[Evaluation],
    now_ns: int,
    fleet: Fleet | None = None,
    changed: Iterable[NodeId] = (),
) -> list[Plan | Exception | None]:
    """A plan for each evaluation, in order; what the scheduler raised for it; None: not looked at, ask again.

    `machine` is a fork of the caller's, and is used up. The evaluations are of different jobs. `fleet` is kept from
    one batch to the next; `changed`: the nodes of which anything changed since.
    """
    base = machine.index
    fleet = fleet or Fleet()
    fleet.doubt(changed)
    tried: list[NodeId] = []
    untried: list[Plan] = []
    outcomes: list[Plan | Exception | None] = []
    placed = 0
    for position, evaluation in enumerate(evaluations):
        if placed >= BATCH_PLACEMENTS_MAX:
            outcomes.append(None)
            continue
        try:
            plan = schedule(machine.snapshot(), evaluation, now_ns, fleet)
            if _is_plain(machine, evaluation, plan):
                # The fleet knows already what it takes, and other jobs are not concerned.
                tried += fleet.keep()
                untried.append(plan)
            elif position + 1 < len(evaluations):
                # Nodes that are read anew from the fork must show everything that was planned until now.
                touched = [node_id for each in (*untried, plan) for node_id in _try(machine, each, now_ns)]
                untried.clear()
                tried += touched
                fleet.doubt(touched)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            outcomes.append(error)
            continue
        placed += sum(run.count for each in plan.placements for run in each.runs)
        outcomes.append(_as_of(plan, base))
    # What was only tried may come out differently: the next batch reads these nodes again.
    fleet.doubt(tried)
    return outcomes


def _is_plain(machine: StateMachine, evaluation: Evaluation, plan: Plan) -> bool:
    """Whether all that the plan does to nodes is to place allocations without ports: it needs no trying."""
    if plan.stops or plan.marks or plan.updates:
        return False
    job = machine.snapshot().job(evaluation.namespace, evaluation.job_id)
    return job is not None and not any(asked_ports(group) for group in job.groups)


def _try(machine: StateMachine, plan: Plan, now_ns: int) -> list[NodeId]:
    """Apply `plan` to the fork; the nodes whose allocations it changed."""
    command = Command(
        version=ENVELOPE_VERSION,
        request_id=RequestId(f"plan:{plan.evaluation_id}:{plan.attempt}"),
        actor="leader:",
        wall_time_ns=now_ns,
        body=ApplyPlan(plan=plan),
    )
    _, changes = machine.apply(machine.index + 1, command)
    return [
        node_id
        for change in changes
        if change.table is Table.ALLOCATIONS
        for node_id in change.concerned_nodes()
    ]


def _as_of(plan: Plan, index: int) -> Plan:
    """The plan, said to be made from the state at `index`, which all replicas know: the fork's own indexes mean
    nothing to them, and would hide capacity that comes meanwhile.
    """
    evaluations = tuple(
        replace(each, snapshot_index=index) if each.snapshot_index > index else each
        for each in plan.evaluations
    )
    return replace(plan, snapshot_index=min(plan.snapshot_index, index), evaluations=evaluations)
