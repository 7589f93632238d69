"""Plans for several jobs at once: each made from the state as the plans before it will leave it. Pure.

Plans of one batch go into the log together, so that many small jobs cost one round trip and one sync of the disk
and not one each. Nothing is guessed: there is one scheduler, and what it planned a moment ago is tried on a fork of
the state before the next plan is made.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from swarmlet.ids import RequestId
from swarmlet.model.evaluation import Evaluation
from swarmlet.model.plan import Plan
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.apply import StateMachine
from swarmlet.state.command import ENVELOPE_VERSION, ApplyPlan, Command

#: Evaluations of one batch: at 1 to 3 ms each the log's round trip is a small part, and the first job still starts soon.
BATCH_MAX = 32
#: Placements after which a batch is closed, so that what is large travels alone.
BATCH_PLACEMENTS_MAX = 5_000


def schedule_batch(
    machine: StateMachine, evaluations: Sequence[Evaluation], now_ns: int
) -> list[Plan | Exception | None]:
    """A plan for each evaluation, in order; what the scheduler raised for it; None: not looked at, ask again.

    `machine` is a fork of the caller's, and is used up. The evaluations are of different jobs.
    """
    base = machine.index
    outcomes: list[Plan | Exception | None] = []
    placed = 0
    for position, evaluation in enumerate(evaluations):
        if placed >= BATCH_PLACEMENTS_MAX:
            outcomes.append(None)
            continue
        try:
            plan = schedule(machine.snapshot(), evaluation, now_ns)
            if position + 1 < len(evaluations):
                _try(machine, plan, now_ns)
        except Exception as error:  # noqa: BLE001 - one job that cannot be planned must not stop the others
            outcomes.append(error)
            continue
        placed += sum(run.count for each in plan.placements for run in each.runs)
        outcomes.append(_as_of(plan, base))
    return outcomes


def _try(machine: StateMachine, plan: Plan, now_ns: int) -> None:
    command = Command(
        version=ENVELOPE_VERSION,
        request_id=RequestId(f"plan:{plan.evaluation_id}:{plan.attempt}"),
        actor="leader:",
        wall_time_ns=now_ns,
        body=ApplyPlan(plan=plan),
    )
    machine.apply(machine.index + 1, command)


def _as_of(plan: Plan, index: int) -> Plan:
    """The plan, said to be made from the state at `index`, which all replicas know: the fork's own indexes mean
    nothing to them, and would hide capacity that comes meanwhile.
    """
    evaluations = tuple(
        replace(each, snapshot_index=index) if each.snapshot_index > index else each
        for each in plan.evaluations
    )
    return replace(plan, snapshot_index=min(plan.snapshot_index, index), evaluations=evaluations)
