"""The adapter to etcd's transcripts, by transcripts of our own: nothing that it does not know passes by being skipped."""

from __future__ import annotations

import pytest

from tests.conformance.raft_description import quoted
from tests.conformance.raft_nodes import Nodes
from tests.conformance.transcript import Unknown, directives, without_log_lines

THREE = """
log-level none
----

add-nodes 3 voters=(1,2,3) index=10 {options}
----

campaign 1
----

stabilize
----

log-level debug
----
"""

HEARTBEATS = (
    "Ready MustSync=false:\n"
    "Messages:\n"
    "1->2 MsgHeartbeat Term:1 Log:0/0 Commit:11\n"
    "1->3 MsgHeartbeat Term:1 Log:0/0 Commit:11"
)


def run(text: str, nodes: Nodes | None = None) -> list[str]:
    """What each command prints; without `----` a line is a command with nothing expected."""
    made = nodes or Nodes()
    whole = text if "----" in text else "\n----\n\n".join([*text.strip().splitlines(), ""])
    return [without_log_lines(made.run(directive)) for directive in directives(whole)]


def three(options: str = "") -> Nodes:
    """Three voters with a leader, who have 11 entries."""
    nodes = Nodes()
    run(THREE.format(options=options), nodes)
    return nodes


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("split-brain 1", "the command 'split-brain'"),
        ("add-nodes 1 voters=(1) index=2 colour=red", "the option 'colour' of add-nodes"),
        ("add-nodes 1 prevote=maybe", "the value 'maybe' of prevote"),
        ("add-nodes 1 read-only=perhaps", "the value 'perhaps' of read-only"),
        ("log-level loud", "the level 'loud'"),
        ("deliver-msgs 1 type=MsgGossip", "the value 'MsgGossip' of type"),
        ("stabilize 1 speed=3", "the option 'speed' of stabilize"),
    ],
)
def test_what_is_not_known_fails_and_says_so(line: str, complaint: str) -> None:
    with pytest.raises(Unknown, match=complaint):
        run(line)


def test_delivering_nothing_is_said() -> None:
    nodes = three()
    assert run("deliver-msgs 1 drop=(2)", nodes) == ["no messages"]


def test_messages_are_delivered_and_dropped_in_the_order_of_the_command() -> None:
    nodes = three()
    run("propose 1 a\nprocess-ready 1", nodes)
    append = 'MsgApp Term:1 Log:1/11 Commit:11 Entries:[1/12 EntryNormal "a"]'
    assert run("deliver-msgs drop=(3) 2", nodes) == [f"dropped: 1->3 {append}\n1->2 {append}"]


def test_only_messages_of_the_named_kind_are_delivered() -> None:
    nodes = three()
    run("propose 1 a\ntick-heartbeat 1\nprocess-ready 1", nodes)
    assert run("deliver-msgs 2 type=MsgHeartbeat", nodes) == ["1->2 MsgHeartbeat Term:1 Log:0/0 Commit:11"]


def test_compaction_shows_what_is_left_of_the_log() -> None:
    nodes = three()
    run("propose 1 a\nstabilize", nodes)
    assert run("compact 1 11\ncompact 1 12", nodes) == [
        '1/12 EntryNormal "a"',
        "log is empty: first index=13, last index=12",
    ]


def test_a_refused_proposal_is_told_where_all_else_is_quiet() -> None:
    assert run("log-level none\nadd-nodes 1 voters=(1) index=2\npropose 1 a") == [
        "ok",
        "ok",
        "raft proposal dropped",
    ]


def test_a_ready_without_anything_new_for_the_disk_does_not_bother_its_thread() -> None:
    nodes = three("async-storage-writes=true")
    run("propose 1 a\nprocess-ready 1\ntick-heartbeat 1", nodes)
    assert run("process-ready 1", nodes) == [HEARTBEATS]


