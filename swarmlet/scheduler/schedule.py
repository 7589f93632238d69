"""One evaluation in, one plan out: reconcile, place, and say what could not be placed. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from swarmlet.ids import EvaluationId, NodeId, derive
from swarmlet.model.allocation import Allocation
from swarmlet.model.cluster import SchedulerConfiguration
from swarmlet.model.evaluation import Evaluation, EvaluationStatus, PlacementFailure, Trigger
from swarmlet.model.fit import demand_on, hold_devices, shortages
from swarmlet.model.job import Job, TaskGroup
from swarmlet.model.plan import GroupPlacement, IndexRange, Mark, Plan, Replacement, Run, Stop
from swarmlet.model.resources import Quantity
from swarmlet.placement.binpack import Placed, place, place_each
from swarmlet.placement.cluster import Cluster, Fleet
from swarmlet.placement.device_choice import choose, expected
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler.making_way import MakingWay
from swarmlet.scheduler.reconcile import follow_ups_pending, reconcile
from swarmlet.scheduler.request import PlaceRequest, Reconciliation
from swarmlet.state.view import View

#: Placements per plan, so that its entry stays far below 4 MiB and its apply short; the rest follows at once.
PLACEMENTS_MAX = 20_000
#: Allocations of one group that others make way for in one plan; the rest follows when the evaluation goes on.
PREEMPTIONS_MAX = 1_000


def schedule(
    view: View,
    evaluation: Evaluation,
    now_ns: int,
    fleet: Fleet | None = None,
    changed: Iterable[NodeId] = (),
) -> Plan:
    """What should be done about `evaluation`, from the state in `view`. `now_ns` is wall time.

    `fleet` keeps the cluster from one call to the next; `changed`: the nodes of which anything changed since.
    The plan ends the evaluation as complete; what could not be placed waits in a blocked evaluation that the
    plan creates, what must wait for its time in a delayed one. The same inputs give the same plan.
    """
    difference = reconcile(view, evaluation, now_ns)
    job = view.job(evaluation.namespace, evaluation.job_id)
    is_cut = _cut(job, difference)
    settings = view.settings()
    configuration = settings.scheduler if settings is not None else SchedulerConfiguration()
    work = _Placement(view, difference, configuration)
    if fleet is not None:
        work.cluster = fleet.cluster(view, changed)
    if job is not None and difference.requests:
        work.place_job(job)
    evaluations: list[Evaluation] = []
    marks = list(difference.marks)
    if difference.look_again_ns is not None:
        delayed = _follow_up(view, evaluation, difference.look_again_ns, now_ns)
        if isinstance(delayed, Evaluation):
            evaluations.append(delayed)
        follow_up_id = delayed.id if isinstance(delayed, Evaluation) else delayed
        marks += [
            Mark(allocation_id=each.id, followup_evaluation=follow_up_id)
            for each in difference.delayed
            if each.followup_evaluation != follow_up_id
        ]
    if is_cut:
        evaluations.append(_successor(evaluation, "rest", Trigger.QUEUED_ALLOCS, now_ns))
    is_new = difference.deployment is not None and view.deployment(difference.deployment.id) is None
    if work.queued:
        evaluations.append(_blocked(view, evaluation, work, now_ns))
    evaluations += [_preempted(evaluation, owner, now_ns) for owner in work.owners]
    return Plan(
        evaluation_id=evaluation.id,
        attempt=evaluation.attempt,
        snapshot_index=view.index,
        job_version=job.version if job is not None else 0,
        placements=tuple(work.placements),
        stops=tuple(difference.stops),
        marks=tuple(marks),
        updates=tuple(difference.updates),
        deployment=difference.deployment if is_new or work.placements or difference.updates else None,
        deployment_updates=tuple(difference.deployment_updates),
        failed_groups=work.failures,
        queued=work.queued,
        waiting=difference.waiting,
        evaluations=tuple(evaluations),
        is_gang=job is not None and job.is_gang,
    )


def _cut(job: Job | None, difference: Reconciliation) -> bool:
    """Keep what one plan may place; whether anything was left out. What is all or nothing stays whole."""
    room = PLACEMENTS_MAX
    is_cut = False
    if job is not None and job.is_gang:
        return False
    for group, requests in difference.requests.items():
        found = job.group(group) if job is not None else None
        is_whole = found is not None and found.is_gang
        if is_whole and (len(requests) <= room or room == PLACEMENTS_MAX):
            room = max(0, room - len(requests))
            continue
        is_cut = is_cut or len(requests) > room
        difference.requests[group] = [] if is_whole else requests[:room]
        room -= len(difference.requests[group])
    return is_cut


@dataclass
class _Placement:
    """Finds nodes for the requests of one job, group by group."""

    view: View
    difference: Reconciliation
    configuration: SchedulerConfiguration
    placements: list[GroupPlacement] = field(default_factory=list)
    failures: dict[str, PlacementFailure] = field(default_factory=dict)
    queued: dict[str, int] = field(default_factory=dict)
    #: What was asked for by groups that are not whole: decides which node classes can end the wait.
    unmet: list[Ask] = field(default_factory=list)
    is_holding: bool = False
    cluster: Cluster | None = None
    #: Jobs that lose allocations to this one.
    owners: list[Job] = field(default_factory=list)
    _way: MakingWay | None = None

    def place_job(self, job: Job) -> None:
        """Place every group's requests on one scratch copy of the cluster."""
        cluster = self.cluster or Cluster.of(self.view)
        cluster.count_job(
            job.namespace,
            job.id,
            self.view.allocations_of_job(job.namespace, job.id),
            self.difference.leaving,
        )
        if any(group.device_requests() for group in job.groups):
            cluster.device_mix = expected(self.view.jobs(), cluster.nodes)
        mark = len(cluster.journal)
        for group in job.groups:
            for requests in _alike(self.difference.requests.get(group.name, [])):
                self._place_version(cluster, job, group, requests)
        if job.is_gang and self.failures and self.placements:
            cluster.undo(mark)
            for placement in self.placements:
                count = sum(run.count for run in placement.runs)
                self._hold_together(placement.group, count, "another group of the job does not fit")
            self.placements.clear()

    def _hold_together(self, group: str, count: int, why: str) -> None:
        """`count` of the group would fit, and are not placed."""
        self.queued[group] = self.queued.get(group, 0) + count
        self.difference.wait(group, f"{count} of {group} would fit, but all are placed at once: {why}")

    def _place_version(
        self, cluster: Cluster, job: Job, group: TaskGroup, requests: list[PlaceRequest]
    ) -> None:
        """`requests` are of one version: the job's, or an older one that goes on beside its canaries."""
        version = requests[0].version
        older = self.view.job_version(job.namespace, job.id, version) if version is not None else None
        found = older.group(group.name) if older is not None else None
        if older is not None and found is not None:
            self._place_group(cluster, older, found, requests)
        else:
            self._place_group(cluster, job, group, requests)

    def _place_group(
        self, cluster: Cluster, job: Job, group: TaskGroup, requests: list[PlaceRequest]
    ) -> None:
        first = requests[0]
        ask = Ask.of(job, group, self.configuration.algorithm_of(job))
        mark = len(cluster.journal)
        chosen = _Chosen(group.name, cluster)
        missed: list[PlaceRequest] = []
        failure: PlacementFailure | None = None
        held = [each for each in requests if each.hold]
        if job.type.is_per_node:
            nodes = [each.only for each in requests if each.only is not None]
            slots, failure = place_each(cluster, ask, nodes)
            for request in requests:
                slot = cluster.slots.get(request.only) if request.only is not None else None
                if slot is not None and slot in slots:
                    chosen.add([request], ((slot, 1),), cluster.kinds_taken(slot) if ask.devices else ())
                else:
                    missed.append(request)
            requests = []
        is_own = bool(ask.own_volumes)
        particular = [each for each in requests if not each.hold and (is_own or each.is_particular)]
        alike = [each for each in requests if not each.hold and not is_own and not each.is_particular]
        for request in particular:
            placed = _place_particular(cluster, ask.at(request.index), request)
            chosen.add([request], placed.runs, placed.devices)
            if request.prefer is not None:
                continue
            if placed.failure is not None:
                failure = failure or placed.failure
                missed.append(request)
        if alike:
            placed = place(cluster, ask, len(alike))
            chosen.add(alike[: placed.count], placed.runs, placed.devices)
            failure = failure or placed.failure
            missed += alike[placed.count :]
        if group.is_gang and missed and chosen.runs:
            cluster.undo(mark)
            count = sum(run.count for run in chosen.runs)
            self._hold_together(group.name, count, f"{len(missed)} do not fit")
            chosen = _Chosen(group.name, cluster)
        if chosen.runs:
            placement = chosen.placement(is_gang=group.is_gang)
            self.placements.append(
                msgspec.structs.replace(placement, is_canary=first.is_canary, job_version=first.version)
            )
        if missed and failure is not None:
            self.failures[group.name] = msgspec.structs.replace(failure, coalesced_failures=len(missed) - 1)
            self.unmet.append(ask)
            still_missed = self._make_way(cluster, ask, missed)
            if job.type in self.configuration.preempting and not (group.is_gang or job.is_gang):
                self._preempt(cluster, job, ask, still_missed)
        self.is_holding = self.is_holding or bool(held)
        if missed or held:
            self.queued[group.name] = self.queued.get(group.name, 0) + len(missed) + len(held)

    def _preempt(self, cluster: Cluster, job: Job, ask: Ask, missed: list[PlaceRequest]) -> None:
        """End what is less important; the blocked evaluation goes on once it has ended."""
        for request in missed[:PREEMPTIONS_MAX]:
            if request.only is not None and not job.type.is_per_node:
                continue
            if self._way is None:
                self._way = MakingWay(self.view, cluster, job)
            stops = self._way.make(ask.at(request.index), request.only)
            if stops is None:
                if request.only is None:
                    return
                continue
            self.difference.stops.extend(stops)
            self.owners += [each for each in self._way.owners(stops) if each not in self.owners]

    def _make_way(self, cluster: Cluster, ask: Ask, missed: list[PlaceRequest]) -> list[PlaceRequest]:
        """Where only the old allocation is in the new one's way, stop it first; the blocked evaluation goes on.

        Returns those that this does not help.
        """
        rest: list[PlaceRequest] = []
        for request in missed:
            old = request.replaces
            if old is None:
                rest.append(request)
                continue
            if old.id in {stop.allocation_id for stop in self.difference.stops}:
                continue
            if _would_fit_without(cluster, ask.at(request.index), old):
                self.difference.stops.append(
                    Stop(
                        allocation_id=old.id,
                        description="stopped first: the new version needs its room or port",
                    )
                )
            else:
                rest.append(request)
        return rest


