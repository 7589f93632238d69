"""One group of a job, looked at index by index: what to place, stop, update, migrate, and what to leave alone. Pure.

Of the allocations that hold an index at most one stays, once it is up; until then the one before it stays too (start
first). Why an index is left alone is said in `waiting`.
"""

from __future__ import annotations

from swarmlet.ids import NodeId
from swarmlet.model.allocation import Allocation, ClientStatus, RescheduleEvent
from swarmlet.model.deployment import Deployment, DeploymentStatus
from swarmlet.model.job import SECOND_NS, Job, JobType, TaskGroup, UpdateStrategy
from swarmlet.model.node import SILENT, Node, NodeStatus
from swarmlet.model.plan import InPlaceUpdate
from swarmlet.placement.feasibility import Ask
from swarmlet.scheduler import reschedule
from swarmlet.scheduler.definition import Difference, difference
from swarmlet.scheduler.health import all_run_since_ns, is_running_well
from swarmlet.scheduler.request import PlaceRequest, Reconciliation
from swarmlet.state.view import View

#: How long gossip gives an agent that is down (design, "What counts as dead"); for the sentence only.
AGENT_GRACE_NS = 30 * SECOND_NS
#: A node that stops its tasks by its own clock gets this much more, and a hundredth of the time.
STOP_MARGIN_NS = 5 * SECOND_NS
#: A returned node that has not reported yet, or an original whose replacement is not up: look again after this.
LOOK_AGAIN_NS = 2 * SECOND_NS
#: Where the original's node is still gone, its replacement is looked at this often until it is up.
LOST_LOOK_AGAIN_NS = 30 * SECOND_NS


def update_strategy(job: Job, group: TaskGroup) -> UpdateStrategy | None:
    """How versions of a group are rolled out; None: all at once (batch, or `max_parallel = 0`)."""
    if job.type is not JobType.SERVICE:
        return None
    strategy = group.update or job.update or UpdateStrategy()
    return strategy if strategy.max_parallel > 0 else None


def lost_if_gone(view: View, allocation: Allocation) -> ClientStatus | None:
    """LOST where nobody is left to say how it ended."""
    node = view.node(allocation.node_id)
    if node is None or node.status in {NodeStatus.DOWN, NodeStatus.LEFT}:
        return ClientStatus.LOST
    return None


