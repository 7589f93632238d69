"""The transcripts of etcd's Raft, read from SWARMLET_CONFORMANCE_DATA: what it prints, this prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from swarmlet.errors import Conflict
from swarmlet.ids import Index, PeerId
from swarmlet.raft.configuration import Changer, Configuration
from swarmlet.raft.message import ConfigState
from swarmlet.raft.progress import Inflights, Progress
from swarmlet.raft.quorum import (
    EVERYTHING,
    VoteResult,
    joint_committed,
    joint_vote,
    majority_committed,
    majority_vote,
)
from tests.conformance.raft_description import progress_text
from tests.conformance.raft_nodes import Nodes, parse_steps
from tests.conformance.transcript import Directive, directives, transcripts, without_log_lines

NO_DATA = "SWARMLET_CONFORMANCE_DATA is not set, or has no etcd-raft-transcripts"


def files(folder: str) -> list[object]:
    """Parameters for one folder: a skip that says why where it is not there."""
    found = transcripts(folder)
    if not found:
        return [pytest.param(None, id="no-data", marks=pytest.mark.skip(reason=NO_DATA))]
    return [pytest.param(path, id=path.name) for path in found]


def check(path: Path, run: Callable[[Directive], str]) -> None:
    """Run every command of a transcript and compare what it prints."""
    count = 0
    for directive in directives(path.read_text()):
        printed = without_log_lines(run(directive))
        expected = without_log_lines(directive.expected)
        assert printed == expected, f"{path.name}:{directive.line}: {directive.command} {directive.words}"
        count += 1
    assert count, f"{path.name} has no commands"


def vote_text(result: VoteResult) -> str:
    return {VoteResult.PENDING: "VotePending", VoteResult.LOST: "VoteLost", VoteResult.WON: "VoteWon"}[result]


def describe_committed(voters: list[PeerId], acknowledged: dict[PeerId, Index]) -> str:
    """One bar per voter: as long as the number of voters that are surely behind it."""
    if not voters:
        return "<empty majority quorum>"
    ranked = sorted(voters, key=lambda peer: (acknowledged.get(peer, 0), peer))
    bars: dict[PeerId, int] = {}
    for rank, peer in enumerate(ranked):
        is_ahead = rank > 0 and acknowledged.get(ranked[rank - 1], 0) < acknowledged.get(peer, 0)
        bars[peer] = rank if is_ahead else (bars[ranked[rank - 1]] if rank else 0)
    lines = [" " * len(voters) + "    idx"]
    for peer in sorted(voters):
        if peer in acknowledged:
            bar = "x" * bars[peer] + ">" + " " * (len(voters) - bars[peer])
        else:
            bar = "?" + " " * len(voters)
        lines.append(f"{bar} {acknowledged.get(peer, 0):5d}    (id={peer})")
    return "\n".join(lines) + "\n"


def run_quorum(directive: Directive) -> str:
    incoming = [PeerId(int(item)) for item in directive.values.get("cfg", [])]
    is_joint = "cfgj" in directive.values
    raw = directive.values.get("cfgj", [])
    outgoing = [] if raw == ["zero"] else [PeerId(int(item)) for item in raw]
    peers = list(dict.fromkeys([*incoming, *outgoing]))
    if directive.command == "vote":
        given = directive.values.get("votes", [])
        votes = {peer: item == "y" for peer, item in zip(peers, given, strict=True) if item != "_"}
        result = joint_vote(incoming, outgoing, votes) if is_joint else majority_vote(incoming, votes)
        assert joint_vote(outgoing, incoming, votes) == joint_vote(incoming, outgoing, votes)
        return vote_text(result)
    assert directive.command == "committed"
    given = directive.values.get("idx", [])
    acknowledged = {peer: Index(int(item)) for peer, item in zip(peers, given, strict=True) if item != "_"}
    if is_joint:
        index = joint_committed(incoming, outgoing, acknowledged)
        assert joint_committed(outgoing, incoming, acknowledged) == index
    else:
        index = majority_committed(incoming, acknowledged)
    return describe_committed(peers, acknowledged) + ("∞" if index == EVERYTHING else str(index))


class ConfigurationChanges:
    """Runs the commands of the `confchange` transcripts; the log grows by one entry per command."""

    def __init__(self) -> None:
        self.configuration = Configuration(ConfigState())
        self.progress: dict[PeerId, Progress] = {}
        self.last_index = 0

    def _make(self, is_learner: bool) -> Progress:
        made = Progress(
            match=0, next_index=max(self.last_index, 1), inflights=Inflights(10, 0), is_learner=is_learner
        )
        made.is_recently_active = True
        return made

    def run(self, directive: Directive) -> str:
        changer = Changer(self.configuration, self.progress, self._make)
        steps = parse_steps(" ".join(directive.body).split())
        try:
            match directive.command:
                case "simple":
                    changed = changer.simple(steps)
                case "enter-joint":
                    changed = changer.enter_joint(steps, auto_leave=directive.flag("autoleave"))
                case "leave-joint":
                    changed = changer.leave_joint()
                case _:
                    raise AssertionError(directive.command)
        except Conflict as error:
            return str(error)
        finally:
            self.last_index += 1
        self.configuration, self.progress = changed
        lines = [str(self.configuration)]
        for peer, progress in self.progress.items():
            text = progress_text(
                progress.state, progress.match, progress.next, is_learner=progress.is_learner
            )
            lines.append(f"{peer}: {text}")
        return "\n".join(lines)


@pytest.mark.parametrize("path", files("quorum"))
def test_quorum_arithmetic_matches(path: Path) -> None:
    check(path, run_quorum)


@pytest.mark.parametrize("path", files("confchange"))
def test_configuration_changes_match(path: Path) -> None:
    check(path, ConfigurationChanges().run)


@pytest.mark.parametrize("path", files("raft"))
def test_nodes_behave_as_in_the_transcript(path: Path) -> None:
    check(path, Nodes().run)