@dataclass
class _Chosen:
    """Collects which indexes go where, as ranges and runs."""

    group: str
    cluster: Cluster
    ranges: list[IndexRange] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    replacements: list[Replacement] = field(default_factory=list)

    def add(
        self,
        requests: list[PlaceRequest],
        runs: tuple[tuple[int, int], ...],
        devices: tuple[tuple[str, ...], ...] = (),
    ) -> None:
        """`runs` cover `requests` in order; `devices`: the kinds of devices of each run."""
        if not runs:
            return
        for request in requests:
            last = self.ranges[-1] if self.ranges else None
            if last is not None and last.start + last.count == request.index:
                self.ranges[-1] = IndexRange(start=last.start, count=last.count + 1)
            else:
                self.ranges.append(IndexRange(start=request.index))
            if request.previous is not None:
                self.replacements.append(
                    Replacement(
                        group=self.group,
                        index=request.index,
                        previous=request.previous.id,
                        reschedule_events=request.reschedule_events,
                    )
                )
        kinds = devices or ((),) * len(runs)
        self.runs += [
            Run(group=self.group, node_id=self.cluster.nodes[slot].id, count=count, devices=each)
            for (slot, count), each in zip(runs, kinds, strict=True)
        ]

    def placement(self, *, is_gang: bool = False) -> GroupPlacement:
        """In the form that goes through the log."""
        return GroupPlacement(
            group=self.group,
            ranges=tuple(self.ranges),
            runs=tuple(self.runs),
            replacements=tuple(self.replacements),
            is_gang=is_gang,
        )


