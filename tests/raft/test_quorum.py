"""Laws of quorums and configurations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId
from swarmlet.raft.configuration import Changer, Configuration
from swarmlet.raft.message import (
    ConfigChange,
    ConfigChangeKind,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
)
from swarmlet.raft.progress import Inflights, Progress
from swarmlet.raft.quorum import VoteResult, joint_committed, joint_vote, majority_committed, majority_vote

peers = st.integers(1, 7).map(PeerId)
voters = st.sets(peers, min_size=1).map(lambda found: tuple(sorted(found)))
steps = st.lists(
    st.builds(
        lambda kind, peer: ConfigChangeStep(kind=kind, peer=peer), st.sampled_from(ConfigChangeKind), peers
    ),
    max_size=6,
).map(tuple)
acknowledged = st.dictionaries(peers, st.integers(0, 20).map(Index))


def make_progress(is_learner: bool) -> Progress:
    return Progress(match=0, next_index=1, inflights=Inflights(8, 0), is_learner=is_learner)


@given(voters, acknowledged)
def test_a_committed_index_is_on_a_majority_and_no_higher_one_is(
    members: tuple[PeerId, ...], known: dict[PeerId, Index]
) -> None:
    index = majority_committed(members, known)
    majority = len(members) // 2 + 1
    assert sum(known.get(peer, 0) >= index for peer in members) >= majority
    assert sum(known.get(peer, 0) > index for peer in members) < majority


@given(voters, voters, acknowledged)
def test_a_joint_commit_is_on_both_majorities(
    incoming: tuple[PeerId, ...], outgoing: tuple[PeerId, ...], known: dict[PeerId, Index]
) -> None:
    joint = joint_committed(incoming, outgoing, known)
    assert joint == min(majority_committed(incoming, known), majority_committed(outgoing, known))
    assert joint == joint_committed(outgoing, incoming, known)


@given(voters, voters, st.dictionaries(peers, st.booleans()), peers, st.booleans())
def test_a_decided_vote_stays_decided(
    incoming: tuple[PeerId, ...],
    outgoing: tuple[PeerId, ...],
    votes: dict[PeerId, bool],
    late: PeerId,
    is_yes: bool,
) -> None:
    before = joint_vote(incoming, outgoing, votes)
    after = joint_vote(incoming, outgoing, {late: is_yes, **votes})
    if before is not VoteResult.PENDING:
        assert after is before


@given(voters, st.dictionaries(peers, st.booleans()))
def test_two_candidates_never_both_win(members: tuple[PeerId, ...], votes: dict[PeerId, bool]) -> None:
    other = {peer: not is_yes for peer, is_yes in votes.items()}
    results = (majority_vote(members, votes), majority_vote(members, other))
    assert results != (VoteResult.WON, VoteResult.WON)


@given(
    voters, st.lists(st.tuples(st.sampled_from(ConfigChangeTransition), steps, st.sets(peers)), max_size=6)
)
def test_consecutive_configurations_share_a_quorum(
    first: tuple[PeerId, ...],
    changes: list[tuple[ConfigChangeTransition, tuple[ConfigChangeStep, ...], set[PeerId]]],
) -> None:
    """No peers decide in the old configuration while the others decide in the new one."""
    configuration = Configuration(ConfigState(voters=first))
    progress = {peer: make_progress(False) for peer in first}
    for transition, parts, side in changes:
        try:
            change = ConfigChange(transition=transition, steps=parts)
            following, progress = Changer(configuration, progress, make_progress).change(change)
        except Conflict:
            continue
        one_side = {PeerId(peer): peer in side for peer in range(1, 8)}
        other_side = {peer: not is_yes for peer, is_yes in one_side.items()}
        decisions = (configuration.vote_result(one_side), following.vote_result(other_side))
        assert decisions != (VoteResult.WON, VoteResult.WON)
        assert set(progress) == {*following.all_voters, *following.learners}
        assert [peer for peer in progress if progress[peer].is_learner] == sorted(following.learners)
        configuration = following


def test_a_refused_change_changes_nothing() -> None:
    configuration = Configuration(ConfigState(voters=(PeerId(1), PeerId(2))))
    progress = {PeerId(1): make_progress(False), PeerId(2): make_progress(False)}
    demote_all = tuple(ConfigChangeStep(kind=ConfigChangeKind.ADD_LEARNER, peer=PeerId(n)) for n in (1, 2))
    with pytest.raises(Conflict, match="removed all voters"):
        Changer(configuration, progress, make_progress).change(ConfigChange(steps=demote_all))
    assert not any(item.is_learner for item in progress.values())
    assert configuration.state() == ConfigState(voters=(PeerId(1), PeerId(2)))


def test_the_window_of_appends_is_bounded_in_messages_and_bytes() -> None:
    window = Inflights(2, 100)
    window.add(5, 10)
    window.add(9, 10)
    full = (len(window), window.is_full)
    window.free_up_to(5)
    assert (full, (len(window), window.is_full)) == ((2, True), (1, False))


def test_one_append_may_cross_the_byte_limit_and_a_second_may_not_leave() -> None:
    window = Inflights(9, 100)
    window.add(1, 150)
    assert window.is_full
