"""Chooses who votes: everyone joins as a learner, voters are made and replaced one change at a time. Pure.

One voter for one and two nodes, three from three, five from seven, or as many as an operator says; spread over
failure zones; a node with `voter = never` stays a learner. A change is proposed only while a majority of the present
voters is alive, and only if a majority of those after it is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import Index, NodeId, PeerId
from swarmlet.model.cluster import AutopilotConfig
from swarmlet.model.node import Node, NodeStatus
from swarmlet.raft.message import ConfigChange, ConfigChangeKind, ConfigChangeStep, ConfigState

NS = 1_000_000_000
#: (nodes from which on, voters).
VOTERS = ((7, 5), (3, 3), (1, 1))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as the chooser sees it."""

    node: Node
    is_alive: bool
    is_dead: bool
    is_gone: bool


class Autopilot:
    """Proposes at most one configuration change at a time. `now` is seconds on any monotonic clock."""

    def __init__(self, me: PeerId) -> None:
        """`me`: the leader's own peer, which is never demoted by itself."""
        self._me = me
        self._settings = AutopilotConfig()
        self._healthy_since: dict[PeerId, float] = {}
        #: When each peer was last heard of.
        self._heard_at: dict[PeerId, float] = {}
        #: When to look again without being told of a change; None: nothing ripens.
        self.wake: float | None = None

    def look(
        self,
        nodes: list[Node],
        config: ConfigState,
        matched: Mapping[PeerId, Index],
        last_index: Index,
        members: Mapping[NodeId, MemberState],
        now: float,
        *,
        settings: AutopilotConfig | None = None,
        heard: Collection[PeerId] | None = None,
    ) -> ConfigChange | None:
        """The next change, or None. `matched`: how far each peer's log agrees with the leader's; `heard`: peers that
        answered lately (None: all).
        """
        self.wake = None
        self._settings = settings or AutopilotConfig()
        candidates = {node.peer: _candidate(node, members) for node in nodes if node.peer}
        self._follow_progress(candidates, config, matched, last_index, heard, now)
        if config.voters_outgoing:
            return None  # a joint change is under way
        return (
            self._remove_gone(candidates, config, now)
            or self._add_learner(candidates, config)
            or self._change_voters(candidates, config, now)
        )

    @property
    def healthy_since(self) -> Mapping[PeerId, float]:
        """Peers that are alive, in contact and caught up, and since when; on the clock of `look`."""
        return self._healthy_since

    @property
    def heard_at(self) -> Mapping[PeerId, float]:
        """When a look last found that a peer had answered."""
        return self._heard_at

    def _follow_progress(
        self,
        candidates: Mapping[PeerId, Candidate],
        config: ConfigState,
        matched: Mapping[PeerId, Index],
        last_index: Index,
        heard: Collection[PeerId] | None,
        now: float,
    ) -> None:
        contact = self._settings.contact_ns_max / NS
        for peer in sorted({*config.learners, *config.voters}):
            if heard is None or peer in heard or peer == self._me:
                self._heard_at[peer] = now
            candidate = candidates.get(peer)
            close = (
                peer == self._me or last_index - matched.get(peer, Index(0)) <= self._settings.lag_entries_max
            )
            in_contact = now - self._heard_at.get(peer, float("-inf")) <= contact
            if candidate is not None and candidate.is_alive and close and in_contact:
                self._healthy_since.setdefault(peer, now)
            else:
                self._healthy_since.pop(peer, None)
        for known in (self._healthy_since, self._heard_at):
            for peer in [peer for peer in known if peer not in candidates]:
                del known[peer]

    def _remove_gone(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, now: float
    ) -> ConfigChange | None:
        """Peers whose node left or was removed. A voter goes only while the rest keeps its majority, and a learner
        takes its place in the same step where one can.
        """
        for peer in sorted(config.learners):
            if peer not in candidates or candidates[peer].is_gone:
                return _change((ConfigChangeKind.REMOVE, peer))
        for peer in sorted(config.voters):
            is_gone = peer not in candidates or candidates[peer].is_gone
            if not is_gone or peer == self._me or not self._is_safe(candidates, config, without=peer):
                continue
            promoted = None
            if len(config.voters) <= max(self._wanted(candidates), self._settings.voters_min):
                promoted = self._best_learner(candidates, _without(config, peer), now)
            if promoted is not None:
                return _change((ConfigChangeKind.ADD_VOTER, promoted), (ConfigChangeKind.REMOVE, peer))
            if len(config.voters) > self._settings.voters_min:
                return _change((ConfigChangeKind.REMOVE, peer))
        return None

    def _add_learner(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState
    ) -> ConfigChange | None:
        known = {*config.voters, *config.learners}
        for peer in sorted(candidates):
            if peer not in known and candidates[peer].is_alive and not candidates[peer].is_gone:
                return _change((ConfigChangeKind.ADD_LEARNER, peer))
        return None

    def _change_voters(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, now: float
    ) -> ConfigChange | None:
        wanted = self._wanted(candidates)
        forbidden = [
            peer
            for peer in sorted(config.voters)
            if peer in candidates and not candidates[peer].node.is_voter_allowed and peer != self._me
        ]
        replaced = self._replacement(candidates, config, forbidden, now)
        if replaced is not None:
            return replaced
        promoted = self._best_learner(candidates, config, now)
        if promoted is not None:
            if len(config.voters) < wanted:
                return self._grow(candidates, config, now, wanted, promoted)
            crowded = None
            if self._settings.spreads_over_zones and len(config.voters) == wanted:
                crowded = self._crowded_voter(candidates, config, promoted)
            if crowded is not None:
                return _change(
                    (ConfigChangeKind.ADD_VOTER, promoted), (ConfigChangeKind.ADD_LEARNER, crowded)
                )
        floor = max(self._settings.voters_min, 1)
        if len(config.voters) > max(wanted, floor):
            return self._shrink(candidates, config, max(wanted, floor))
        if (
            forbidden
            and len(config.voters) > floor
            and self._is_safe(candidates, config, without=forbidden[0])
        ):
            return _change((ConfigChangeKind.ADD_LEARNER, forbidden[0]))
        return None

    def _wanted(self, candidates: Mapping[PeerId, Candidate]) -> int:
        """How many voters there should be: an odd number, of those that stay and may vote."""
        staying = [each for each in candidates.values() if not each.is_gone]
        eligible = [each for each in staying if each.node.is_voter_allowed]
        return min(self._settings.voters or wanted_voters(len(staying)), _odd(len(eligible)))

    def _replacement(
        self,
        candidates: Mapping[PeerId, Candidate],
        config: ConfigState,
        forbidden: list[PeerId],
        now: float,
    ) -> ConfigChange | None:
        """A learner for a voter that is dead or may not vote, in one joint step: no even set exists in between."""
        dead = [
            peer
            for peer in sorted(config.voters)
            if self._settings.replaces_dead_voters
            and peer != self._me
            and peer in candidates
            and candidates[peer].is_dead
        ]
        for outgoing in dead + forbidden:
            promoted = self._best_learner(candidates, _without(config, outgoing), now)
            if promoted is not None and self._is_safe(candidates, config, without=outgoing):
                return _change(
                    (ConfigChangeKind.ADD_VOTER, promoted), (ConfigChangeKind.ADD_LEARNER, outgoing)
                )
        return None

    def _crowded_voter(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, promoted: PeerId
    ) -> PeerId | None:
        """A voter whose zone has at least two more voters than the learner's: swapping them spreads the risk."""
        zones = _zone_counts(candidates, config.voters)
        target = zones.get(candidates[promoted].node.zone, 0)
        for peer in sorted(config.voters, reverse=True):
            if peer == self._me or peer not in candidates:
                continue
            is_crowded = zones[candidates[peer].node.zone] >= target + 2
            if is_crowded and self._is_safe(candidates, config, without=peer):
                return peer
        return None

    def _grow(
        self,
        candidates: Mapping[PeerId, Candidate],
        config: ConfigState,
        now: float,
        wanted: int,
        first: PeerId,
    ) -> ConfigChange | None:
        """From one odd size to the next in one joint step: two voters tolerate less than one."""
        chosen = [first]
        imagined = ConfigState(voters=(*config.voters, first), learners=config.learners)
        while len(imagined.voters) < wanted:
            following = self._best_learner(candidates, imagined, now)
            if following is None:
                break
            chosen.append(following)
            imagined = ConfigState(voters=(*imagined.voters, following), learners=config.learners)
        if len(imagined.voters) % 2 == 0:
            chosen.pop()
        if not chosen:
            return None
        return _change(*((ConfigChangeKind.ADD_VOTER, peer) for peer in chosen))

    def _shrink(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, wanted: int
    ) -> ConfigChange | None:
        """Fewer nodes than the voters are for: demote, dead ones first, then the most crowded zone."""
        chosen: list[PeerId] = []
        rest = config
        while len(rest.voters) > wanted:
            zones = _zone_counts(candidates, rest.voters)
            order = [
                (
                    peer in candidates and not candidates[peer].is_dead,
                    -zones[candidates[peer].node.zone] if peer in candidates else 0,
                    peer,
                )
                for peer in rest.voters
                if peer != self._me
            ]
            if not order:
                break
            chosen.append(min(order)[2])
            rest = _without(rest, chosen[-1])
        staying = [peer for peer in config.voters if peer not in chosen]
        alive = sum(1 for peer in staying if peer == self._me or _is_alive(candidates, peer))
        if not chosen or alive * 2 <= len(staying) or not self._is_safe(candidates, config):
            return None
        return _change(*((ConfigChangeKind.ADD_LEARNER, peer) for peer in chosen))

    def _best_learner(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, now: float
    ) -> PeerId | None:
        """Healthy for a while, allowed; from the zone with the fewest voters, then the oldest node."""
        zones = _zone_counts(candidates, config.voters) if self._settings.spreads_over_zones else {}
        stable = self._settings.stabilization_ns / NS
        best: tuple[int, int, PeerId] | None = None
        for peer in sorted(config.learners):
            candidate = candidates.get(peer)
            if candidate is None or peer in config.voters:
                continue
            since = self._healthy_since.get(peer)
            if since is None or candidate.is_gone or not candidate.node.is_voter_allowed:
                continue
            if now - since < stable:
                ripe = since + stable
                self.wake = ripe if self.wake is None else min(self.wake, ripe)
                continue
            key = (zones.get(candidate.node.zone, 0), candidate.node.create_index, peer)
            best = key if best is None else min(best, key)
        return best[2] if best is not None else None

    def _is_safe(
        self, candidates: Mapping[PeerId, Candidate], config: ConfigState, without: PeerId | None = None
    ) -> bool:
        """Whether a majority lives, before and after the change."""
        alive = [peer for peer in config.voters if peer == self._me or _is_alive(candidates, peer)]
        if len(alive) * 2 <= len(config.voters):
            return False
        remaining = [peer for peer in config.voters if peer != without]
        still = [peer for peer in alive if peer != without]
        return bool(remaining) and len(still) * 2 > len(remaining)


