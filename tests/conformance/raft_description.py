"""Writes Raft's values the way the transcripts of etcd's Raft print them."""

from __future__ import annotations

from collections.abc import Iterable

from swarmlet.ids import Index, Term
from swarmlet.raft.core import decode_config_change
from swarmlet.raft.message import (
    ConfigChangeKind,
    ConfigState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    SnapshotMeta,
)
from swarmlet.raft.options import PeerProgress
from swarmlet.raft.outbox import APPEND_THREAD, APPLY_THREAD
from swarmlet.raft.progress import ProgressState
from swarmlet.raft.ready import Ready, Role

MESSAGE_NAMES = {
    MessageKind.HUP: "MsgHup",
    MessageKind.BEAT: "MsgBeat",
    MessageKind.PROPOSE: "MsgProp",
    MessageKind.APPEND: "MsgApp",
    MessageKind.APPEND_RESPONSE: "MsgAppResp",
    MessageKind.VOTE: "MsgVote",
    MessageKind.VOTE_RESPONSE: "MsgVoteResp",
    MessageKind.SNAPSHOT: "MsgSnap",
    MessageKind.HEARTBEAT: "MsgHeartbeat",
    MessageKind.HEARTBEAT_RESPONSE: "MsgHeartbeatResp",
    MessageKind.UNREACHABLE: "MsgUnreachable",
    MessageKind.SNAPSHOT_STATUS: "MsgSnapStatus",
    MessageKind.CHECK_QUORUM: "MsgCheckQuorum",
    MessageKind.TRANSFER_LEADER: "MsgTransferLeader",
    MessageKind.TIMEOUT_NOW: "MsgTimeoutNow",
    MessageKind.READ_INDEX: "MsgReadIndex",
    MessageKind.READ_INDEX_RESPONSE: "MsgReadIndexResp",
    MessageKind.PRE_VOTE: "MsgPreVote",
    MessageKind.PRE_VOTE_RESPONSE: "MsgPreVoteResp",
    MessageKind.STORAGE_APPEND: "MsgStorageAppend",
    MessageKind.STORAGE_APPEND_RESPONSE: "MsgStorageAppendResp",
    MessageKind.STORAGE_APPLY: "MsgStorageApply",
    MessageKind.STORAGE_APPLY_RESPONSE: "MsgStorageApplyResp",
    MessageKind.FORGET_LEADER: "MsgForgetLeader",
}
ROLE_NAMES = {
    Role.FOLLOWER: "StateFollower",
    Role.CANDIDATE: "StateCandidate",
    Role.LEADER: "StateLeader",
    Role.PRE_CANDIDATE: "StatePreCandidate",
}
PROGRESS_NAMES = {
    ProgressState.PROBE: "StateProbe",
    ProgressState.REPLICATE: "StateReplicate",
    ProgressState.SNAPSHOT: "StateSnapshot",
}
ENTRY_NAMES = {
    EntryKind.NORMAL: "EntryNormal",
    EntryKind.CONFIG_CHANGE: "EntryConfChange",
    EntryKind.CONFIG_CHANGE_V2: "EntryConfChangeV2",
}
STEP_LETTERS = {
    ConfigChangeKind.ADD_VOTER: "v",
    ConfigChangeKind.REMOVE: "r",
    ConfigChangeKind.UPDATE: "u",
    ConfigChangeKind.ADD_LEARNER: "l",
}


def _peer(peer: int) -> str:
    threads: dict[int, str] = {APPEND_THREAD: "AppendThread", APPLY_THREAD: "ApplyThread"}
    return threads.get(peer, str(peer) if peer else "None")


def _list(peers: Iterable[int]) -> str:
    return "[" + " ".join(map(str, peers)) + "]"


def quoted(data: bytes) -> str:
    """Bytes in double quotes, as Go's %q writes them: printable characters stay, the rest is escaped."""
    short = {'"': '\\"', "\\": "\\\\", "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r",
             "\t": "\\t", "\v": "\\v"}  # fmt: skip
    written = []
    for character in data.decode("utf-8", "surrogateescape"):
        number = ord(character)
        if character in short:
            written.append(short[character])
        elif 0xDC80 <= number <= 0xDCFF:
            written.append(f"\\x{number - 0xDC00:02x}")
        elif character.isprintable():
            written.append(character)
        elif number < 0x80:
            written.append(f"\\x{number:02x}")
        else:
            written.append(f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}")
    return '"' + "".join(written) + '"'


def entry_text(entry: Entry) -> str:
    """`term/index kind data`."""
    if entry.kind is EntryKind.NORMAL:
        payload = quoted(entry.data)
    else:
        steps = decode_config_change(entry).steps
        payload = " ".join(f"{STEP_LETTERS[step.kind]}{step.peer}" for step in steps)
    return f"{entry.term}/{entry.index} {ENTRY_NAMES[entry.kind]} {payload}".rstrip()


