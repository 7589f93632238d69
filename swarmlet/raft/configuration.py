"""Who votes and who learns, and how that changes: joint consensus with learners and automatic leave.

Source: Raft dissertation chapter 4 and section 4.2.1; demotion of a voter in a joint configuration waits
in `learners_next` until the joint configuration is left, as in etcd's Raft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId
from swarmlet.raft.message import (
    NOBODY,
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
)
from swarmlet.raft.progress import Progress
from swarmlet.raft.quorum import VoteResult, joint_committed, joint_vote

#: Makes the progress of a peer that just joined: (is_learner) -> Progress.
ProgressFactory = Callable[[bool], Progress]


class Configuration:
    """One configuration: immutable; membership questions are answered from it."""

    __slots__ = ("auto_leave", "learners", "learners_next", "outgoing", "voters")

    def __init__(self, state: ConfigState) -> None:
        """Take the sets from `state`."""
        self.voters = frozenset(state.voters)
        self.outgoing = frozenset(state.voters_outgoing)
        self.learners = frozenset(state.learners)
        self.learners_next = frozenset(state.learners_next)
        self.auto_leave = state.auto_leave

    @property
    def is_joint(self) -> bool:
        """Two majorities decide."""
        return bool(self.outgoing)

    @property
    def all_voters(self) -> tuple[PeerId, ...]:
        """Everyone with a vote in either half, sorted."""
        return tuple(sorted(self.voters | self.outgoing))

    @property
    def is_singleton(self) -> bool:
        """One voter decides alone."""
        return len(self.voters) == 1 and not self.outgoing

    def committed(self, acknowledged: Mapping[PeerId, Index]) -> Index:
        """See `quorum.joint_committed`."""
        return joint_committed(self.voters, self.outgoing, acknowledged)

    def vote_result(self, votes: Mapping[PeerId, bool]) -> VoteResult:
        """See `quorum.joint_vote`."""
        return joint_vote(self.voters, self.outgoing, votes)

    def state(self) -> ConfigState:
        """This configuration as a record, sorted."""
        return ConfigState(
            voters=tuple(sorted(self.voters)),
            voters_outgoing=tuple(sorted(self.outgoing)),
            learners=tuple(sorted(self.learners)),
            learners_next=tuple(sorted(self.learners_next)),
            auto_leave=self.auto_leave,
        )

    def __str__(self) -> str:
        text = f"voters=({_join(self.voters)})"
        if self.outgoing:
            text += f"&&({_join(self.outgoing)})"
        if self.learners:
            text += f" learners=({_join(self.learners)})"
        if self.learners_next:
            text += f" learners_next=({_join(self.learners_next)})"
        return text + (" autoleave" if self.auto_leave else "")


def _join(peers: frozenset[PeerId]) -> str:
    return " ".join(str(peer) for peer in sorted(peers))


def enters_joint(change: ConfigChange) -> bool:
    """The change has to go through a joint configuration, or asks to."""
    return change.transition is not ConfigChangeTransition.AUTO or len(change.steps) > 1


def leaves_joint(change: ConfigChange) -> bool:
    """The change is the one that ends a joint configuration."""
    return change.transition is ConfigChangeTransition.AUTO and not change.steps


class Changer:
    """Computes the next configuration and the peers' progress. The inputs are left alone when it refuses.

    Progress objects of peers that stay are carried over; a learner's flag on them is set only on success.
    """

    def __init__(
        self,
        configuration: Configuration,
        progress: Mapping[PeerId, Progress],
        make_progress: ProgressFactory,
    ) -> None:
        """Work on copies of what is given."""
        self._old = configuration
        self._voters = set(configuration.voters)
        self._outgoing = set(configuration.outgoing)
        self._learners = set(configuration.learners)
        self._learners_next = set(configuration.learners_next)
        self._progress = dict(progress)
        self._make_progress = make_progress

    def change(self, change: ConfigChange) -> tuple[Configuration, dict[PeerId, Progress]]:
        """Leave a joint configuration, enter one, or make a simple change. Raises Conflict."""
        if leaves_joint(change):
            return self.leave_joint()
        if enters_joint(change):
            auto_leave = change.transition is not ConfigChangeTransition.JOINT_EXPLICIT
            return self.enter_joint(change.steps, auto_leave=auto_leave)
        return self.simple(change.steps)

    def enter_joint(
        self, steps: tuple[ConfigChangeStep, ...], *, auto_leave: bool
    ) -> tuple[Configuration, dict[PeerId, Progress]]:
        """The old voters become the outgoing half; `steps` make the incoming one. Raises Conflict."""
        if self._outgoing:
            raise Conflict("config is already joint")
        if not self._voters:
            raise Conflict("can't make a zero-voter config joint")
        self._outgoing = set(self._voters)
        self._apply(steps)
        return self._finish(auto_leave=auto_leave)

    def leave_joint(self) -> tuple[Configuration, dict[PeerId, Progress]]:
        """The incoming half alone decides from now on. Raises Conflict."""
        if not self._outgoing:
            raise Conflict("can't leave a non-joint config")
        self._learners |= self._learners_next
        self._learners_next = set()
        for peer in sorted(self._outgoing):
            if peer not in self._voters and peer not in self._learners:
                del self._progress[peer]
        self._outgoing = set()
        return self._finish(auto_leave=False)

    def simple(self, steps: tuple[ConfigChangeStep, ...]) -> tuple[Configuration, dict[PeerId, Progress]]:
        """A change of at most one voter. Raises Conflict."""
        if self._outgoing:
            raise Conflict("can't apply simple config change in joint config")
        self._apply(steps)
        if len(self._voters ^ self._old.voters) > 1:
            raise Conflict("more than one voter changed without entering joint config")
        return self._finish(auto_leave=self._old.auto_leave)

    def _apply(self, steps: tuple[ConfigChangeStep, ...]) -> None:
        for step in steps:
            if step.peer == NOBODY:
                continue
            match step.kind:
                case ConfigChangeKind.ADD_VOTER:
                    self._add_voter(step.peer)
                case ConfigChangeKind.ADD_LEARNER:
                    self._add_learner(step.peer)
                case ConfigChangeKind.REMOVE:
                    self._remove(step.peer)
                case ConfigChangeKind.UPDATE:
                    pass
        if not self._voters:
            raise Conflict("removed all voters")

    def _add_voter(self, peer: PeerId) -> None:
        if peer not in self._progress:
            self._progress[peer] = self._make_progress(False)
        self._learners.discard(peer)
        self._learners_next.discard(peer)
        self._voters.add(peer)

    def _add_learner(self, peer: PeerId) -> None:
        if peer in self._learners:
            return
        progress = self._progress.get(peer)
        if progress is None:
            self._progress[peer] = self._make_progress(True)
            self._learners.add(peer)
            return
        self._remove(peer)
        self._progress[peer] = progress
        if peer in self._outgoing:
            self._learners_next.add(peer)
        else:
            self._learners.add(peer)

    def _remove(self, peer: PeerId) -> None:
        if peer not in self._progress:
            return
        self._voters.discard(peer)
        self._learners.discard(peer)
        self._learners_next.discard(peer)
        if peer not in self._outgoing:
            del self._progress[peer]

    def _finish(self, *, auto_leave: bool) -> tuple[Configuration, dict[PeerId, Progress]]:
        assert not self._learners & (self._voters | self._outgoing), "a learner has a vote"
        assert self._learners_next <= self._outgoing, "a future learner is no outgoing voter"
        for peer in sorted(self._progress):
            self._progress[peer].is_learner = peer in self._learners
        configuration = Configuration(
            ConfigState(
                voters=tuple(sorted(self._voters)),
                voters_outgoing=tuple(sorted(self._outgoing)),
                learners=tuple(sorted(self._learners)),
                learners_next=tuple(sorted(self._learners_next)),
                auto_leave=auto_leave,
            )
        )
        return configuration, dict(sorted(self._progress.items()))