def wanted_voters(nodes: int) -> int:
    """How many voters a cluster of that many nodes should have."""
    return next((voters for least, voters in VOTERS if nodes >= least), 1)


def _without(config: ConfigState, peer: PeerId) -> ConfigState:
    """The configuration if one voter were not in it."""
    return ConfigState(voters=tuple(each for each in config.voters if each != peer), learners=config.learners)


def _odd(count: int) -> int:
    return max(count - (count + 1) % 2, 1)


def _candidate(node: Node, members: Mapping[NodeId, MemberState]) -> Candidate:
    state = members.get(node.id)
    return Candidate(
        node=node,
        is_alive=state is MemberState.ALIVE,
        is_dead=state in {MemberState.DEAD, MemberState.LEFT} or node.status is NodeStatus.DOWN,
        is_gone=state is MemberState.LEFT or node.status is NodeStatus.LEFT,
    )


def _is_alive(candidates: Mapping[PeerId, Candidate], peer: PeerId) -> bool:
    return peer in candidates and candidates[peer].is_alive


def _zone_counts(candidates: Mapping[PeerId, Candidate], voters: tuple[PeerId, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for peer in voters:
        if peer in candidates:
            zone = candidates[peer].node.zone
            counts[zone] = counts.get(zone, 0) + 1
    return counts


def _change(*steps: tuple[ConfigChangeKind, PeerId]) -> ConfigChange:
    return ConfigChange(steps=tuple(ConfigChangeStep(kind=kind, peer=peer) for kind, peer in steps))
