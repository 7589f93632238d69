"""Moves deployments on: successful, failed, unhealthy, reverted. Pure: the state and the time come in, commands go out.

The deadlines are in the state, so a new leader goes on where the old one stopped. What this object remembers
only spares the log repeated commands.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass

from swarmlet.ids import AllocationId, DeploymentId
from swarmlet.model.allocation import Allocation, ClientStatus
from swarmlet.model.deployment import Deployment, DeploymentGroup, DeploymentStatus
from swarmlet.model.job import HealthCheckKind, Job, UpdateStrategy
from swarmlet.scheduler.canary import ENDED_BY_ITSELF
from swarmlet.scheduler.group import joined_in_place, update_strategy
from swarmlet.scheduler.health import is_running_well, running_since_ns
from swarmlet.scheduler.rollback import revert_target
from swarmlet.state.command import (
    Body,
    EvaluateJob,
    PromoteDeployment,
    SetAllocationHealth,
    UpdateDeployment,
)
from swarmlet.state.view import View, job_scope

#: Deployments that changed and are looked at in one look: some milliseconds where their jobs are small or in blocks.
LOOK_MAX = 100
#: And in one part of it: one or two milliseconds.
PART_MAX = 32
#: The same where each allocation is looked at: some ten milliseconds, or one deployment.
LOOK_ALLOCATIONS_MAX = 2_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Commands to propose now, and when (wall time ns) to look again without being told of a change."""

    commands: tuple[Body, ...] = ()
    wake_ns: int | None = None


class DeploymentWatch:
    """Watches all active deployments. Call `look` when deployments or their allocations change, and at its wake time."""

    def __init__(self) -> None:
        """Nothing seen yet: the first look evaluates each active deployment's job once."""
        self._progress: dict[DeploymentId, tuple[AllocationId, ...] | None] = {}
        #: Job's scope -> a deployment of which nothing is to be done before then (wall ns) unless something changes.
        self._quiet: dict[str, tuple[Deployment, int]] = {}
        #: Scopes of which something changed since the look began that is under way: it sees what was before.
        self._changed: dict[str, None] = {}
        #: Which of the active deployments is the first one to look at.
        self._first = 0

    def on_change(self, scopes: Iterable[str]) -> None:
        """Something of these scopes changed, beside the deployment's own row."""
        for scope in scopes:
            self._quiet.pop(scope, None)
            self._changed[scope] = None

    def look(self, view: View, now_ns: int) -> Outcome:
        """What is to be done about every active deployment."""
        looking = self.looking(view, now_ns)
        while True:
            try:
                next(looking)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome

    def looking(self, view: View, now_ns: int) -> Generator[None, None, Outcome]:
        """As `look`, in parts: changes may come between them."""
        self._changed.clear()
        commands: list[Body] = []
        wakes: list[int] = []
        progress: dict[DeploymentId, tuple[AllocationId, ...] | None] = {}
        quiet, self._quiet = self._quiet, {}
        deployments = list(view.active_deployments())
        first = self._first if self._first < len(deployments) else 0
        self._first, looked_at, listed = 0, 0, 0
        for place in (*range(first, len(deployments)), *range(first)):
            deployment = deployments[place]
            scope = job_scope(deployment.namespace, deployment.job_id)
            known = quiet.get(scope)
            if (
                known is not None
                and known[0] is deployment
                and now_ns < known[1]
                and scope not in self._changed
            ):
                self._quiet[scope] = known
                wakes.append(known[1])
                continue
            if looked_at >= LOOK_MAX or listed >= LOOK_ALLOCATIONS_MAX:
                # The others have their turn right after.
                self._first = self._first or place
                wakes.append(now_ns)
                if deployment.id in self._progress:
                    progress[deployment.id] = self._progress[deployment.id]
                continue
            job = view.job_version(deployment.namespace, deployment.job_id, deployment.job_version)
            if job is None or deployment.status is not DeploymentStatus.RUNNING:
                continue
            looked_at += 1
            if looked_at % PART_MAX == 0:
                yield
            watched: _Watched | _WatchedBlocks | None = _watched_blocks(view, deployment, job, now_ns)
            if watched is None:
                watched = _Watched(view, deployment, job, now_ns)
                listed += len(watched.allocations)
            commands += watched.look()
            wakes += watched.wakes
            progress[deployment.id] = watched.healthy_ids
            if isinstance(watched, _WatchedBlocks) and not watched.is_over and scope not in self._changed:
                self._quiet[scope] = (deployment, min(watched.wakes))
            if watched.is_over:
                continue
            if watched.healthy_ids is not None and self._progress.get(deployment.id) != watched.healthy_ids:
                commands.append(EvaluateJob(namespace=job.namespace, job_id=job.id))
        self._progress = progress
        return Outcome(tuple(commands), min(wakes, default=None))


