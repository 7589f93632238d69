"""The leader's shell: runs the pure cores of this package while this node leads, and only then.

Everything it knows is rebuilt from the state when leadership comes, so a leader that dies takes nothing along.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import structlog

from swarmlet.errors import Overloaded, PlanRejected, StorageError, SwarmletError, Unavailable
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.ids import EvaluationId, NodeId, PeerId, peer_id
from swarmlet.leader.autopilot import Autopilot
from swarmlet.leader.batch import BATCH_MAX, schedule_batch
from swarmlet.leader.broker import BROKER_MAX, Broker
from swarmlet.leader.deployment_watch import DeploymentWatch, Outcome
from swarmlet.leader.drain import drain_nodes
from swarmlet.leader.feature_level import raised_level
from swarmlet.leader.garbage import Garbage
from swarmlet.leader.node_failure import NodeFailures, Pause, Seen
from swarmlet.leader.reach import Reach
from swarmlet.leader.rebalance import Rebalancer
from swarmlet.model.cluster import Rebalancing
from swarmlet.model.evaluation import Evaluation, EvaluationStatus
from swarmlet.model.node import Node
from swarmlet.model.plan import Plan
from swarmlet.placement.cluster import Fleet
from swarmlet.replica.mesh import Clock
from swarmlet.replica.replica import Replica
from swarmlet.replica.submission import raise_if_refused
from swarmlet.scheduler.rebalancing import plan_rebalancing
from swarmlet.state.command import (
    FEATURE_LEVEL,
    Applied,
    ApplyPlan,
    Body,
    CollectGarbage,
    Noop,
    UpdateSettings,
)
from swarmlet.state.view import WHOLE_STATE, Change, Table, View

log = structlog.get_logger(__name__)

#: The cores look again at least this often; what matters wakes them at once.
LOOK_SECONDS_MAX = 2.0
#: And not more often than this while changes stream in: one look covers them all.
LOOK_SECONDS_MIN = 0.02
#: After a look the cores rest this many times as long as it took: with thousands of jobs and nodes, looks stay a fifth
#: of what the leader does.
LOOK_REST = 4.0
#: Commands of the cores that wait to be proposed. More than this means that nothing gets through: leading begins
#: again, from the state.
OUTBOX_MAX = 10_000
#: Commands proposed at once; together they stay far below what may be under way.
OUTBOX_BATCH = 256
#: After a refusal for overload.
OVERLOAD_SECONDS = 0.1
#: Before leading again after a failure that is a bug: not a circle that burns a processor and fills the log.
FAILURE_SECONDS = 1.0
#: An agent younger than this may be part of a cold start of the whole cluster.
COLD_START_SECONDS = 60.0
NS = 1_000_000_000
#: Members that announced no restart, of which there are thousands.
_SEEN = {state: Seen(state=state) for state in MemberState}


class _Nodes(NamedTuple):
    """Which of all nodes concern the cores, as of an index of their table."""

    at_index: int
    #: Those that take part in consensus, or may.
    peers: list[Node]
    draining: list[Node]


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
        self._are_nodes_changed = True
        self._deployments = DeploymentWatch()
        self._outbox: deque[Body] = deque()
        self._outbox_wake = asyncio.Event()
        #: The cluster as the scheduler's thread keeps it, and the nodes that changed since it looked (in order).
        self._fleet = Fleet()
        self._changed_nodes: dict[NodeId, None] = {}
        #: What `_nodes_of` and `_raise_level` last went through, by the index of what they read.
        self._nodes = _Nodes(-1, [], [])
        self._level_seen_at = (-1, -1)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scheduler")
        self._node_failures: NodeFailures | None = None
        self._autopilot: Autopilot | None = None
        replica.on_leadership(self._on_leadership)
        self._on_leadership(replica.is_leader)

    def on_member_event(self) -> None:
        """Gossip saw a change: look at once."""
        self._are_nodes_changed = True
        self._look.set()

    @property
    def pause(self) -> Pause | None:
        """Why nothing is replaced right now, on the leader; None: nothing is held back, or another node leads."""
        return self._node_failures.pause if self._node_failures is not None else None

    def replacement_pause(self) -> str:
        """Why nothing is replaced now, for people; empty when that is not so, or when this node does not lead."""
        return str(self.pause or "")

    def peer_health(self, peer: PeerId) -> tuple[float | None, float | None]:
        """Seconds since the last look that found `peer` answering, and for how long it has been healthy. None: not."""
        if self._autopilot is None:
            return None, None
        now = self._clock.boot_seconds()
        heard, healthy = self._autopilot.heard_at.get(peer), self._autopilot.healthy_since.get(peer)
        return (
            max(0.0, now - heard) if heard is not None else None,
            max(0.0, now - healthy) if healthy is not None else None,
        )

    async def run(self) -> None:
        """Lead whenever this node is elected, until cancelled.

        What one leadership knows is dropped with it, so every interruption, a bug included, ends the same way: lead
        again, from the state.
        """
        try:
            while True:
                await self._is_leader.wait()
                self._lost.clear()
                pause = LOOK_SECONDS_MIN
                try:
                    await self._lead_until_lost()
                except* Unavailable as errors:
                    log.warning("leader.interrupted", reason=str(errors.exceptions[0]))
                except* Exception:
                    log.exception("leader.failed")
                    pause = FAILURE_SECONDS
                await asyncio.sleep(pause)
        finally:
            # A plan that is being made ends by itself; nobody takes it.
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _on_leadership(self, is_leader: bool) -> None:
        if is_leader:
            self._is_leader.set()
        else:
            self._is_leader.clear()
            self._lost.set()

    def _begin_again(self, why: str) -> None:
        """What this leadership remembers is not whole any more: it ends, and the next one reads the state."""
        log.warning("leader.begins_again", reason=why)
        self._lost.set()

    async def _lead_until_lost(self) -> None:
        # Committed in our own term: from here on the view holds everything acknowledged by earlier leaders.
        await self._replica.lead(Noop())
        log.info("leader.started")
        self._broker = Broker()
        self._fleet, self._changed_nodes = Fleet(), {}
        self._nodes, self._level_seen_at = _Nodes(-1, [], []), (-1, -1)
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
                    group.create_task(self._rebalance_loop()),
                ]
                await self._lost.wait()
                for task in loops:
                    task.cancel()
        finally:
            unsubscribe()
            self._outbox.clear()
            self._node_failures = None
            self._autopilot = None
            log.info("leader.stopped")

    # What changes feed.

    def _on_changes(self, view: View, changes: tuple[Change, ...]) -> None:
        try:
            self._take_changes(view, changes)
        except Exception:
            log.exception("leader.changes_failed", index=view.index)
            self._begin_again("a change could not be followed")

    def _take_changes(self, view: View, changes: tuple[Change, ...]) -> None:
        now = self._clock.wall_ns()
        freed: set[str] = set()
        if changes and changes[0].key == WHOLE_STATE:
            self._begin_again("the state was restored")
            return
        for change in changes:
            if change.table is Table.EVALUATIONS:
                evaluation = _evaluation(view, change.key)
                if evaluation is None:
                    self._broker.forget(EvaluationId(change.key))
                else:
                    self._post(self._broker.enqueue(evaluation, now))
                self._work.set()
            elif change.table is Table.ALLOCATIONS:
                if change.is_report:
                    continue  # where that matters to a deployment, its row has changed too
                self._look.set()
                self._deployments.on_change(change.scopes)
                self._changed_nodes.update(dict.fromkeys(change.concerned_nodes()))
                allocation = view.allocation(change.key)  # type: ignore[arg-type]
                if allocation is not None and allocation.is_client_terminal():
                    freed |= _class_of(view, allocation.node_id)
            elif change.table is Table.NODES:
                self._are_nodes_changed = True
                self._look.set()
                self._changed_nodes[NodeId(change.key)] = None
                node = view.node(NodeId(change.key))
                if node is not None and node.is_placeable():
                    freed.add(node.computed_class)
            elif change.table in {Table.DEPLOYMENTS, Table.JOBS}:
                if change.table is Table.JOBS:
                    self._deployments.on_change(change.scopes)
                self._look.set()
        if freed:
            self._post(self._broker.capacity_changed(sorted(freed), view.index))

    def _post(self, commands: Iterable[Body]) -> None:
        for command in commands:
            self._outbox.append(command)
            self._outbox_wake.set()
        if len(self._outbox) > OUTBOX_MAX:
            self._outbox.clear()
            self._begin_again(f"{OUTBOX_MAX} commands wait to be proposed")

    # Evaluations.

    async def _schedule_loop(self) -> None:
        while True:
            now = self._clock.wall_ns()
            batch = self._due(now)
            if not batch:
                wake = self._broker.wake_time_ns()
                timeout = LOOK_SECONDS_MAX if wake is None else max(0.0, (wake - now) / NS)
                await _wait(self._work, min(timeout, LOOK_SECONDS_MAX))
                # What did not fit into the broker is still in the state.
                if self._broker.overflowed and len(self._broker) <= BROKER_MAX // 2:
                    self._post(self._broker.restore(self._replica.view.open_evaluations(), now))
                continue
            await self._evaluate(batch)

    def _due(self, now: int) -> list[Evaluation]:
        """Evaluations of different jobs: those that share one round trip of the log."""
        batch: list[Evaluation] = []
        while len(batch) < BATCH_MAX and (evaluation := self._broker.dequeue(now)) is not None:
            batch.append(evaluation)
        return batch

    async def _evaluate(self, batch: list[Evaluation]) -> None:
        loop = asyncio.get_running_loop()
        now = self._clock.wall_ns()
        changed, self._changed_nodes = self._changed_nodes, {}
        outcomes = await loop.run_in_executor(
            self._pool, schedule_batch, self._replica.fork(), batch, now, self._fleet, changed
        )
        planned: list[tuple[Evaluation, Plan]] = []
        for evaluation, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                # Not looked at: the time of the batch was over.
                self._broker.requeue(evaluation.id, now)
            elif isinstance(outcome, Plan):
                planned.append((evaluation, outcome))
            else:
                # One job that the scheduler cannot handle must not stop the others.
                self._failed(evaluation, outcome)
        if not planned:
            return
        answers = await self._lead_all([ApplyPlan(plan=plan) for _, plan in planned])
        for (evaluation, _), applied in zip(planned, answers, strict=True):
            self._planned(evaluation, applied)

    def _failed(self, evaluation: Evaluation, error: Exception) -> None:
        log.error("scheduler.failed", evaluation_id=evaluation.id, job_id=evaluation.job_id, exc_info=error)
        self._post(self._broker.nack(evaluation.id, self._clock.wall_ns(), f"internal error: {error!r}"))

    def _planned(self, evaluation: Evaluation, applied: Applied) -> None:
        try:
            raise_if_refused(applied)
        except PlanRejected as error:
            log.info("plan.rejected", evaluation_id=evaluation.id, reason=str(error))
        except SwarmletError as error:
            self._post(self._broker.nack(evaluation.id, self._clock.wall_ns(), str(error)))
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
        failures = self._node_failures = NodeFailures(now, is_cold_start=is_cold)
        deployments = self._deployments = DeploymentWatch()
        garbage = Garbage(now)
        autopilot = self._autopilot = Autopilot(peer_id(self._replica.node_id))
        reach = Reach(peer_id(self._replica.node_id), self._clock.boot_seconds())
        nodes_due = 0
        while True:
            self._look.clear()
            begun = self._clock.boot_seconds()
            view, now = self._replica.view, self._clock.wall_ns()
            paused = failures.pause
            looks: list[partial[Outcome]] = [partial(drain_nodes, view, now, self._nodes_of(view).draining)]
            outcomes: list[Outcome] = []
            members = self._members()
            if self._are_nodes_changed or now >= nodes_due:
                self._are_nodes_changed = False
                # With thousands of nodes and jobs each look takes its time: others may run between them.
                await asyncio.sleep(0)
                seen = self._seen(members)
                await asyncio.sleep(0)
                found = _outcome_of(partial(failures.look, view, seen, now))
                outcomes += [found] if found is not None else []
                nodes_due = now + int(LOOK_SECONDS_MAX * NS)
                if found is not None and found.wake_ns is not None:
                    nodes_due = min(nodes_due, found.wake_ns)
                looks.append(partial(_collected, garbage, view, now))
            watched = await _looked(deployments, view, now)
            outcomes += [watched] if watched is not None else []
            for look in looks:
                await asyncio.sleep(0)
                outcome = _outcome_of(look)
                outcomes += [outcome] if outcome is not None else []
            self._tell_pause(paused, failures.pause)
            wake = min((item.wake_ns for item in outcomes if item.wake_ns is not None), default=nodes_due)
            wake = min(wake, nodes_due)
            commands = [command for outcome in outcomes for command in outcome.commands]
            commands += self._raise_level(view)
            taken = self._clock.boot_seconds() - begun
            for command, applied in zip(commands, await self._lead_all(commands), strict=True):
                _log_refusal(applied)
                if isinstance(command, CollectGarbage):
                    garbage.collected(now, applied.dropped)
            await asyncio.sleep(0)
            if commands:
                members = self._members()  # agreeing on them may have taken a while
            peers = {node.id for node in self._nodes_of(self._replica.view).peers}
            states = {member.id: member.state for member in members if member.id in peers}
            self._steer(autopilot, states)
            self._step_aside(reach, states)
            await asyncio.sleep(max(LOOK_SECONDS_MIN, taken * LOOK_REST))
            timeout = LOOK_SECONDS_MAX
            timeout = min(timeout, max(0.0, (wake - self._clock.wall_ns()) / NS))
            if autopilot.wake is not None:
                timeout = min(timeout, max(0.0, autopilot.wake - self._clock.boot_seconds()))
            await _wait(self._look, timeout)

    def _raise_level(self, view: View) -> list[Body]:
        """The cluster's feature level, where nodes or settings have changed since it was looked at."""
        seen = (view.table_index(Table.NODES), view.table_index(Table.SETTINGS))
        if seen == self._level_seen_at:
            return []
        self._level_seen_at = seen
        level = raised_level(view.settings(), view.nodes(), FEATURE_LEVEL)
        if level is None:
            return []
        log.info("cluster.feature_level_rises", level=level)
        # Should this command be lost, it is proposed again.
        self._level_seen_at = (-1, -1)
        return [UpdateSettings(feature_level=level)]

    def _nodes_of(self, view: View) -> _Nodes:
        """Gone through once for every change of a node."""
        index = view.table_index(Table.NODES)
        if self._nodes.at_index != index:
            nodes = list(view.nodes())
            self._nodes = _Nodes(
                index,
                [node for node in nodes if node.peer],
                [node for node in nodes if node.drain is not None],
            )
        return self._nodes

    def _steer(self, autopilot: Autopilot, states: Mapping[NodeId, MemberState]) -> None:
        """Move the consensus' configuration one step towards what the nodes that live allow."""
        status = self._replica.consensus.core.status()
        if not status.is_settled:
            return
        settings = self._replica.view.settings()
        change = autopilot.look(
            self._nodes_of(self._replica.view).peers,
            status.config,
            {peer: progress.match for peer, progress in status.progress.items()},
            status.last_index,
            states,
            self._clock.boot_seconds(),
            settings=settings.autopilot if settings is not None else None,
            heard=[peer for peer, progress in status.progress.items() if progress.is_recently_active],
        )
        if change is not None and not status.is_config_change_pending:
            log.info(
                "autopilot.changes", steps=[(step.kind.name.lower(), step.peer) for step in change.steps]
            )
            try:
                self._replica.propose_config(change)
            except StorageError:
                raise
            except SwarmletError as error:
                log.info("autopilot.refused", reason=str(error))

    def _tell_pause(self, before: Pause | None, now: Pause | None) -> None:
        if now is not None and before is None:
            log.warning("replacement.paused", reason=str(now), until_ns=now.until_ns)
        elif now is None and before is not None:
            log.info("replacement.resumed")

    def _step_aside(self, reach: Reach, states: Mapping[NodeId, MemberState]) -> None:
        """Let another voter lead when a node that lives is out of this one's reach."""
        consensus = self._replica.consensus
        status = consensus.core.status()
        peers = self._nodes_of(self._replica.view).peers
        better = reach.look(
            status.config,
            status.progress,
            status.last_index,
            {node.peer: states[node.id] for node in peers if node.id in states},
            self._clock.boot_seconds(),
        )
        if better is None or status.transferee:
            return
        log.warning("leader.steps_aside", peer=better, reason="a node that lives is out of reach")
        with contextlib.suppress(SwarmletError):
            consensus.core.transfer(better)
            consensus.pump()

    def _seen(self, members: Sequence[Member]) -> dict[NodeId, Seen]:
        now, wall = self._gossip_clock(), self._clock.wall_ns()
        seen = {member.id: _SEEN[member.state] for member in members if member.state in _SEEN}
        for member in members:
            if member.restart_until > now and member.id in seen:
                until = wall + int((member.restart_until - now) * NS)
                seen[member.id] = Seen(state=member.state, restart_until_ns=until)
        return seen

    async def _rebalance_loop(self) -> None:
        """Moves that are not needed but better. Planning reads everything: on a thread of its own."""
        rebalancer = Rebalancer(self._clock.wall_ns())
        while True:
            view, now = self._replica.view, self._clock.wall_ns()
            outcome = _outcome_of(partial(rebalancer.look, view, now))
            commands = list(outcome.commands) if outcome is not None else []
            moves_max = rebalancer.due(view, now)
            if moves_max:
                moves, _ = await asyncio.to_thread(plan_rebalancing, view, moves_max, now)
                if moves:
                    log.info("rebalancing.planned", moves=len(moves))
                    commands.append(UpdateSettings(rebalancing=Rebalancing(moves=moves, begun_at_ns=now)))
            for applied in await self._lead_all(commands):
                _log_refusal(applied)
            await asyncio.sleep(LOOK_SECONDS_MAX)

    async def _outbox_loop(self) -> None:
        while True:
            while self._outbox:
                batch = [self._outbox.popleft() for _ in range(min(OUTBOX_BATCH, len(self._outbox)))]
                for applied in await self._lead_all(batch):
                    _log_refusal(applied)
            self._outbox_wake.clear()
            if not self._outbox:
                await self._outbox_wake.wait()

    async def _lead_all(self, commands: Sequence[Body]) -> list[Applied]:
        """Propose commands of the cores, all of them, however long that takes. Raises NotLeader, UnknownOutcome."""
        answers: list[Applied] = []
        while len(answers) < len(commands):
            try:
                following = commands[len(answers) : len(answers) + OUTBOX_BATCH]
                answers += await self._replica.lead_all(following)
            except Overloaded:
                await asyncio.sleep(OVERLOAD_SECONDS)
        return answers


def _log_refusal(applied: Applied) -> None:
    """A refusal is the state having moved on; the core looks again."""
    if applied.error:
        log.info("leader.command_refused", error=applied.error, reason=applied.message)


def _outcome_of(look: partial[Outcome]) -> Outcome | None:
    """One core that fails must not keep the others from their work."""
    try:
        return look()
    except Exception:
        log.exception("leader.core_failed", core=look.func.__qualname__)
        return None


async def _looked(deployments: DeploymentWatch, view: View, now: int) -> Outcome | None:
    """The same for the look at the deployments; between its parts others may run."""
    parts = deployments.looking(view, now)
    try:
        while True:
            await asyncio.sleep(0)
            next(parts)
    except StopIteration as end:
        outcome: Outcome = end.value
        return outcome
    except Exception:
        log.exception("leader.core_failed", core="DeploymentWatch.looking")
        return None


def _collected(garbage: Garbage, view: View, now: int) -> Outcome:
    collected = garbage.look(now, view.ended_allocation_count())
    return Outcome((collected,) if collected is not None else (), None)


def _evaluation(view: View, key: str) -> Evaluation | None:
    return view.evaluation(key)  # type: ignore[arg-type]


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