def test_an_old_write_does_not_count_for_entries_that_replaced_its_own() -> None:
    """The same index is written in terms 1, 2 and 1's leader is gone: only the newest write makes it stable."""
    nodes = three("async-storage-writes=true")
    run("propose 1 first\nprocess-ready 1\ndeliver-msgs drop=(2,3)\nstabilize 2 3", nodes)
    run("log-level none\ncampaign 2\nstabilize 2 3\nlog-level debug", nodes)
    run("propose 2 second\nprocess-ready 2\ndeliver-msgs 1 type=MsgVote", nodes)
    run("deliver-msgs 1 type=MsgApp\nprocess-ready 1", nodes)
    printed = run("process-append-thread 1\ndeliver-msgs 1\nraft-log 1", nodes)
    assert printed[2] == '1/11 EntryNormal ""\n1/12 EntryNormal "first"'
    run("stabilize", nodes)
    logs = run("raft-log 1\nraft-log 2", nodes)
    assert logs[0] == logs[1] == '1/11 EntryNormal ""\n2/12 EntryNormal ""\n2/13 EntryNormal "second"'


def test_a_follower_behind_the_compacted_log_gets_a_snapshot_and_then_appends() -> None:
    nodes = three()
    run("propose 1 a\nstabilize 1 2\ndeliver-msgs drop=(3)\npropose 1 b\nstabilize 1 2", nodes)
    run("deliver-msgs drop=(3)\ncompact 1 13\nreport-unreachable 1 3\ntick-heartbeat 1\nstabilize", nodes)
    lines = [f"{peer}: StateReplicate match=13 next=14" for peer in (1, 2, 3)]
    assert run("status 1", nodes) == ["\n".join(lines)]


def test_a_commit_that_got_lost_travels_with_the_next_heartbeat() -> None:
    nodes = three()
    run("propose 1 a\nprocess-ready 1\nstabilize 2 3\nstabilize 1 2\ndeliver-msgs drop=(3)", nodes)
    printed = run("tick-heartbeat 1\nprocess-ready 1\ndeliver-msgs 3\nprocess-ready 3", nodes)
    assert "1->3 MsgHeartbeat Term:1 Log:0/0 Commit:12" in printed[1]
    assert "HardState Term:1 Vote:1 Commit:12" in printed[3]


def test_a_follower_that_forgot_its_leader_answers_a_pre_vote() -> None:
    nodes = three("prevote=true checkquorum=true")
    run("campaign 2\nstabilize", nodes)
    assert run("raft-state", nodes)[0].startswith("1: StateLeader (Voter) Term:1 Lead:1")
    run("forget-leader 2\nforget-leader 3\ncampaign 2\nstabilize", nodes)
    assert "2: StateLeader (Voter) Term:2 Lead:2" in run("raft-state", nodes)[0]


def test_a_change_without_steps_is_refused_outside_a_joint_configuration() -> None:
    nodes = three()
    run("propose-conf-change 1 transition=explicit\nstabilize", nodes)
    assert run("raft-log 1", nodes)[0].splitlines()[-1] == '1/12 EntryNormal ""'


def test_asking_the_leader_to_keep_its_place_calls_off_a_transfer() -> None:
    nodes = three()
    run("propose 1 a\ntransfer-leadership from=1 to=2\ntransfer-leadership from=1 to=1", nodes)
    assert run("propose 1 b", nodes) == ["ok"]


def test_a_read_is_confirmed_by_a_quorum_before_it_is_ready() -> None:
    nodes = three()
    assert run("read-index 1 ctx\nprocess-ready 1", nodes)[1] == HEARTBEATS
    run("stabilize 2 3\ndeliver-msgs 1", nodes)
    assert run("process-ready 1", nodes) == ["Ready MustSync=false:\nReadStates [{11 [99 116 120]}]"]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", '""'),
        (b'say "hi"\\', '"say \\"hi\\"\\\\"'),
        (b"\x00\n\x7f\xff", '"\\x00\\n\\x7f\\xff"'),
        ("ünï\u200b".encode(), '"ünï\\u200b"'),
    ],
)
def test_data_is_quoted_as_in_the_transcripts(data: bytes, text: str) -> None:
    assert quoted(data) == text