def _alike(requests: list[PlaceRequest]) -> list[list[PlaceRequest]]:
    """Those of one version together, canaries last: what goes on comes before what is tried."""
    if not any(each.is_canary or each.version is not None for each in requests):
        return [requests] if requests else []
    found: dict[tuple[bool, int], list[PlaceRequest]] = {}
    for each in requests:
        key = each.is_canary, -1 if each.version is None else each.version
        found.setdefault(key, []).append(each)
    return [found[key] for key in sorted(found)]


def _place_particular(cluster: Cluster, ask: Ask, request: PlaceRequest) -> Placed:
    """One allocation that differs from the others of its group in where it may go."""
    if request.home is not None:
        placed = place(cluster, ask, 1, only=request.home)
        if placed.count:
            return placed
    avoid: frozenset[NodeId] = frozenset({request.avoid}) if request.avoid else frozenset()
    return place(cluster, ask, 1, avoid=avoid, only=request.only or request.prefer)


def _would_fit_without(cluster: Cluster, ask: Ask, old: Allocation) -> bool:
    """Whether the old allocation's node could take the new one once the old one has ended."""
    slot = cluster.slots.get(old.node_id)
    if slot is None or ask.refusal(cluster.nodes[slot]):
        return False
    node = cluster.nodes[slot]
    free = Quantity(
        cpu=cluster.free_cpu[slot], memory=cluster.free_memory[slot], disk=cluster.free_disk[slot]
    )
    used = node.available().minus(free).minus(old.resources)
    if shortages(node, used, demand_on(node, ask.demand, ask.cores)):
        return False
    back = sum(core in node.cores for held in old.cores for core in held.ids)
    if ask.cores > cluster.free_cores[slot] + back:
        return False
    others = cluster.ports[slot] - {port.value for port in old.ports}
    if any(port in others for port in ask.static_ports):
        return False
    devices = dict(cluster.devices[slot])
    hold_devices(devices, old.devices, -1)
    return not ask.devices or not isinstance(choose(ask.devices, node, devices), str)


