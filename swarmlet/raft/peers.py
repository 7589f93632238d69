"""The peers of a configuration, as a leader or candidate counts them: progress, votes, who was heard of."""

from __future__ import annotations

from swarmlet.ids import Index, PeerId
from swarmlet.raft.configuration import Changer, Configuration
from swarmlet.raft.message import ConfigChange, ConfigState
from swarmlet.raft.options import PeerProgress, RaftConfig
from swarmlet.raft.progress import Inflights, Progress
from swarmlet.raft.quorum import VoteResult


class Peers:
    """The configuration in force, and one `Progress` for everyone in it."""

    def __init__(self, config: RaftConfig) -> None:
        """Nobody yet: see `restore`."""
        self._config = config
        self._id = config.peer
        self.configuration = Configuration(ConfigState())
        self.progress: dict[PeerId, Progress] = {}
        self._votes: dict[PeerId, bool] = {}

    @property
    def own(self) -> Progress | None:
        """This peer's own progress; None when it is not part of the configuration."""
        return self.progress.get(self._id)

    def others(self) -> list[PeerId]:
        """Everyone else, sorted."""
        return [peer for peer in sorted(self.progress) if peer != self._id]

    def is_alone(self) -> bool:
        """This peer is the only voter."""
        return self.configuration.is_singleton and self._id in self.configuration.voters

    # -- configurations

    def restore(self, state: ConfigState, last_index: int) -> None:
        """Start from a snapshot's configuration."""
        self.configuration = Configuration(state)
        learners = self.configuration.learners
        peers = sorted({*state.voters, *state.voters_outgoing, *state.learners})
        self.progress = {peer: self._join(last_index, is_learner=peer in learners) for peer in peers}
        own = self.own
        if own is not None:
            own.acknowledge(own.next - 1)

    def change(self, change: ConfigChange, last_index: int) -> ConfigState:
        """Put a committed change into force. Raises Conflict; then nothing changed."""
        changer = Changer(
            self.configuration,
            self.progress,
            lambda is_learner: self._join(last_index, is_learner=is_learner),
        )
        self.configuration, self.progress = changer.change(change)
        return self.configuration.state()

    def _join(self, last_index: int, *, is_learner: bool) -> Progress:
        joined = self._fresh(max(last_index, 1), is_learner=is_learner)
        # A peer that just joined counts as present, else the next quorum check could depose the leader.
        joined.is_recently_active = True
        return joined

    def _fresh(self, next_index: int, *, is_learner: bool) -> Progress:
        window = Inflights(self._config.inflight_messages_max, self._config.inflight_bytes_max)
        return Progress(match=0, next_index=next_index, inflights=window, is_learner=is_learner)

    # -- a new term

    def reset(self, last_index: int) -> None:
        """Forget what was known of the others' logs, and all votes."""
        self._votes = {}
        for peer, known in self.progress.items():
            self.progress[peer] = self._fresh(last_index + 1, is_learner=known.is_learner)
        own = self.own
        if own is not None:
            own.match = last_index

    def forget_votes(self) -> None:
        """Before a pre-vote."""
        self._votes = {}

    def count_vote(self, peer: PeerId, *, is_yes: bool) -> VoteResult:
        """Note a vote, the first one of each peer, and how the election stands."""
        self._votes.setdefault(peer, is_yes)
        return self.configuration.vote_result(self._votes)

    # -- a leader's questions

    def committed(self) -> Index:
        """The highest index that a quorum has."""
        return self.configuration.committed(
            {peer: Index(progress.match) for peer, progress in self.progress.items()}
        )

    def check_quorum(self) -> bool:
        """A quorum was heard of since the last check."""
        active = {
            peer: progress.is_recently_active or peer == self._id
            for peer, progress in self.progress.items()
            if not progress.is_learner
        }
        for progress in self.progress.values():
            progress.is_recently_active = False
        own = self.own
        if own is not None:
            own.is_recently_active = True
        return self.configuration.vote_result(active) is VoteResult.WON

    def describe(self) -> dict[PeerId, PeerProgress]:
        """Everyone's progress, sorted by peer."""
        return {peer: _describe(self.progress[peer]) for peer in sorted(self.progress)}


def _describe(progress: Progress) -> PeerProgress:
    return PeerProgress(
        match=Index(progress.match),
        next=Index(progress.next),
        state=progress.state,
        is_learner=progress.is_learner,
        is_paused=progress.is_paused,
        is_recently_active=progress.is_recently_active,
        pending_snapshot=Index(progress.pending_snapshot),
        inflight=len(progress.inflights),
        is_inflight_full=progress.inflights.is_full,
    )
