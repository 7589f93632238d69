"""A leader that cannot reach a living node hands over, and otherwise stays."""

from __future__ import annotations

from swarmlet.gossip.effect import MemberState
from swarmlet.ids import Index, PeerId
from swarmlet.leader.reach import LEAD_SECONDS_MIN, OUT_OF_REACH_SECONDS, Reach
from swarmlet.raft.message import ConfigState
from swarmlet.raft.options import PeerProgress
from swarmlet.raft.progress import ProgressState

ME, APART, BETWEEN = PeerId(1), PeerId(2), PeerId(3)
CONFIG = ConfigState(voters=(ME, APART, BETWEEN))
ALIVE = dict.fromkeys(CONFIG.voters, MemberState.ALIVE)
LATER = LEAD_SECONDS_MIN + 1.0


def _at(match: int, state: ProgressState = ProgressState.PROBE) -> PeerProgress:
    return PeerProgress(
        match=Index(match),
        next=Index(match + 1),
        state=state,
        is_learner=False,
        is_paused=False,
        is_recently_active=False,
        pending_snapshot=Index(0),
        inflight=0,
        is_inflight_full=False,
    )


def _look(
    reach: Reach, apart: PeerProgress, now: float, members: dict[PeerId, MemberState] = ALIVE
) -> object:
    progress = {ME: _at(10), APART: apart, BETWEEN: _at(10)}
    return reach.look(CONFIG, progress, Index(10), members, now)


def test_a_leader_that_cannot_reach_a_living_node_hands_over_to_a_voter_that_has_everything() -> None:
    reach = Reach(ME, 0.0)
    assert _look(reach, _at(5), LATER) is None
    assert _look(reach, _at(5), LATER + OUT_OF_REACH_SECONDS) == BETWEEN


def test_a_new_leader_stays_for_a_while_whatever_it_reaches() -> None:
    reach = Reach(ME, 0.0)
    assert _look(reach, _at(5), 1.0) is None
    assert _look(reach, _at(5), LEAD_SECONDS_MIN - 1.0) is None
    assert _look(reach, _at(5), LEAD_SECONDS_MIN) == BETWEEN


def test_progress_however_slow_is_reach() -> None:
    reach = Reach(ME, 0.0)
    _look(reach, _at(5), LATER)
    assert _look(reach, _at(6), LATER + OUT_OF_REACH_SECONDS) is None


def test_nothing_to_send_a_silent_member_and_a_snapshot_on_its_way_are_no_reason() -> None:
    silent = {**ALIVE, APART: MemberState.DEAD}
    for apart, members in (
        (_at(10), ALIVE),
        (_at(5), silent),
        (_at(5, ProgressState.SNAPSHOT), ALIVE),
    ):
        reach = Reach(ME, 0.0)
        _look(reach, apart, LATER, members)
        assert _look(reach, apart, LATER + OUT_OF_REACH_SECONDS, members) is None


def test_where_no_voter_is_in_reach_there_is_nobody_to_hand_over_to() -> None:
    reach = Reach(ME, 0.0)
    progress = {ME: _at(10), APART: _at(5), BETWEEN: _at(5)}
    reach.look(CONFIG, progress, Index(10), ALIVE, LATER)
    assert reach.look(CONFIG, progress, Index(10), ALIVE, LATER + OUT_OF_REACH_SECONDS) is None
