"""The leader's shell: runs the pure cores of this package while this node leads, and only then.

Everything it knows is rebuilt from the state when leadership comes, so a leader that dies takes nothing along.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import structlog

from swarmlet.errors import NotLeader, Overloaded, PlanRejected, SwarmletError, Unavailable
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import NodeId, peer_id
from swarmlet.leader.autopilot import Autopilot
from swarmlet.leader.broker import Broker
from swarmlet.leader.deployment_watch import DeploymentWatch
from swarmlet.leader.drain import drain_nodes
from swarmlet.leader.garbage import Garbage
from swarmlet.leader.node_failure import NodeFailures, Seen
from swarmlet.leader.reach import Reach
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.placement.cluster import Fleet
from swarmlet.replica.replica import Clock, Replica
from swarmlet.scheduler.schedule import schedule
from swarmlet.state.command import ApplyPlan, Body, Noop
from swarmlet.state.view import Change, Table, View

log = structlog.get_logger(__name__)

#: The cores look again at least this often; what matters wakes them at once.
LOOK_SECONDS_MAX = 2.0
#: And not more often than this while changes stream in: one look covers them all.
LOOK_SECONDS_MIN = 0.02
#: Commands of the cores that wait to be proposed. More than this means that nothing gets through; the cores
#: will say it again at their next look.
OUTBOX_MAX = 10_000
#: An agent younger than this may be part of a cold start of the whole cluster.
COLD_START_SECONDS = 60.0
NS = 1_000_000_000


class LeaderService:
    """Runs for the life of the agent; acts only while this node leads."""

    def __init__(
        self,
        *,
        replica: Replica,
        members: Callable[[], list[Member]],
        clock: Clock,
        gossip_clock: Callable[[], float],
        started_at: float,
    ) -> None:
        """`gossip_clock` is the clock of `Member.restart_until`; `started_at` this agent's start (boot seconds)."""
        self._replica = replica
        self._members = members
        self._clock = clock
        self._gossip_clock = gossip_clock
        self._started_at = started_at
        self._is_leader = asyncio.Event()
        self._lost = asyncio.Event()
        self._broker = Broker()
        self._work = asyncio.Event()
        self._look = asyncio.Event()
        self._outbox: deque[Body] = deque(maxlen=OUTBOX_MAX)
        self._outbox_wake = asyncio.Event()
        #: The cluster as the scheduler's thread keeps it, and the nodes that changed since it looked (in order).
        self._fleet = Fleet()
        self._changed_nodes: dict[NodeId, None] = {}
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scheduler")
        self._failures: NodeFailures | None = None
        replica.on_leadership(self._on_leadership)

    def on_member_event(self) -> None:
        """Gossip saw a change: look at once."""
        self._look.set()

    def replacement_pause(self) -> str:
        """Why nothing is replaced now, for people; empty when that is not so, or when this node does not lead."""
        pause = self._failures.pause if self._failures is not None else None
        return "" if pause is None else str(pause)

    async def run(self) -> None:
        """Lead whenever this node is elected, until cancelled."""
        try:
            while True:
                await self._is_leader.wait()
                self._lost.clear()
                try:
                    await self._lead_until_lost()
                except* (Unavailable, NotLeader) as errors:
                    log.warning("leader.interrupted", reason=str(errors.exceptions[0]))
                await asyncio.sleep(LOOK_SECONDS_MIN)
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _on_leadership(self, is_leader: bool) -> None:
        if is_leader:
            self._is_leader.set()
        else:
            self._is_leader.clear()
            self._lost.set()

    async def _lead_until_lost(self) -> None:
        # Committed in our own term: from here on the view holds everything acknowledged by earlier leaders.
        await self._replica.lead(Noop())
        log.info("leader.started")
        self._broker = Broker()
        self._fleet, self._changed_nodes = Fleet(), {}
        unsubscribe = self._replica.watches.subscribe(self._on_changes)
        try:
            self._post(self._broker.restore(self._replica.view.open_evaluations(), self._clock.wall_ns()))
            self._work.set()
            self._look.set()
            async with asyncio.TaskGroup() as group:
                loops = [
                    group.create_task(self._schedule_loop()),
                    group.create_task(self._look_loop()),
                    group.create_task(self._outbox_loop()),
                ]
                await self._lost.wait()
                for task in loops:
                    task.cancel()
        finally:
            unsubscribe()
            self._failures = None
            self._outbox.clear()
            log.info("leader.stopped")

    # What changes feed.

    def _on_changes(self, view: View, changes: tuple[Change, ...]) -> None:
        now = self._clock.wall_ns()
        freed: set[str] = set()
        for change in changes:
            if change.table is Table.EVALUATIONS:
                evaluation = _evaluation(view, change.key)
                if evaluation is not None:
                    self._post(self._broker.enqueue(evaluation, now))
                    self._work.set()
            elif change.table is Table.ALLOCATIONS:
                self._look.set()
                self._changed_nodes[_node_of(change)] = None
                allocation = view.allocation(change.key)  # type: ignore[arg-type]
                if allocation is not None and allocation.is_client_terminal():
                    freed |= _class_of(view, allocation.node_id)
            elif change.table is Table.NODES:
                self._look.set()
                self._changed_nodes[NodeId(change.key)] = None
                node = view.node(NodeId(change.key))
                if node is not None and node.is_placeable():
                    freed.add(node.computed_class)
            elif change.table in {Table.DEPLOYMENTS, Table.JOBS}:
                self._look.set()
        if freed:
            self._post(self._broker.capacity_changed(sorted(freed), view.index))

    def _post(self, commands: Iterable[Body]) -> None:
        for command in commands:
            self._outbox.append(command)
            self._outbox_wake.set()

    # Evaluations.

    async def _schedule_loop(self) -> None:
        while True:
            now = self._clock.wall_ns()
            evaluation = self._broker.dequeue(now)
            if evaluation is None:
                wake = self._broker.wake_time_ns()
                timeout = LOOK_SECONDS_MAX if wake is None else max(0.0, (wake - now) / NS)
                await _wait(self._work, min(timeout, LOOK_SECONDS_MAX))
                if self._broker.overflowed and len(self._broker) == 0:
                    self._post(self._broker.restore(self._replica.view.open_evaluations(), now))
                continue
            await self._evaluate(evaluation)

    async def _evaluate(self, evaluation: Evaluation) -> None:
        view = self._replica.view
        try:
            loop = asyncio.get_running_loop()
            changed, self._changed_nodes = self._changed_nodes, {}
            plan = await loop.run_in_executor(
                self._pool, schedule, view, evaluation, self._clock.wall_ns(), self._fleet, changed
            )
            applied = await self._replica.lead(ApplyPlan(plan=plan))
        except (NotLeader, Unavailable):
            raise
        except PlanRejected as error:
            log.info("plan.rejected", evaluation_id=evaluation.id, reason=str(error))
            self._after(evaluation)
            return
        except SwarmletError as error:
            self._post(self._broker.nack(evaluation.id, self._clock.wall_ns(), str(error)))
            return
        except Exception as error:
            # One job that the scheduler cannot handle must not stop the others.
            log.exception("scheduler.failed", evaluation_id=evaluation.id, job_id=evaluation.job_id)
            self._post(self._broker.nack(evaluation.id, self._clock.wall_ns(), f"internal error: {error!r}"))
            return
        if applied.placed or applied.dropped:
            log.info(
                "plan.applied",
                evaluation_id=evaluation.id,
                job_id=evaluation.job_id,
                placed=applied.placed,
                dropped=applied.dropped,
            )
        self._after(evaluation)

    def _after(self, evaluation: Evaluation) -> None:
        """The state says how it ended: over, or pending again for what no longer fitted."""
        newest = self._replica.view.evaluation(evaluation.id)
        if newest is not None and newest.status is EvaluationStatus.PENDING:
            self._post(self._broker.enqueue(newest, self._clock.wall_ns()))
            self._broker.requeue(evaluation.id, self._clock.wall_ns())
        else:
            self._post(self._broker.acknowledge(evaluation.id))

    # The other cores.

    async def _look_loop(self) -> None:
        now = self._clock.wall_ns()
        is_cold = self._clock.boot_seconds() - self._started_at < COLD_START_SECONDS
        failures = self._failures = NodeFailures(now, is_cold_start=is_cold)
        deployments = DeploymentWatch()
        garbage = Garbage(now)
        autopilot = Autopilot(peer_id(self._replica.node_id))
        reach = Reach(peer_id(self._replica.node_id), self._clock.boot_seconds())
        while True:
            self._look.clear()
            view, now = self._replica.view, self._clock.wall_ns()
            before = failures.pause
            outcomes = [
                failures.look(view, self._seen(), now),
                deployments.look(view, now),
                drain_nodes(view, now),
            ]
            if failures.pause is not None and failures.pause is not before:
                log.warning("replacement.paused", reason=str(failures.pause))
            wake = min((item.wake_ns for item in outcomes if item.wake_ns is not None), default=None)
            for outcome in outcomes:
                for command in outcome.commands:
                    await self._lead(command)
            collected = garbage.look(now)
            if collected is not None:
                await self._lead(collected)
            self._steer(autopilot)
            self._step_aside(reach)
            await asyncio.sleep(LOOK_SECONDS_MIN)
            timeout = LOOK_SECONDS_MAX
            if wake is not None:
                timeout = min(timeout, max(0.0, (wake - self._clock.wall_ns()) / NS))
            if autopilot.wake is not None:
                timeout = min(timeout, max(0.0, autopilot.wake - self._clock.boot_seconds()))
            await _wait(self._look, timeout)

    def _steer(self, autopilot: Autopilot) -> None:
        """Move the consensus' configuration one step towards what the nodes that live allow."""
        status = self._replica.consensus.core.status()
        if status.is_config_change_pending or not status.is_settled:
            return
        members = {member.id: member.state for member in self._members()}
        change = autopilot.look(
            list(self._replica.view.nodes()),
            status.config,
            {peer: progress.match for peer, progress in status.progress.items()},
            status.last_index,
            members,
            self._clock.boot_seconds(),
        )
        if change is not None:
            log.info(
                "autopilot.changes", steps=[(step.kind.name.lower(), step.peer) for step in change.steps]
            )
            with contextlib.suppress(Unavailable, NotLeader):
                self._replica.propose_config(change)

    def _step_aside(self, reach: Reach) -> None:
        """Let another voter lead when a node that lives is out of this one's reach."""
        consensus = self._replica.consensus
        status = consensus.core.status()
        better = reach.look(
            status.config,
            status.progress,
            status.last_index,
            {peer_id(member.id): member.state for member in self._members()},
            self._clock.boot_seconds(),
        )
        if better is None or status.transferee:
            return
        log.warning("leader.steps_aside", peer=better, reason="a node that lives is out of reach")
        with contextlib.suppress(SwarmletError):
            consensus.core.transfer(better)
            consensus.pump()

    def _seen(self) -> dict[NodeId, Seen]:
        now, wall = self._gossip_clock(), self._clock.wall_ns()
        return {
            member.id: Seen(
                state=member.state,
                restart_until_ns=wall + int((member.restart_until - now) * NS)
                if member.restart_until > now
                else 0,
            )
            for member in self._members()
            if member.state in MemberState
        }

    async def _outbox_loop(self) -> None:
        while True:
            while self._outbox:
                await self._lead(self._outbox.popleft())
            self._outbox_wake.clear()
            if not self._outbox:
                await self._outbox_wake.wait()

    async def _lead(self, command: Body) -> None:
        """Propose one command of a core; a refusal is the state having moved on, and the core looks again."""
        try:
            await self._replica.lead(command)
        except (NotLeader, Unavailable) as error:
            if isinstance(error, Overloaded):
                return
            raise
        except SwarmletError as error:
            log.info("leader.command_refused", command=type(command).__name__, reason=str(error))


def _evaluation(view: View, key: str) -> Evaluation | None:
    return view.evaluation(key)  # type: ignore[arg-type]


def _node_of(change: Change) -> NodeId:
    """Whose allocation changed: the first scope is its node."""
    return NodeId(change.scopes[0].partition(":")[2])


def _class_of(view: View, node_id: NodeId) -> set[str]:
    node = view.node(node_id)
    return {node.computed_class} if node is not None else set()


async def _wait(event: asyncio.Event, timeout_seconds: float) -> None:
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return
    finally:
        event.clear()