def _follow_up(view: View, evaluation: Evaluation, at_ns: int, now_ns: int) -> Evaluation | EvaluationId:
    """A delayed evaluation of the same job; an id where one that is soon enough exists already."""
    for other in follow_ups_pending(view, evaluation, now_ns):
        if other.wait_until_ns <= at_ns:
            return other.id
    return _successor(evaluation, "follow-up", Trigger.ALLOC_FAILURE, now_ns, wait_until_ns=at_ns)


def _blocked(view: View, evaluation: Evaluation, work: _Placement, now_ns: int) -> Evaluation:
    """Waits for capacity, and remembers which classes of nodes can never help."""
    classes: dict[str, bool] = {}
    for node in view.nodes():
        if node.computed_class:
            may_help = work.is_holding or any(
                not ask.is_class_bound or not ask.never_here(node) for ask in work.unmet
            )
            classes[node.computed_class] = classes.get(node.computed_class, False) or may_help
    blocked = _successor(evaluation, "blocked", Trigger.QUEUED_ALLOCS, now_ns)
    return msgspec.structs.replace(
        blocked,
        status=EvaluationStatus.BLOCKED,
        status_description="waits for capacity",
        failed_groups=work.failures,
        queued=work.queued,
        eligible_classes=tuple(sorted(name for name, may_help in classes.items() if may_help)),
        ineligible_classes=tuple(sorted(name for name, may_help in classes.items() if not may_help)),
        snapshot_index=view.index,
    )


def _preempted(evaluation: Evaluation, owner: Job, now_ns: int) -> Evaluation:
    """For a job that loses allocations: it finds them another place, or waits."""
    return Evaluation(
        id=EvaluationId(derive(evaluation.id, evaluation.attempt, "preempted", owner.namespace, owner.id)),
        namespace=owner.namespace,
        job_id=owner.id,
        type=owner.type,
        priority=owner.priority,
        trigger=Trigger.PREEMPTION,
        job_modify_index=owner.job_modify_index,
        previous_evaluation=evaluation.id,
        create_time_ns=now_ns,
        modify_time_ns=now_ns,
    )


def _successor(
    evaluation: Evaluation, what: str, trigger: Trigger, now_ns: int, *, wait_until_ns: int = 0
) -> Evaluation:
    return Evaluation(
        id=EvaluationId(derive(evaluation.id, evaluation.attempt, what)),
        namespace=evaluation.namespace,
        job_id=evaluation.job_id,
        type=evaluation.type,
        priority=evaluation.priority,
        trigger=trigger,
        job_modify_index=evaluation.job_modify_index,
        wait_until_ns=wait_until_ns,
        previous_evaluation=evaluation.id,
        create_time_ns=now_ns,
        modify_time_ns=now_ns,
    )