class _Watched:
    """One look at one deployment."""

    def __init__(self, view: View, deployment: Deployment, job: Job, now_ns: int) -> None:
        self.view, self.deployment, self.job, self.now_ns = view, deployment, job, now_ns
        self.wakes: list[int] = []
        self.is_over = False
        self.allocations = [
            each
            for each in view.allocations_of_job(deployment.namespace, deployment.job_id)
            if each.deployment_id == deployment.id
        ]
        self.canaries = [each for each in self.allocations if each.is_canary]
        self.healthy_ids = tuple(sorted(each.id for each in self.allocations if _counts(each)))

    def look(self) -> list[Body]:
        """Verdicts first, then the end of the deployment if it has come."""
        unhealthy = [each for each in self.allocations if self._has_failed(each)]
        late = [each for each in self.allocations if self._is_late(each)]
        proven = [each for each in self.allocations if self._is_proven(each)]
        commands: list[Body] = []
        if late or proven:
            commands.append(
                SetAllocationHealth(
                    deployment_id=self.deployment.id,
                    healthy=tuple(each.id for each in proven),
                    unhealthy=tuple(each.id for each in late),
                )
            )
        revert = revert_target(self.view, self.deployment, self.job)
        # A version is tried on canaries to see whether they are good: the first that is not ends it.
        canary = next((each for each in self.canaries if each in late or self._is_bad(each)), None)
        if canary is not None:
            return [*commands, *self._fail(f"canary {canary.name} is unhealthy", revert)]
        bad = next(iter(late + unhealthy), None)
        if bad is not None and revert is not None:
            # Without a version to go back to, replacements are tried until the progress deadline.
            return [*commands, *self._fail(f"allocation {bad.name} is unhealthy", revert)]
        groups = self.deployment.groups
        if all(
            self._healthy(name) >= group.desired_total and not group.is_trying
            for name, group in groups.items()
        ):
            self.is_over = True
            return [*commands, _success(self.deployment)]
        commands += self._check_deadlines(revert)
        if (
            not self.is_over
            and self.deployment.is_auto_promoted()
            and all(self._is_promotable(name) for name, group in groups.items() if group.is_trying)
        ):
            commands.append(PromoteDeployment(deployment_id=self.deployment.id))
        return commands

    def _is_promotable(self, group: str) -> bool:
        """Whether a group waits for nothing but its promotion."""
        healthy = sum(1 for each in self.canaries if each.group == group and each.runs_healthily())
        return healthy >= self.deployment.groups[group].desired_canaries

    def _is_bad(self, canary: Allocation) -> bool:
        """Found unhealthy, or it failed or ended, be it after it was found healthy."""
        return self._has_failed(canary) or (
            canary.client_status in ENDED_BY_ITSELF and not canary.is_server_terminal()
        )

    def _healthy(self, group: str) -> int:
        return sum(1 for each in self.allocations if each.group == group and _counts(each))

    def _strategy(self, group_name: str) -> UpdateStrategy:
        return _strategy_of(self.job, group_name)

    def _has_failed(self, allocation: Allocation) -> bool:
        """Its node gave a bad verdict. An allocation that only ended is replaced within the deadlines instead."""
        return (
            not allocation.is_server_terminal()
            and allocation.health is not None
            and not allocation.health.is_healthy
        )

    def _is_late(self, allocation: Allocation) -> bool:
        """Started, and without a verdict beyond its healthy deadline (which does not count the image pull)."""
        if allocation.is_terminal() or allocation.health is not None:
            return False
        if joined_in_place(allocation, self.deployment):
            return False
        strategy = self._strategy(allocation.group)
        if strategy.health_check is HealthCheckKind.MANUAL:
            return False
        if allocation.client_status is not ClientStatus.RUNNING:
            return False
        deadline = running_since_ns(allocation) + strategy.healthy_deadline_ns
        if deadline > self.now_ns:
            self.wakes.append(deadline)
            return False
        return True

    def _is_proven(self, allocation: Allocation) -> bool:
        """Joined without a restart, so that its node has nothing new to judge: it has run long enough."""
        if allocation.is_terminal() or not joined_in_place(allocation, self.deployment):
            return False
        strategy = self._strategy(allocation.group)
        if is_running_well(allocation, strategy.min_healthy_ns, self.now_ns):
            return True
        if allocation.client_status is ClientStatus.RUNNING:
            self.wakes.append(running_since_ns(allocation) + strategy.min_healthy_ns)
        return False

    def _check_deadlines(self, revert: int | None) -> list[Body]:
        """Each group must have something newly healthy by its deadline, which `apply` moves on each time."""
        for name, group in self.deployment.groups.items():
            if not group.require_progress_by_ns or self._healthy(name) >= group.desired_total:
                continue
            if group.is_trying and self._is_promotable(name):
                continue  # it waits for somebody
            deadline = self._deadline(name, group)
            if deadline <= self.now_ns:
                return self._fail(f"group {name} made no progress before its deadline", revert)
            self.wakes.append(deadline)
        return []

    def _deadline(self, name: str, group: DeploymentGroup) -> int:
        """When the next one must be healthy. Canaries may have waited for long: one that was lost has all the time again."""
        lost = [
            each.modify_time_ns + group.progress_deadline_ns
            for each in self.canaries
            if each.group == name and each.health is not None and not each.runs_healthily()
        ]
        return max([group.require_progress_by_ns, *lost])

    def _fail(self, why: str, revert: int | None) -> list[Body]:
        self.is_over = True
        if revert is not None:
            why = f"{why}; reverting to version {revert}"
        return [
            UpdateDeployment(
                deployment_id=self.deployment.id,
                status=DeploymentStatus.FAILED,
                description=f"Failed: {why}",
                revert_to_version=revert,
            )
        ]


