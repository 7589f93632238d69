"""ApplyPlan: carries out what the scheduler wants, as far as it still holds.

The plan was made from an older state, so everything is looked at again: the evaluation must wait for exactly
this attempt; the job must be the one that was planned for; each node must still take work and have room
(`model.fit`, the same rules as in placement). What no longer fits is dropped, and the evaluation is pending
again in the same entry. A stopped allocation keeps its room until its node says that it ended; only one that
is lost gives it up at once.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from swarmlet.errors import InvalidInput, Overloaded, PlanRejected
from swarmlet.ids import AllocationId, NodeId, derive
from swarmlet.model.allocation import (
    RESCHEDULE_EVENTS_MAX,
    AllocatedCores,
    AllocatedDevice,
    Allocation,
    Canary,
    ClientStatus,
    DesiredStatus,
)
from swarmlet.model.deployment import Deployment, DeploymentGroup, DeploymentStatus
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.fit import (
    asked_ports,
    assign_cores,
    assign_devices,
    assign_ports,
    demand_on,
    hold_cores,
    hold_devices,
    holds_what_is_asked,
)
from swarmlet.model.job import COUNT_MAX, DeviceRequest, Job
from swarmlet.model.node import Node, NodeStatus
from swarmlet.model.plan import GroupPlacement, IndexRange, InPlaceUpdate, Mark, Plan, Replacement, Run, Stop
from swarmlet.model.resources import (
    DYNAMIC_PORT_MAX,
    DYNAMIC_PORT_MIN,
    AllocatedPort,
    Port,
    Quantity,
    times,
)
from swarmlet.state import allocation_block
from swarmlet.state.allocation_block import AllocationBlock, Piece, Reader, block_of
from swarmlet.state.allocation_table import AllocationRun
from swarmlet.state.apply_evaluations import put
from swarmlet.state.apply_jobs import prune_versions
from swarmlet.state.apply_nodes import GONE
from swarmlet.state.step import NAME_CHARS_MAX, Step, later
from swarmlet.state.store import ALLOCATION_IDS_MAX, ALLOCATIONS_MAX, Store

#: Placements in one plan that become a row each: about a second of work at apply. Blocks have no such bound.
PLACEMENTS_MAX = 100_000
#: Runs of a block that are placed in one part: about a millisecond, while other processes use the caches.
RUNS_AT_ONCE = 256
#: From this feature level on, `ALLOCATION_IDS_MAX` is obeyed.
IDS_LEVEL = 4
_NOTHING = Quantity()


def apply_plan(step: Step, plan: Plan) -> Iterator[None]:
    """Carry out `plan`, in parts. Raises PlanRejected when the evaluation does not wait for this attempt."""
    evaluation = step.store.evaluation(plan.evaluation_id)
    if evaluation is None:
        raise PlanRejected(f"there is no evaluation {plan.evaluation_id}")
    if evaluation.status is not EvaluationStatus.PENDING:
        raise PlanRejected(f"evaluation {evaluation.id} is {evaluation.status}, not pending")
    if evaluation.attempt != plan.attempt:
        raise PlanRejected(
            f"evaluation {evaluation.id} is at attempt {evaluation.attempt}, the plan answers {plan.attempt}"
        )
    job = step.store.job(evaluation.namespace, evaluation.job_id)
    asked = _checked_count(plan)
    stale = _why_stale(step, plan, evaluation, job)
    if stale:
        _requeue(step, evaluation, stale)
        step.outcome = msgspec.structs.replace(step.outcome, dropped=asked)
        return
    yield from _Application(step, plan, evaluation, job).carry_out()


def _checked_count(plan: Plan) -> int:
    """How many placements are asked for. Raises InvalidInput for a plan that makes no sense."""
    if plan.status is EvaluationStatus.PENDING:
        raise InvalidInput(f"the plan for evaluation {plan.evaluation_id} leaves it pending")
    total = rows = 0
    for placement in plan.placements:
        counts = [span.count for span in placement.ranges] + [run.count for run in placement.runs]
        if any(count < 0 for count in counts) or any(span.start < 0 for span in placement.ranges):
            raise InvalidInput(f'the plan places a negative number of group "{placement.group}"')
        indexes = sum(span.count for span in placement.ranges)
        runs = sum(run.count for run in placement.runs)
        if indexes != runs:
            raise InvalidInput(
                f'the plan has {indexes} indexes for {runs} allocations of group "{placement.group}"'
            )
        if any(span.start + span.count > COUNT_MAX for span in placement.ranges):
            raise InvalidInput(f'the plan has an index of group "{placement.group}" beyond {COUNT_MAX}')
        total += runs
        rows += runs if runs < allocation_block.BLOCK_MIN else 0
    _check_rows(rows)
    return total


def _check_rows(number: int) -> None:
    """Raises InvalidInput for more allocations in rows of their own than one entry may add."""
    if number > PLACEMENTS_MAX:
        raise InvalidInput(f"the plan places {number} allocations, more than {PLACEMENTS_MAX}")


def _why_stale(step: Step, plan: Plan, evaluation: Evaluation, job: Job | None) -> str:
    """Why nothing of the plan may take effect; empty when it may."""
    if job is not None and job.version != plan.job_version:
        return f"the plan is for version {plan.job_version} of the job, which is at {job.version}"
    if plan.placements and (job is None or job.is_stopped):
        return "the job was stopped meanwhile"
    if step.store.plan_index(evaluation.namespace, evaluation.job_id) > plan.snapshot_index:
        return "another plan for this job took effect meanwhile"
    lost = [stop.allocation_id for stop in plan.stops if stop.client is ClientStatus.LOST]
    lost += [mark.allocation_id for mark in plan.marks if mark.client is ClientStatus.LOST]
    for allocation_id in lost:
        row = step.store.allocation(allocation_id)
        if row is None or row.is_client_terminal():
            continue
        node = step.store.node(row.node_id)
        if node is not None and node.status not in GONE:
            return f'node "{node.name}", taken for lost, is {node.status}'
    return ""


def _requeue(step: Step, evaluation: Evaluation, why: str) -> None:
    step.store.put_evaluation(
        msgspec.structs.replace(
            evaluation,
            status=EvaluationStatus.PENDING,
            status_description=why,
            attempt=evaluation.attempt + 1,
        )
    )


class _Ask(NamedTuple):
    """What each allocation of a group asks of its node; worked out once per plan."""

    group: str
    demand: Quantity
    ports: tuple[Port, ...]
    devices: tuple[tuple[str, DeviceRequest], ...] = ()
    cores: tuple[tuple[str, int], ...] = ()

    def on(self, node: Node) -> _Ask:
        """With the CPU of its cores there."""
        return self._replace(demand=demand_on(node, self.demand, sum(number for _, number in self.cores)))


class _Room:
    """What is taken on the nodes of one plan, its own placements included. `fork` to try something."""

    def __init__(
        self,
        store: Store,
        taken: dict[NodeId, Quantity] | None = None,
        ports: dict[NodeId, set[int]] | None = None,
        cursors: dict[NodeId, int] | None = None,
        devices: dict[NodeId, dict[tuple[str, str], int]] | None = None,
        cores: dict[NodeId, dict[int, int]] | None = None,
    ) -> None:
        self._store = store
        self._taken = taken or {}
        #: Only of nodes where ports were asked for.
        self._ports = ports or {}
        self._cursors = cursors or {}
        #: Only of nodes where devices were asked for.
        self._devices = devices or {}
        #: Only of nodes where cores were asked for.
        self._cores = cores or {}

    def fork(self) -> _Room:
        """A copy to try a gang on."""
        ports = {key: set(values) for key, values in self._ports.items()}
        devices = {key: dict(held) for key, held in self._devices.items()}
        cores = {key: dict(held) for key, held in self._cores.items()}
        return _Room(self._store, dict(self._taken), ports, dict(self._cursors), devices, cores)

    def take_cores(self, node: Node, ask: _Ask, wanted: int) -> list[tuple[AllocatedCores, ...]]:
        """Take cores for up to `wanted` allocations that fit otherwise: those of each."""
        taken: list[tuple[AllocatedCores, ...]] = []
        held = self._cores.get(node.id)
        if held is None:
            held = self._cores[node.id] = self._store.usage(node).cores
        for _ in range(_fitting(node, self._taken_on(node), ask.demand, wanted)):
            given = assign_cores(node, ask.cores, held)
            if isinstance(given, str):
                break
            hold_cores(held, given, 1)
            taken.append(given)
        return taken

    def take_devices(
        self, node: Node, ask: _Ask, kinds: tuple[str, ...], wanted: int
    ) -> list[tuple[AllocatedDevice, ...]]:
        """Take devices for up to `wanted` allocations that fit otherwise: those of each."""
        taken: list[tuple[AllocatedDevice, ...]] = []
        held = self._devices.get(node.id)
        if held is None:
            held = self._devices[node.id] = self._store.usage(node).devices
        if len(kinds) == len(ask.devices):
            for _ in range(_fitting(node, self._taken_on(node), ask.demand, wanted)):
                given = assign_devices(node, ask.devices, kinds, held)
                if isinstance(given, str):
                    break
                hold_devices(held, given, 1)
                taken.append(given)
        return taken

    def take(self, node: Node, ask: _Ask, wanted: int) -> list[tuple[AllocatedPort, ...]]:
        """Take room for up to `wanted` allocations: the ports of each that fits."""
        if not ask.ports:
            return [()] * self.take_many(node, ask, wanted)
        used = self._taken_on(node)
        ports = self._take_ports(node, ask.ports, _fitting(node, used, ask.demand, wanted))
        self._taken[node.id] = used.plus(times(ask.demand, len(ports)))
        return ports

    def take_runs(self, demand: Quantity, runs: tuple[Run, ...]) -> list[tuple[NodeId, int]]:
        """Take room for allocations without ports: of each run the node, by its row's own id, and how many fit.

        In one loop without calls that can be spared: a plan has thousands of runs, and nothing else happens meanwhile.
        """
        taken, find, holding = self._taken, self._store.node_finder(), self._store.holding_finder()
        fits: list[tuple[NodeId, int]] = []
        for run in runs:
            node = find(run.node_id)
            if node is None or not node.is_placeable():
                fits.append((run.node_id, 0))
                continue
            # The row's own id, not the plan's: a million of the latter would stay in memory.
            node_id = node.id
            used = taken.get(node_id)
            if used is None:
                held = holding(node_id)
                used = held.quantity if held is not None else _NOTHING
            fitting = _fitting(node, used, demand, run.count)
            if fitting:
                taken[node_id] = used.plus(demand if fitting == 1 else times(demand, fitting))
            fits.append((node_id, fitting))
        return fits

    def take_many(self, node: Node, ask: _Ask, wanted: int) -> int:
        """Take room for up to `wanted` allocations without ports: how many fit."""
        used = self._taken_on(node)
        fitting = _fitting(node, used, ask.demand, wanted)
        self._taken[node.id] = used.plus(times(ask.demand, fitting))
        return fitting

    def _taken_on(self, node: Node) -> Quantity:
        taken = self._taken.get(node.id)
        return self._store.used(node.id) if taken is None else taken

    def _take_ports(
        self, node: Node, asked: tuple[Port, ...], wanted: int
    ) -> list[tuple[AllocatedPort, ...]]:
        held = self._ports.get(node.id)
        if held is None:
            held = self._ports[node.id] = self._store.usage(node).ports
        cursor = self._cursors.get(node.id, self._store.port_cursor(node.id))
        taken: list[tuple[AllocatedPort, ...]] = []
        for _ in range(wanted):
            ports = assign_ports(asked, held, cursor)
            if isinstance(ports, str):
                break
            held.update(port.value for port in ports)
            dynamic = [given.value for given, want in zip(ports, asked, strict=True) if not want.static]
            if dynamic:
                cursor = (dynamic[-1] - DYNAMIC_PORT_MIN + 1) % (DYNAMIC_PORT_MAX - DYNAMIC_PORT_MIN + 1)
            taken.append(ports)
        self._cursors[node.id] = cursor
        return taken

    def keep_cursors(self) -> None:
        """Write the moved cursors to the store."""
        for node_id, cursor in self._cursors.items():
            self._store.move_port_cursor(node_id, cursor)


def _fitting(node: Node, used: Quantity, demand: Quantity, wanted: int) -> int:
    """How many times `demand` fits, at most `wanted`. Agrees with `fit.shortages`, without a loop or a record."""
    has, kept = node.resources, node.reserved
    cpu = has.cpu - kept.cpu - used.cpu
    memory = has.memory - kept.memory - used.memory
    disk = has.disk - kept.disk - used.disk
    if demand.cpu > cpu or demand.memory > memory or demand.disk > disk:
        return 0
    if wanted <= 1:
        return max(0, wanted)
    if demand.cpu:
        wanted = min(wanted, cpu // demand.cpu)
    if demand.memory:
        wanted = min(wanted, memory // demand.memory)
    if demand.disk:
        wanted = min(wanted, disk // demand.disk)
    return wanted


class _Application:
    """One plan being carried out."""

    def __init__(self, step: Step, plan: Plan, evaluation: Evaluation, job: Job | None) -> None:
        self.step, self.store = step, step.store
        self.plan, self.evaluation, self.job = plan, evaluation, job
        self.deployment, self.is_new_deployment = self._deployment()
        #: Group -> allocations that joined the deployment.
        self.joined: dict[str, int] = {}
        self.placed = self.dropped = 0
        #: Group -> the block that its new allocations are in.
        self.readers: dict[str, Reader] = {}

    def carry_out(self) -> Iterator[None]:
        """Stops before placements, then the deployment, then the evaluation's end."""
        for stop in self.plan.stops:
            self._stop(stop)
        for mark in self.plan.marks:
            self._mark(mark)
        for update in self.plan.updates:
            self._update_in_place(update)
        if self.plan.placements:
            yield from self._place()
        self._change_deployments()
        if self.job is not None and (self.placed or self.plan.stops or self.plan.updates):
            self.store.note_plan(self.evaluation.namespace, self.evaluation.job_id)
        self._end_evaluation()
        if self.job is not None:
            prune_versions(self.step, self.job.namespace, self.job.id)
        self.step.outcome = msgspec.structs.replace(
            self.step.outcome, placed=self.placed, dropped=self.dropped
        )

    # What is there already.

    def _stop(self, stop: Stop) -> None:
        row = self.store.allocation(stop.allocation_id)
        if row is None:
            return
        changed = row
        if row.desired_status is DesiredStatus.RUN and stop.desired is not DesiredStatus.RUN:
            changed = msgspec.structs.replace(
                changed,
                desired_status=stop.desired,
                desired_description=stop.description[: 4 * NAME_CHARS_MAX],
            )
        changed = self._with_client(changed, stop.client, stop.description)
        if stop.followup_evaluation is not None:
            changed = msgspec.structs.replace(changed, followup_evaluation=stop.followup_evaluation)
        if changed is not row:
            self.store.put_allocation(changed, by_leader=True)

    def _mark(self, mark: Mark) -> None:
        row = self.store.allocation(mark.allocation_id)
        if row is None:
            return
        changed = self._with_client(row, mark.client, mark.description)
        if mark.followup_evaluation is not None:
            changed = msgspec.structs.replace(changed, followup_evaluation=mark.followup_evaluation)
        if changed is not row:
            self.store.put_allocation(changed, by_leader=True)

    def _with_client(self, row: Allocation, client: ClientStatus | None, description: str) -> Allocation:
        """With the client status that the leader knows, where it may say so at all: its node being away, or
        (from UNKNOWN) back.
        """
        if client is None or client is row.client_status or row.is_client_terminal():
            return row
        node = self.store.node(row.node_id)
        match client:
            case ClientStatus.LOST:
                may = node is None or node.status in GONE
            case ClientStatus.UNKNOWN:
                may = node is None or node.status is not NodeStatus.READY
            case ClientStatus.RUNNING | ClientStatus.PENDING:
                is_back = node is not None and node.status is NodeStatus.READY
                may = row.client_status is ClientStatus.UNKNOWN and is_back
            case _:
                may = False
        if not may:
            return row
        return msgspec.structs.replace(
            row, client_status=client, client_description=description[: 4 * NAME_CHARS_MAX]
        )

    def _update_in_place(self, update: InPlaceUpdate) -> None:
        """Go on under the new version. What it holds does not change: a changed demand is a replacement."""
        row = self.store.allocation(update.allocation_id)
        job = self.job
        if row is None or job is None or row.is_terminal() or update.job_version != job.version:
            return
        group = job.group(row.group)
        if (row.namespace, row.job_id) != (job.namespace, job.id) or group is None:
            return
        if not holds_what_is_asked(row, group):
            self.dropped += 1
            return
        changed = msgspec.structs.replace(row, job_version=update.job_version)
        if self.deployment is not None and row.group in self.deployment.groups:
            if row.deployment_id != self.deployment.id:
                changed = msgspec.structs.replace(changed, deployment_id=self.deployment.id, health=None)
                self.joined[row.group] = self.joined.get(row.group, 0) + 1
        elif row.deployment_id is not None:
            changed = msgspec.structs.replace(changed, deployment_id=None, health=None)
        self.store.put_allocation(changed, by_leader=True)

    # What is new.

    def _place(self) -> Iterator[None]:
        wanted = self.store.allocation_count() + _checked_count(self.plan)
        if wanted > ALLOCATIONS_MAX:
            raise Overloaded(f"the cluster keeps at most {ALLOCATIONS_MAX} allocations")
        remembered = wanted + self.store.forgotten_of_blocks()
        if remembered > ALLOCATION_IDS_MAX and self.step.is_at_level(IDS_LEVEL):
            raise Overloaded(
                f"the cluster keeps the ids of at most {ALLOCATION_IDS_MAX} allocations, those included that are forgotten "
                "while others that were placed together with them run on: restart or stop large jobs that were scaled down"
            )
        room = _Room(self.store)
        runs: list[AllocationRun] = []
        joined = dict(self.joined)
        dropped = self.dropped
        for placement in self.plan.placements:
            room, fitted = yield from self._place_group(room, placement)
            runs.extend(fitted)
        if self.plan.is_gang and self.dropped > dropped:
            self.dropped, self.placed = self.dropped + self.placed, 0
            self.joined, self.readers = joined, {}
            return
        room.keep_cursors()
        ids = [key for run in runs for key, _ in run.members]
        _check_rows(len(ids))
        if len(set(ids)) < len(ids) or any(self.store.allocation(key) for key in ids):
            raise InvalidInput(f"the plan for evaluation {self.evaluation.id} places an allocation twice")
        self.store.insert_runs(runs)
        yield from self.store.insert_blocks(list(self.readers.values()))
        for placement in self.plan.placements:
            for replacement in placement.replacements:
                self._link(placement, replacement)

    def _place_group(
        self, room: _Room, placement: GroupPlacement
    ) -> Generator[None, None, tuple[_Room, list[AllocationRun]]]:
        asked = sum(run.count for run in placement.runs)
        job = self._definition(placement)
        if job is None:
            # That version is not kept any more: the next attempt sees what there is.
            self.dropped += asked
            return room, []
        group = job.group(placement.group)
        if group is None:
            raise InvalidInput(f'the plan places group "{placement.group}", which the job does not have')
        trial = room.fork() if placement.is_gang else room
        ask = _Ask(
            group.name, group.demand(), asked_ports(group), group.device_requests(), group.core_requests()
        )
        block: AllocationBlock | None = None
        is_plain = not ask.ports and not ask.devices and not ask.cores
        is_plain = is_plain and not placement.is_canary and placement.job_version is None
        if asked >= allocation_block.BLOCK_MIN and is_plain and self._is_only_placement(placement):
            runs: list[AllocationRun] = []
            block = yield from self._block(trial, ask, placement)
            taken = block.count() if block else 0
        else:
            indexes = _indexes(placement.ranges)
            runs = [
                self._place_run(trial, placement, ask, run, [next(indexes) for _ in range(run.count)])
                for run in placement.runs
            ]
            taken = sum(len(run.members) for run in runs)
        dropped = asked - taken
        if placement.is_gang and dropped:
            self.dropped += asked
            return room, []
        if block is not None:
            self.readers[group.name] = Reader(block)
        self.dropped += dropped
        self.placed += taken
        if self._deployment_of(placement) is not None:
            self.joined[group.name] = self.joined.get(group.name, 0) + taken
        return trial, runs

    def _definition(self, placement: GroupPlacement) -> Job | None:
        """The version of the job that is placed."""
        if placement.job_version is None or self.job is None:
            return self.job
        return self.store.job_version(self.job.namespace, self.job.id, placement.job_version)

    def _deployment_of(self, placement: GroupPlacement) -> Deployment | None:
        """What is placed of an older version is no part of the rollout."""
        deployment = self.deployment
        if deployment is None or placement.group not in deployment.groups:
            return None
        return deployment if placement.job_version is None else None

    def _is_only_placement(self, placement: GroupPlacement) -> bool:
        return sum(each.group == placement.group for each in self.plan.placements) == 1

    def _block(
        self, room: _Room, ask: _Ask, placement: GroupPlacement
    ) -> Generator[None, None, AllocationBlock | None]:
        """What fits, as a block; None: nothing."""
        pieces: list[Piece] = []
        take = _Spans(placement.ranges).take
        for first in range(0, len(placement.runs), RUNS_AT_ONCE):
            runs = placement.runs[first : first + RUNS_AT_ONCE]
            for run, (node_id, fitting) in zip(runs, room.take_runs(ask.demand, runs), strict=True):
                if fitting:
                    for start, count in take(fitting):
                        pieces.append(Piece(start=start, count=count, node_id=node_id))
                if fitting < run.count:
                    take(run.count - fitting)
            yield
        if not pieces:
            return None
        parts = ("allocation", self.evaluation.id, self.plan.attempt, ask.group)
        block = block_of(parts, self._template(placement, ask, NodeId("")), tuple(pieces))
        end = -1
        is_overlapping = False
        for piece in block.pieces:
            is_overlapping = is_overlapping or piece.start < end
            end = piece.start + piece.count
        if is_overlapping or self.store.has_block(block):
            raise InvalidInput(f"the plan for evaluation {self.evaluation.id} places an allocation twice")
        return block

    def _place_run(
        self, room: _Room, placement: GroupPlacement, ask: _Ask, run: Run, indexes: list[int]
    ) -> AllocationRun:
        node = self.store.node(run.node_id)
        wanted, devices = run.count, list[tuple[AllocatedDevice, ...]]()
        cores: list[tuple[AllocatedCores, ...]] = []
        if node is None or not node.is_placeable():
            return AllocationRun(self._template(placement, ask, run.node_id), (), ())
        if ask.cores:
            ask = ask.on(node)
            cores = room.take_cores(node, ask, wanted)
            wanted = len(cores)
        if ask.devices:
            devices = room.take_devices(node, ask, run.devices, wanted)
            wanted = len(devices)
        ports = room.take(node, ask, wanted)
        members = tuple((self._id(placement, index), index) for index in indexes[: len(ports)])
        given = tuple(devices[: len(ports)]), tuple(cores[: len(ports)])
        return AllocationRun(self._template(placement, ask, run.node_id), members, tuple(ports), *given)

    def _id(self, placement: GroupPlacement, index: int) -> AllocationId:
        parts = "allocation", self.evaluation.id, self.plan.attempt, placement.group, index
        # One index may be placed twice: a canary, and what it stands beside.
        if placement.is_canary:
            return AllocationId(derive(*parts, "canary"))
        if placement.job_version is not None:
            return AllocationId(derive(*parts, "version", placement.job_version))
        reader = self.readers.get(placement.group)
        return reader.id_of(index) if reader is not None else AllocationId(derive(*parts))

    def _template(self, placement: GroupPlacement, ask: _Ask, node_id: NodeId) -> Allocation:
        deployment = self._deployment_of(placement)
        version = placement.job_version
        return Allocation(
            id=AllocationId(""),
            namespace=self.evaluation.namespace,
            job_id=self.evaluation.job_id,
            job_version=self.plan.job_version if version is None else version,
            group=ask.group,
            index=0,
            node_id=node_id,
            evaluation_id=self.evaluation.id,
            deployment_id=deployment.id if deployment is not None else None,
            resources=ask.demand,
            create_index=self.step.index,
            modify_index=self.step.index,
            alloc_modify_index=self.step.index,
            create_time_ns=self.step.now_ns,
            modify_time_ns=self.step.now_ns,
            canary=Canary.TRIED if placement.is_canary else None,
        )

    def _link(self, placement: GroupPlacement, replacement: Replacement) -> None:
        """Join the new allocation with the one whose place it takes."""
        fresh = self.store.allocation(self._id(placement, replacement.index))
        previous = self.store.allocation(replacement.previous)
        if fresh is None:
            return
        self.store.put_allocation(
            msgspec.structs.replace(
                fresh,
                previous_allocation=replacement.previous,
                reschedule_events=replacement.reschedule_events[-RESCHEDULE_EVENTS_MAX:],
            ),
            by_leader=True,
        )
        if previous is not None:
            self.store.put_allocation(
                msgspec.structs.replace(previous, next_allocation=fresh.id), by_leader=True
            )

    # The deployment and the end.

    def _deployment(self) -> tuple[Deployment | None, bool]:
        """The deployment that new allocations join, and whether it is new. None: there is none (any more)."""
        wanted = self.plan.deployment
        if wanted is None:
            return None, False
        if (wanted.namespace, wanted.job_id) != (self.evaluation.namespace, self.evaluation.job_id):
            raise InvalidInput(
                f"deployment {wanted.id} is of another job than evaluation {self.evaluation.id}"
            )
        before = self.store.deployment(wanted.id)
        if before is None:
            if not wanted.is_active() or self.job is None:
                return None, False
            return msgspec.structs.replace(wanted, job_create_index=self.job.create_index), True
        return (before, False) if before.is_active() else (None, False)

    def _change_deployments(self) -> None:
        for update in self.plan.deployment_updates:
            known = self.store.deployment(update.deployment_id)
            if known is not None and known.is_active():
                self._end_deployment(known, update.status, update.description)
        deployment = self.deployment
        if deployment is None:
            return
        if self.is_new_deployment:
            if self.dropped and not self.joined:
                return  # Nothing of it took effect: the next attempt makes its own.
            for other in list(
                self.store.deployments_of_job(self.evaluation.namespace, self.evaluation.job_id)
            ):
                if other.is_active():
                    self._end_deployment(
                        other, DeploymentStatus.CANCELLED, "Cancelled because of a newer deployment"
                    )
        wanted = self.plan.deployment
        assert wanted is not None
        groups = {
            name: self._grown(name, wanted.groups[name], deployment.groups.get(name))
            for name in wanted.groups
        }
        self.store.put_deployment(msgspec.structs.replace(deployment, groups={**deployment.groups, **groups}))

    def _end_deployment(self, known: Deployment, status: DeploymentStatus, description: str) -> None:
        self.store.put_deployment(
            msgspec.structs.replace(
                known, status=status, status_description=description[: 4 * NAME_CHARS_MAX]
            )
        )

    def _grown(self, name: str, wanted: DeploymentGroup, before: DeploymentGroup | None) -> DeploymentGroup:
        """What the plan wants of a group, with the counts that are kept here."""
        known = before if before is not None and not self.is_new_deployment else None
        joined = self.joined.get(name, 0)
        placed = (known.placed if known else 0) + joined
        deadline = known.require_progress_by_ns if known else 0
        # Canaries may have waited long, and one of them been lost: what takes its place has all the time again.
        is_trying = known is not None and known.is_trying
        if joined and (not deadline or is_trying) and wanted.progress_deadline_ns:
            deadline = later(self.step.now_ns, wanted.progress_deadline_ns)
        return msgspec.structs.replace(
            wanted,
            placed=placed,
            healthy=known.healthy if known else 0,
            unhealthy=known.unhealthy if known else 0,
            require_progress_by_ns=deadline,
            is_promoted=known.is_promoted if known else False,
        )

    def _end_evaluation(self) -> None:
        plan, is_short = self.plan, self.dropped > 0
        if is_short:
            asked = self.placed + self.dropped
            _requeue(self.step, self.evaluation, f"{self.dropped} of {asked} changes no longer fitted")
        else:
            blocked = next(
                (row.id for row in plan.evaluations if row.status is EvaluationStatus.BLOCKED), None
            )
            self.store.put_evaluation(
                msgspec.structs.replace(
                    self.evaluation,
                    status=plan.status,
                    # Ids of allocations depend on the attempt: one that goes on later starts another.
                    attempt=plan.attempt + (plan.status is EvaluationStatus.BLOCKED),
                    status_description=plan.status_description[: 4 * NAME_CHARS_MAX],
                    failed_groups=plan.failed_groups,
                    queued=plan.queued,
                    waiting=plan.waiting,
                    blocked_evaluation=blocked,
                    deployment_id=self.deployment.id if self.deployment else self.evaluation.deployment_id,
                    snapshot_index=plan.snapshot_index,
                )
            )
            if plan.status is EvaluationStatus.COMPLETE and not plan.failed_groups:
                self._cancel_blocked()
        for row in plan.evaluations:
            # What is short is looked at again, which finds out anew what is blocked.
            if is_short and row.status is EvaluationStatus.BLOCKED:
                continue
            if self.store.evaluation(row.id) is None:
                put(self.step, row)

    def _cancel_blocked(self) -> None:
        """Everything has its place: nothing of this job waits for room any more."""
        for row in list(
            self.store.open_evaluations_of_job(self.evaluation.namespace, self.evaluation.job_id)
        ):
            if row.status is EvaluationStatus.BLOCKED:
                self.step.cancel(row, "the job has all it wants", self.evaluation.id)


def _indexes(ranges: tuple[IndexRange, ...]) -> Iterator[int]:
    for span in ranges:
        yield from range(span.start, span.start + span.count)


class _Spans:
    """Takes indexes from ranges, in order, as spans."""

    def __init__(self, ranges: tuple[IndexRange, ...]) -> None:
        self._left = [(span.start, span.count) for span in reversed(ranges)]

    def take(self, count: int) -> list[tuple[int, int]]:
        """The next `count`: (start, how many) each."""
        if self._left and 0 < count < self._left[-1][1]:
            start, many = self._left[-1]
            self._left[-1] = (start + count, many - count)
            return [(start, count)]
        taken: list[tuple[int, int]] = []
        while count > 0:
            start, many = self._left.pop()
            used = min(many, count)
            if used:
                taken.append((start, used))
            if used < many:
                self._left.append((start + used, many - used))
            count -= used
        return taken
