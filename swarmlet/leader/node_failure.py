"""Turns what gossip sees into what the cluster acts on, with the guards of the design. Pure.

Gossip decides who is dead; this decides whether to believe it at once. Guards: a mass failure pauses replacement,
a cold start of the whole cluster gives nodes time to come, a node that dies too often takes no new work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import NodeId
from swarmlet.leader.deployment_watch import Outcome
from swarmlet.model.job import SECOND_NS
from swarmlet.model.node import SILENT, Eligibility, Node, NodeStatus
from swarmlet.state.command import Body, UpdateNodeEligibility, UpdateNodeStatus
from swarmlet.state.view import Table, View

#: More than max(1, this share) of the nodes dead within the window: something else than the nodes is broken.
MASS_SHARE_PERCENT = 20
MASS_WINDOW_NS = 60 * SECOND_NS
MASS_PAUSE_NS = 60 * SECOND_NS
#: Nodes parted together are seen dead one after the other, each after its own suspicion. While others are suspected that
#: would make this death one of a mass failure, it waits for their verdict: as long as a suspicion lasts that all confirm.
VERDICT_WAIT_NS = 1_600_000_000
#: After a cold start of the whole cluster, or for a leader that has never seen the node alive.
COLD_START_GRACE_NS = 60 * SECOND_NS


class Silence(Enum):
    """Stands for a node of the state that gossip does not know at all."""

    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Seen:
    """A member as the leader's gossip sees it now."""

    state: MemberState
    #: An announced restart lasts until then (wall ns); 0: none.
    restart_until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """Replacement is paused because too much died at once: shown in `status`, written as an event."""

    until_ns: int
    dead: int
    nodes: int

    def __str__(self) -> str:
        """The sentence for people."""
        return f"{self.dead} of {self.nodes} nodes died within {MASS_WINDOW_NS // SECOND_NS} s: nothing is replaced yet"