class _WatchedBlocks:
    """A deployment all of whose allocations are as they were placed, or run: the state's own counts say how it is."""

    #: Nothing of an older version waits for these to be healthy.
    healthy_ids = None

    def __init__(self, deployment: Deployment, wakes: list[int]) -> None:
        self.deployment, self.wakes = deployment, wakes
        self.is_over = all(group.healthy >= group.desired_total for group in deployment.groups.values())

    def look(self) -> list[Body]:
        """Its end, if it has come."""
        return [_success(self.deployment)] if self.is_over else []


def _watched_blocks(view: View, deployment: Deployment, job: Job, now_ns: int) -> _WatchedBlocks | None:
    """The deployment seen by blocks; None where single allocations have to be looked at."""
    templates = view.unbroken_blocks(deployment.namespace, deployment.job_id)
    if not templates or any(each.deployment_id != deployment.id for each in templates):
        return None
    if any(group.is_trying for group in deployment.groups.values()):
        return None
    deadlines = [
        # None of them can have started before it was placed.
        each.create_time_ns + _strategy_of(job, each.group).healthy_deadline_ns
        for each in templates
    ]
    deadlines += [
        group.require_progress_by_ns
        for group in deployment.groups.values()
        if group.require_progress_by_ns and group.healthy < group.desired_total
    ]
    watched = _WatchedBlocks(deployment, [min(deadlines)])
    return watched if watched.is_over or min(deadlines) > now_ns else None


def _strategy_of(job: Job, group_name: str) -> UpdateStrategy:
    group = job.group(group_name)
    found = update_strategy(job, group) if group is not None else None
    return found or UpdateStrategy()


def _success(deployment: Deployment) -> UpdateDeployment:
    """Applying this also marks the job's version stable."""
    return UpdateDeployment(
        deployment_id=deployment.id,
        status=DeploymentStatus.SUCCESSFUL,
        description="Deployment completed successfully",
    )


def _counts(allocation: Allocation) -> bool:
    """Whether it counts as healthy for its deployment."""
    return allocation.health is not None and allocation.health.is_healthy and not allocation.is_terminal()