class Group:
    """One group of the job, looked at index by index."""

    def __init__(
        self,
        view: View,
        job: Job,
        group: TaskGroup,
        deployment: Deployment | None,
        now_ns: int,
        result: Reconciliation,
    ) -> None:
        self.view, self.job, self.group = view, job, group
        self.deployment, self.now_ns, self.result = deployment, now_ns, result
        self.ask = Ask.of(job, group)
        self.strategy = update_strategy(job, group)
        self.requests: list[PlaceRequest] = []
        #: Allocations of older versions, to be replaced as the rollout allows, with what failed meanwhile.
        self.outdated: list[tuple[Allocation, Allocation | None]] = []
        #: Allocations of the running deployment that are not healthy yet, and those that wait to be tried again.
        self.unhealthy = 0
        #: Allocations that go on under the new version.
        self.in_place = 0
        #: So many of the version are tried beside older ones, which stay meanwhile.
        self.canaries = 0
        self._differences: dict[int, Difference] = {}

    @property
    def changes(self) -> int:
        """How many new allocations the version needs; those updated in place join its deployment as well."""
        return len(self.requests) + len(self.outdated)

    def look_at_all(self, allocations: list[Allocation]) -> None:
        """Sort every index into: fine, to place, to replace, to stop, to leave alone."""
        if not allocations and not self.group.is_bound_to_its_node():
            self.requests = [PlaceRequest(index) for index in range(self.group.count)]
            return
        by_index: dict[int, list[Allocation]] = {}
        for allocation in allocations:
            by_index.setdefault(allocation.index, []).append(allocation)
            if self._is_unhealthy_of_deployment(allocation):
                self.unhealthy += 1
        for index in range(self.group.count):
            self.look_at(index, by_index.pop(index, []))
        for index in sorted(by_index):
            self.stop_all(by_index[index], f"count is now {self.group.count}")

    def stop_all(self, allocations: list[Allocation], why: str) -> None:
        """Stop what is still wanted of them."""
        for allocation in allocations:
            if not allocation.is_terminal():
                self.result.stop(allocation, why, lost_if_gone(self.view, allocation))

    def _request(self, request: PlaceRequest) -> None:
        self.requests.append(request)

    def roll_out(self, deployment: Deployment | None) -> None:
        """Replace outdated allocations, as many at a time as the strategy allows; hand over the requests."""
        failed = self.deployment is not None and self.deployment.status is DeploymentStatus.FAILED
        paused = deployment is not None and deployment.status is DeploymentStatus.PAUSED
        if self.strategy is not None and (failed or paused):
            self._hold_back()
        elif self.strategy is None and self.job.type is JobType.SERVICE:
            for old, failed_one in self.outdated:
                self._replace(old, failed_one)
                self.result.look_again(self.now_ns + self._min_healthy)
        elif self.strategy is None:
            for old, _ in self.outdated:
                self.result.stop(old, f"replaced by version {self.job.version}")
                self._request_missing(old.index, old, [old])
        else:
            room = self.strategy.max_parallel - self.unhealthy - len(self.requests)
            order = sorted(
                self.outdated,
                key=lambda pair: (
                    pair[1] is None,
                    is_running_well(pair[0], self._min_healthy, self.now_ns),
                    pair[0].index,
                ),
            )
            for old, failed_one in order[: max(room, 0)]:
                self._replace(old, failed_one)
        self.result.leaving.update(old.id for old, _ in self.outdated)
        if self.requests:
            self.result.requests[self.group.name] = self.requests

    @property
    def _min_healthy(self) -> int:
        return (self.strategy or UpdateStrategy()).min_healthy_ns

    def _name(self, index: int) -> str:
        return f"{self.group.name}[{index}]"

    def _is_unhealthy_of_deployment(self, allocation: Allocation) -> bool:
        if self.deployment is None or allocation.deployment_id != self.deployment.id:
            return False
        return not allocation.is_terminal() and not self._is_up(allocation)

    def difference(self, allocation: Allocation) -> Difference:
        """What an allocation of whatever version needs to become one of this."""
        version = allocation.job_version
        if version not in self._differences:
            old = self.view.job_version(self.job.namespace, self.job.id, version)
            self._differences[version] = difference(old, self.job, self.group.name)
        found = self._differences[version]
        if found is Difference.IN_PLACE:
            node = self.view.node(allocation.node_id)
            if node is not None and self.ask.never_here(node):
                return Difference.DESTRUCTIVE
        return found

    def _is_up(self, allocation: Allocation) -> bool:
        """Good enough for the one before it to go: healthy where health is asked for, else running well."""
        node = self.view.node(allocation.node_id)
        if node is None or node.status is not NodeStatus.READY:
            return False
        active = self.deployment if self.deployment is not None and self.deployment.is_active() else None
        if (
            active is not None
            and allocation.deployment_id == active.id
            and not joined_in_place(allocation, active)
        ):
            return allocation.health is not None and allocation.health.is_healthy
        return is_running_well(allocation, self._min_healthy, self.now_ns)

    def look_at(self, index: int, everything: list[Allocation]) -> None:
        """Decide about one index; `everything`: the allocations that have or had it."""
        wanted = [each for each in everything if not each.is_server_terminal()]
        live: list[Allocation] = []
        lost: list[Allocation] = []
        held = False
        for allocation in wanted:
            if allocation.is_client_terminal():
                continue
            node = self.view.node(allocation.node_id)
            if node is None or node.status is NodeStatus.LEFT:
                self.result.stop(allocation, "its node has left the cluster", ClientStatus.LOST)
                lost.append(allocation)
            elif node.status is NodeStatus.DOWN:
                if self._waits_for(allocation, node):
                    held = True
                else:
                    lost.append(allocation)
            else:
                live.append(allocation)
                if node.status is NodeStatus.DISCONNECTED:
                    self._say_disconnected(allocation, node)
        current = [each for each in live if self.difference(each) is not Difference.DESTRUCTIVE]
        outdated = [each for each in live if self.difference(each) is Difference.DESTRUCTIVE]
        keeper = self._settle(current)
        if keeper is not None:
            self._keep(keeper, outdated, lost)
        elif outdated:
            self._outdate(outdated, wanted, lost)
        elif not held:
            self._fill(index, everything, wanted, lost)

    def _say_disconnected(self, allocation: Allocation, node: Node) -> None:
        if node.status_description == SILENT:
            self.result.wait(
                self.group.name, f"{self._name(allocation.index)} stays on node {node.name}: {SILENT}"
            )
            return
        left = max(node.status_updated_at_ns + AGENT_GRACE_NS - self.now_ns, 0)
        self.result.wait(
            self.group.name,
            f"{self._name(allocation.index)} stays on node {node.name}, whose agent is down"
            f" ({_seconds(left)} s until it counts as dead)",
        )

    def _waits_for(self, allocation: Allocation, node: Node) -> bool:
        """Whether an allocation of a silent node is left alone, for now or until the node returns."""
        name, rules = self._name(allocation.index), self.group.disconnect
        if self.group.is_bound_to_its_node():
            self.result.wait(self.group.name, f"{name} waits for node {node.name} (its data is there)")
        elif not rules.replace:
            self.result.wait(
                self.group.name, f"{name} waits for node {node.name} (disconnect: replace = false)"
            )
        else:
            stopping = rules.stop_on_client_after_ns
            if stopping:
                kill = max((task.kill_timeout_ns for task in self.group.tasks), default=0)
                stopping += stopping // 100 + STOP_MARGIN_NS + kill
            patience = max(stopping, rules.lost_after_ns)
            due = node.status_updated_at_ns + patience
            if not patience or due <= self.now_ns:
                return False
            self.result.look_again(due)
            self.result.wait(
                self.group.name,
                f"{name} waits {_seconds(due - self.now_ns)} s more for node {node.name} before it is replaced",
            )
        self.result.mark_unknown(allocation, node)
        return True

    def _settle(self, current: list[Allocation]) -> Allocation | None:
        """Of several allocations that could hold the index, which one does; the others stop as soon as they may."""
        ordered = sorted(current, key=lambda each: (each.create_index, each.create_time_ns))
        keeper: Allocation | None = None
        for allocation in ordered:
            keeper = allocation if keeper is None else self._settle_pair(keeper, allocation)
        return keeper

    def _settle_pair(self, original: Allocation, replacement: Allocation) -> Allocation:
        if original.transition.migrate != replacement.transition.migrate:
            if original.transition.migrate:
                leaving, staying = original, replacement
            else:
                leaving, staying = replacement, original
            if self._is_up(staying):
                self.result.stop(leaving, "moved to another node")
            else:
                self.result.look_again(self.now_ns + self._min_healthy)
            return staying
        if self._is_up(replacement):
            self.result.stop(original, "its replacement is healthy")
            return replacement
        node = self.view.node(original.node_id)
        is_back = node is not None and node.status is NodeStatus.READY
        if is_back and original.client_status is ClientStatus.RUNNING:
            original_since, replacement_since = all_run_since_ns(original), all_run_since_ns(replacement)
            if replacement_since is not None and (
                original_since is None or original_since > replacement_since
            ):
                # Its machine was restarted, and its tasks with it: moving back would only interrupt the service.
                self.result.stop(original, "its replacement has run for longer")
                return replacement
            if original_since is not None:
                self.result.stop(replacement, "the original is back")
                return original
        # Its node has not reported yet (or its agent is down): decide when one of the two is known to run.
        self.result.look_again(self.now_ns + LOOK_AGAIN_NS)
        return replacement

    def _keep(self, keeper: Allocation, outdated: list[Allocation], lost: list[Allocation]) -> None:
        self._carry_over(keeper)
        if self._is_up(keeper):
            for old in outdated:
                self.result.stop(old, f"replaced by version {self.job.version}")
        else:
            self.result.leaving.update(old.id for old in outdated)
            if outdated and not self._is_watched(keeper):
                self.result.look_again(self.now_ns + self._min_healthy)
        self._bury(lost, keeper)
        if keeper.transition.migrate:
            self._migrate(keeper)

    def _carry_over(self, keeper: Allocation) -> None:
        """Let it go on under the new version."""
        if keeper.job_version != self.job.version and keeper.id not in self.result.leaving:
            self.result.updates.append(InPlaceUpdate(allocation_id=keeper.id, job_version=self.job.version))
            self.in_place += 1

    def _is_watched(self, allocation: Allocation) -> bool:
        """Whether a running deployment looks at the job again once this one is healthy; else time must."""
        active = self.deployment is not None and self.deployment.is_active()
        return active and self.deployment is not None and allocation.deployment_id == self.deployment.id

    def _bury(self, lost: list[Allocation], keeper: Allocation) -> None:
        """Give up originals on silent nodes once their replacement is up; until then they may come back."""
        for original in lost:
            if original.id in self.result.leaving:
                continue
            if self._is_up(keeper):
                self.result.stop(original, "its node is down and its replacement runs", ClientStatus.LOST)
            else:
                self.result.look_again(self.now_ns + LOST_LOOK_AGAIN_NS)

    def _migrate(self, allocation: Allocation) -> None:
        """Asked to move: start first when its node drains, stop first when a user asked."""
        node = self.view.node(allocation.node_id)
        is_draining = node is not None and node.drain is not None
        target = allocation.transition.target
        if target is not None and not is_draining and not self.group.holds_data():
            self._request(PlaceRequest(allocation.index, previous=allocation, prefer=target))
            self.result.leaving.add(allocation.id)
            self.result.look_again(self.now_ns + self._min_healthy)
            return
        if is_draining and not self.group.holds_data() and self.job.type is JobType.SERVICE:
            self._request(PlaceRequest(allocation.index, previous=allocation, avoid=allocation.node_id))
            self.result.leaving.add(allocation.id)
            self.result.look_again(self.now_ns + self._min_healthy)
            return
        self.result.stop(allocation, "its node is draining" if is_draining else "stopped by request")
        self._request_missing(allocation.index, allocation, [allocation])

    def _outdate(self, outdated: list[Allocation], wanted: list[Allocation], lost: list[Allocation]) -> None:
        best = max(
            outdated,
            key=lambda each: (
                is_running_well(each, self._min_healthy, self.now_ns),
                each.client_status is ClientStatus.RUNNING,
                -each.create_index,
            ),
        )
        for old in outdated:
            if old is not best:
                self.result.stop(old, f"replaced by version {self.job.version}")
        self._bury(lost, best)
        failures = [
            each
            for each in wanted
            if each.client_status is ClientStatus.FAILED and each.job_version == self.job.version
        ]
        failed = max(failures, key=lambda each: each.create_index, default=None)
        if failed is not None and not self._is_due(failed):
            self.result.leaving.add(best.id)
            self.unhealthy += 1
            return
        self.outdated.append((best, failed))

    def _is_due(self, failed: Allocation) -> bool:
        """Whether a failed allocation may be tried again now; if later, a follow-up is asked for."""
        if failed.transition.reschedule or failed.transition.migrate:
            return True
        policy = reschedule.policy_of(self.group, self.job.type)
        due = reschedule.next_attempt_ns(failed, policy)
        name = self._name(failed.index)
        if due is None:
            self.result.wait(
                self.group.name,
                f"{name} failed and its {policy.attempts} reschedule attempts are used up",
            )
            return False
        if due <= self.now_ns:
            return True
        self.result.wait(
            self.group.name, f"{name} failed and is tried again in {_seconds(due - self.now_ns)} s"
        )
        self.result.look_again(due)
        self.result.delayed.append(failed)
        return False

    def _fill(
        self,
        index: int,
        everything: list[Allocation],
        wanted: list[Allocation],
        lost: list[Allocation],
    ) -> None:
        """Nothing holds the index: find out what was there last, and whether a new one is due."""
        last = max(
            (each for each in wanted if each.is_client_terminal() or each in lost),
            key=lambda each: (each.create_index, each.create_time_ns),
            default=None,
        )
        for original in lost:
            node = self.view.node(original.node_id)
            if node is not None and original.id not in self.result.leaving:
                self.result.mark_unknown(original, node)
                self.result.leaving.add(original.id)
                self.result.look_again(self.now_ns + LOST_LOOK_AGAIN_NS)
        if last is not None and last.client_status is ClientStatus.COMPLETE:
            is_done = self.job.type is JobType.BATCH
            if is_done and self.difference(last) is not Difference.DESTRUCTIVE:
                return
        is_failed = last is not None and last.client_status is ClientStatus.FAILED
        if last is not None and is_failed and self.difference(last) is not Difference.DESTRUCTIVE:
            if self._is_due(last):
                self._retry(index, last, everything)
            return
        self._request_missing(index, last, everything)

    def _retry(self, index: int, failed: Allocation, everything: list[Allocation]) -> None:
        policy = reschedule.policy_of(self.group, self.job.type)
        events = reschedule.successor_history(failed, policy, self.now_ns)
        self._request_missing(index, failed, everything, events)

    def _request_missing(
        self,
        index: int,
        previous: Allocation | None,
        everything: list[Allocation],
        events: tuple[RescheduleEvent, ...] = (),
    ) -> None:
        """Ask for a new allocation of `index`; of a group with data only where the data is, once nobody uses it."""
        only: NodeId | None = None
        home: NodeId | None = None
        hold = ""
        if self.group.holds_data():
            owner = max(everything, key=lambda each: (each.create_index, each.create_time_ns), default=None)
            node = self.view.node(owner.node_id) if owner is not None else None
            if owner is not None and node is not None and not self._is_out_of_reach(node):
                if not owner.is_client_terminal():
                    hold = f"{self._name(index)} starts once its predecessor on node {node.name} has stopped"
                elif not _is_sent_away(owner, node) and not self._is_nothing_left(index, node):
                    only, home = self._near_its_data(index, node, is_to_leave=bool(events))
            # Also one that was stopped: its disk is what the new one goes on with.
            previous = previous or owner
        avoid = previous.node_id if previous is not None and events and only is None else None
        if hold:
            self.result.wait(self.group.name, hold)
        self._request(PlaceRequest(index, previous, events, avoid=avoid, only=only, home=home, hold=hold))

    def _is_nothing_left(self, index: int, node: Node) -> bool:
        """Whether it may not run on the node any more, or its volume is not there any more (deleted, or moved)."""
        return bool(self.ask.never_here(node) or self.ask.at(index).missing_volume(node))

    def _is_out_of_reach(self, node: Node) -> bool:
        """Nobody waits for what is there: the node is gone for good, or silent and the data may be left behind."""
        if node.status is NodeStatus.LEFT:
            return True
        return node.status is NodeStatus.DOWN and not self.group.is_bound_to_its_node()

    def _near_its_data(
        self, index: int, node: Node, *, is_to_leave: bool
    ) -> tuple[NodeId | None, NodeId | None]:
        """The only node that will do, or the one that is best; `is_to_leave`: it failed there, data that follows does."""
        if self.group.is_bound_to_its_node() or node.status is NodeStatus.DISCONNECTED:
            if node.status is not NodeStatus.READY:
                sentence = f"{self._name(index)} waits for node {node.name} (its data is there)"
                self.result.wait(self.group.name, sentence)
            return node.id, None
        return None, None if is_to_leave else node.id

    def _replace(self, old: Allocation, failed: Allocation | None) -> None:
        """One step of the rollout: the new one first, except where both would use the same data."""
        if self.group.holds_data():
            self.result.stop(old, f"replaced by version {self.job.version}")
            self._request_missing(old.index, old, [old])
            return
        events: tuple[RescheduleEvent, ...] = ()
        if failed is not None:
            policy = reschedule.policy_of(self.group, self.job.type)
            events = reschedule.successor_history(failed, policy, self.now_ns)
        self._request(
            PlaceRequest(
                old.index,
                previous=failed or old,
                reschedule_events=events,
                avoid=failed.node_id if failed is not None else None,
                replaces=old,
            )
        )

    def say_held_back(self) -> None:
        """That the deployment failed or is paused, and how it goes on."""
        verb, until = "failed", ""
        if self.deployment is not None and self.deployment.status is DeploymentStatus.PAUSED:
            verb, until = "is paused", f" until somebody types: swarmlet deployment resume {self.job.id}"
        self.result.wait(
            self.group.name,
            f"deployment of version {self.job.version} {verb}: nothing more of it is started{until}",
        )

    def _hold_back(self) -> None:
        """A rollout that failed or is paused starts nothing new of its version, but replaces what was healthy.

        Where no older version is left there is nothing better to run: healing goes on.
        """
        if not self.outdated:
            return
        self.requests = [each for each in self.requests if was_healthy(each.previous, self.job.version)]
        self.say_held_back()


def joined_in_place(allocation: Allocation, deployment: Deployment) -> bool:
    """Whether it ran before the deployment began and waits for a first verdict: it is judged by its running time."""
    return allocation.health is None and allocation.create_index < deployment.create_index


def _is_sent_away(allocation: Allocation, node: Node) -> bool:
    """Somebody wants it off this node (a drain, also one that has ended since), data or not."""
    return node.drain is not None or (allocation.transition.migrate and not node.is_placeable())


def was_healthy(allocation: Allocation | None, version: int) -> bool:
    """Whether it was found healthy as one of that version."""
    return (
        allocation is not None
        and allocation.job_version == version
        and allocation.health is not None
        and allocation.health.is_healthy
    )


def _seconds(duration_ns: int) -> int:
    """Rounded up, for sentences."""
    return -(-duration_ns // SECOND_NS)