def config_state_text(state: ConfigState) -> str:
    """All five fields of a configuration."""
    return (
        f"Voters:{_list(state.voters)} VotersOutgoing:{_list(state.voters_outgoing)}"
        f" Learners:{_list(state.learners)} LearnersNext:{_list(state.learners_next)}"
        f" AutoLeave:{str(state.auto_leave).lower()}"
    )


def snapshot_text(meta: SnapshotMeta) -> str:
    """A snapshot's metadata."""
    return f"Index:{meta.index} Term:{meta.term} ConfState:{config_state_text(meta.config)}"


def message_lines(message: Message) -> list[str]:
    """One message, over several lines where it carries much."""
    text = (
        f"{_peer(message.sender)}->{_peer(message.to)} {MESSAGE_NAMES[message.kind]} Term:{message.term}"
        f" Log:{message.log_term}/{message.index}"
    )
    if message.reject:
        text += f" Rejected (Hint: {message.reject_hint})"
    if message.commit:
        text += f" Commit:{message.commit}"
    if message.vote:
        text += f" Vote:{message.vote}"
    lines = [text]
    entries = message.entries
    if message.kind in {MessageKind.READ_INDEX, MessageKind.READ_INDEX_RESPONSE}:
        # There a read's context travels as an entry.
        entries = (Entry(term=Term(0), index=Index(0), data=message.context),)
    if len(entries) == 1:
        lines[-1] += f" Entries:[{entry_text(entries[0])}]"
    elif entries:
        lines[-1] += " Entries:["
        lines += [f"  {entry_text(entry)}" for entry in entries]
        lines.append("]")
    if message.snapshot is not None and message.snapshot.meta.index:
        lines.append(f"  Snapshot: {snapshot_text(message.snapshot.meta)}")
    if message.responses:
        lines[-1] += " Responses:["
        for response in message.responses:
            lines += [f"  {line}" for line in message_lines(response)]
        lines.append("]")
    return lines


def hard_state_text(state: HardState) -> str:
    """Term, vote unless it is unset, commit."""
    vote = f" Vote:{state.vote}" if state.vote else ""
    return f"Term:{state.term}{vote} Commit:{state.commit}"


def ready_lines(ready: Ready, messages: Iterable[Message]) -> list[str]:
    """A Ready, with the messages as the mode of the transcript orders them."""
    lines = [f"Ready MustSync={str(ready.must_sync).lower()}:"]
    if ready.soft_state is not None:
        lines.append(f"Lead:{ready.soft_state.leader} State:{ROLE_NAMES[ready.soft_state.role]}")
    if ready.hard_state is not None:
        lines.append(f"HardState {hard_state_text(ready.hard_state)}")
    if ready.reads:
        reads = " ".join(f"{{{read.index} [{' '.join(map(str, read.context))}]}}" for read in ready.reads)
        lines.append(f"ReadStates [{reads}]")
    if ready.entries:
        lines += ["Entries:", *map(entry_text, ready.entries)]
    if ready.snapshot is not None:
        lines.append(f"Snapshot {snapshot_text(ready.snapshot.meta)}")
    if ready.committed_entries:
        lines += ["CommittedEntries:", *map(entry_text, ready.committed_entries)]
    described = [line for message in messages for line in message_lines(message)]
    return lines + (["Messages:", *described] if described else [])


def progress_text(
    state: ProgressState,
    match: int,
    next_index: int,
    *,
    is_learner: bool = False,
    is_paused: bool = False,
    pending_snapshot: int = 0,
    is_recently_active: bool = True,
    inflight: int = 0,
    is_inflight_full: bool = False,
) -> str:
    """What a leader knows of a peer."""
    text = f"{PROGRESS_NAMES[state]} match={match} next={next_index}"
    text += " learner" if is_learner else ""
    text += " paused" if is_paused else ""
    text += f" pendingSnap={pending_snapshot}" if pending_snapshot else ""
    text += "" if is_recently_active else " inactive"
    if inflight:
        text += f" inflight={inflight}" + ("[full]" if is_inflight_full else "")
    return text


def peer_progress_text(progress: PeerProgress) -> str:
    """The same, from a status."""
    return progress_text(
        progress.state,
        progress.match,
        progress.next,
        is_learner=progress.is_learner,
        is_paused=progress.is_paused,
        pending_snapshot=progress.pending_snapshot,
        is_recently_active=progress.is_recently_active,
        inflight=progress.inflight,
        is_inflight_full=progress.is_inflight_full,
    )