class NodeFailures:
    """Compares members with nodes. Call `look` on every member event and at its wake time."""

    def __init__(self, leader_since_ns: int, *, is_cold_start: bool = False) -> None:
        """`leader_since_ns`: when this node became leader. `is_cold_start`: the whole cluster started just now."""
        self._since_ns = leader_since_ns
        self._is_cold_start = is_cold_start
        self._ever_alive: set[NodeId] = set()
        #: When each now dead member was first seen dead.
        self._dead_since: dict[NodeId, int] = {}
        #: When nodes died lately: the mass failure guard's window.
        self._recent: dict[NodeId, int] = {}
        #: Were all that are suspected now dead too, too many would have died at once.
        self._is_verdict_awaited = False
        self.pause: Pause | None = None
        #: The nodes' index and the members of the last look, where it found every node alive and ready.
        self._untroubled: tuple[int, Mapping[NodeId, Seen]] | None = None

    def look(self, view: View, members: Mapping[NodeId, Seen], now_ns: int) -> Outcome:
        """Commands that bring the nodes' status in line with gossip, as far as the guards allow."""
        index = view.table_index(Table.NODES)
        if self._untroubled == (index, members):
            return Outcome()
        nodes = list(view.nodes())
        troubled: list[Node] = []
        for node in nodes:
            seen = members.get(node.id)
            if (
                seen is None
                or seen.state is not MemberState.ALIVE
                or node.status is not NodeStatus.READY
                or node.ineligible_until_ns
            ):
                troubled.append(node)
            else:
                self._note_alive(node.id)
        commands: list[Body] = []
        wakes: list[int] = []
        for node in troubled:
            self._remember(node, members.get(node.id), now_ns)
        self._forget(nodes, now_ns)
        self._guard(len(nodes), troubled, members, now_ns)
        for node in troubled:
            commands += self._look_at(node, members.get(node.id), now_ns, wakes)
            commands += _eligibility(node, now_ns, wakes)
        is_calm = not (troubled or self._dead_since or self._recent or self.pause)
        self._untroubled = (index, dict(members)) if is_calm else None
        return Outcome(tuple(commands), min(wakes, default=None))

    def _note_alive(self, node_id: NodeId) -> None:
        self._ever_alive.add(node_id)
        if self._dead_since:
            self._dead_since.pop(node_id, None)

    def _remember(self, node: Node, seen: Seen | None, now_ns: int) -> None:
        if seen is not None and seen.state in {MemberState.ALIVE, MemberState.SUSPECT}:
            self._note_alive(node.id)
        elif seen is None or seen.state is MemberState.DEAD:
            if node.id not in self._dead_since:
                self._dead_since[node.id] = now_ns
                # After a cold start, not having come yet is no death.
                is_expected = self._is_cold_start and node.id not in self._ever_alive
                if node.status in {NodeStatus.READY, NodeStatus.DISCONNECTED} and not is_expected:
                    self._recent[node.id] = now_ns
        else:
            self._dead_since.pop(node.id, None)

    def _forget(self, nodes: list[Node], now_ns: int) -> None:
        if not self._dead_since and not self._recent:
            return
        known = {node.id for node in nodes}
        for table in (self._dead_since, self._recent):
            for node_id in [key for key in table if key not in known]:
                del table[node_id]
        for node_id in [key for key, at in self._recent.items() if now_ns - at >= MASS_WINDOW_NS]:
            del self._recent[node_id]

    def _guard(self, number: int, troubled: list[Node], members: Mapping[NodeId, Seen], now_ns: int) -> None:
        """Begin or end the pause. `troubled`: those of all `number` nodes that are not simply alive and ready."""
        if self.pause is not None and self.pause.until_ns <= now_ns:
            self.pause = None
            self._recent.clear()
        counted = number - sum(1 for node in troubled if node.status is NodeStatus.LEFT)
        dead = sum(1 for node_id in self._recent if node_id in self._dead_since)
        suspected = sum(
            1
            for node in troubled
            if node.status is NodeStatus.READY
            and node.id in members
            and members[node.id].state is MemberState.SUSPECT
        )
        limit = max(1, counted * MASS_SHARE_PERCENT // 100)
        self._is_verdict_awaited = dead <= limit < dead + suspected
        if self.pause is None and dead > limit:
            self.pause = Pause(now_ns + MASS_PAUSE_NS, dead, counted)

    def _look_at(self, node: Node, seen: Seen | None, now_ns: int, wakes: list[int]) -> list[Body]:
        if node.status is NodeStatus.LEFT:
            return []  # only its registration brings it back: gossip may still be catching up with its leaving
        state = seen.state if seen is not None else Silence.UNKNOWN
        match state:
            case MemberState.ALIVE:
                if node.status is NodeStatus.READY:
                    return []
                return [_status(node, NodeStatus.READY, "alive in gossip")]
            case MemberState.SUSPECT:
                return []  # gossip is still asking; nothing is known
            case MemberState.AGENT_DOWN:
                if node.status in {NodeStatus.DISCONNECTED, NodeStatus.DOWN}:
                    return []
                return [_status(node, NodeStatus.DISCONNECTED, "the host answers, its agent does not")]
            case MemberState.LEFT:
                return [_status(node, NodeStatus.LEFT, "left the cluster")]
            case MemberState.DEAD | Silence.UNKNOWN:
                return self._look_at_dead(node, seen, now_ns, wakes)

    def _look_at_dead(self, node: Node, seen: Seen | None, now_ns: int, wakes: list[int]) -> list[Body]:
        if node.status is NodeStatus.DOWN:
            return []
        believe_at = now_ns
        if seen is not None:
            believe_at = max(believe_at, seen.restart_until_ns)
        if node.id not in self._ever_alive and (self._is_cold_start or seen is None):
            believe_at = max(believe_at, self._since_ns + COLD_START_GRACE_NS)
        if self._is_verdict_awaited:
            believe_at = max(believe_at, self._dead_since[node.id] + VERDICT_WAIT_NS)
        if self.pause is not None:
            believe_at = max(believe_at, self.pause.until_ns)
        if believe_at > now_ns:
            wakes.append(believe_at)
            if self.pause is not None and node.status is NodeStatus.READY:
                # What it runs stays, but nothing new is sent where nobody answers.
                return [_status(node, NodeStatus.DISCONNECTED, SILENT)]
            return []
        return [_status(node, NodeStatus.DOWN, "no answer by any path")]


def _status(node: Node, status: NodeStatus, description: str) -> UpdateNodeStatus:
    return UpdateNodeStatus(node_id=node.id, status=status, description=description, boot_id=node.boot_id)


def _eligibility(node: Node, now_ns: int, wakes: list[int]) -> list[Body]:
    """After too many deaths `apply` sets `ineligible_until_ns`; when that has passed the node takes work again."""
    if not node.ineligible_until_ns or node.eligibility is Eligibility.ELIGIBLE or node.drain is not None:
        return []
    if node.ineligible_until_ns > now_ns:
        wakes.append(node.ineligible_until_ns)
        return []
    return [UpdateNodeEligibility(node_id=node.id, eligibility=Eligibility.ELIGIBLE)]
