"""Runs the commands of the `raft` transcripts on real cores with logs in memory.

One tick of the transcripts is one second of each node's own clock: three make an election timeout, one a heartbeat.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from swarmlet.errors import Unavailable
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.core import Raft, decode_config_change
from swarmlet.raft.log import NO_LIMIT
from swarmlet.raft.memory_log import MemoryLog
from swarmlet.raft.message import (
    ConfigChange,
    ConfigChangeStep,
    ConfigChangeTransition,
    ConfigState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    Snapshot,
    SnapshotMeta,
    config_change_codec,
)
from swarmlet.raft.options import RaftConfig, ReadMode
from swarmlet.raft.outbox import APPEND_THREAD, APPLY_THREAD, LOCAL, RESPONSES
from swarmlet.raft.ready import Ready
from tests.conformance.raft_description import (
    MESSAGE_NAMES,
    ROLE_NAMES,
    STEP_LETTERS,
    entry_text,
    message_lines,
    peer_progress_text,
    ready_lines,
)
from tests.conformance.transcript import Directive, Unknown

ELECTION_TICKS = 3
#: What the network may not deliver to a peer that does not know the sender.
FROM_MEMBERS = RESPONSES | {MessageKind.UNREACHABLE, MessageKind.READ_INDEX_RESPONSE}
READ_MODES = {"safe": ReadMode.QUORUM, "lease-based": ReadMode.LEASE}
LEVELS = {level: level == "none" for level in ("debug", "info", "warn", "error", "fatal", "none")}
#: Every command, with the options that it has.
COMMANDS: dict[str, frozenset[str]] = {
    "_breakpoint": frozenset(),
    "add-nodes": frozenset({
        "async-storage-writes", "checkquorum", "content", "disable-conf-change-validation", "index", "inflight",
        "learners", "max-committed-size-per-ready", "prevote", "read-only", "step-down-on-removal", "voters",
    }),
    "campaign": frozenset(),
    "compact": frozenset(),
    "deliver-msgs": frozenset({"drop", "type"}),
    "forget-leader": frozenset(),
    "log-level": frozenset(),
    "process-append-thread": frozenset(),
    "process-apply-thread": frozenset(),
    "process-ready": frozenset(),
    "propose": frozenset(),
    "propose-conf-change": frozenset({"transition", "v1"}),
    "raft-log": frozenset(),
    "raft-state": frozenset(),
    "read-index": frozenset(),
    "report-unreachable": frozenset(),
    "send-snapshot": frozenset(),
    "set-randomized-election-timeout": frozenset({"timeout"}),
    "stabilize": frozenset({"log-level"}),
    "status": frozenset(),
    "tick-election": frozenset(),
    "tick-heartbeat": frozenset(),
    "transfer-leadership": frozenset({"from", "to"}),
}  # fmt: skip
TRANSITIONS = {
    "auto": ConfigChangeTransition.AUTO,
    "implicit": ConfigChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfigChangeTransition.JOINT_EXPLICIT,
}


def parse_steps(words: list[str]) -> tuple[ConfigChangeStep, ...]:
    """`v1 l2 r3 u4` as steps."""
    kinds = {letter: kind for kind, letter in STEP_LETTERS.items()}
    for word in words:
        assert word[0] in kinds, f"a step begins with one of {', '.join(kinds)}: {word!r}"
    return tuple(ConfigChangeStep(kind=kinds[word[0]], peer=PeerId(int(word[1:]))) for word in words)


class LatestSnapshotLog(MemoryLog):
    """A log whose snapshot to send is always the newest state the node applied."""

    latest: Snapshot = Snapshot()

    def snapshot(self) -> Snapshot | None:
        """What the state machine has now."""
        return self.latest


@dataclass
class Node:
    """One peer with its log, its clock and, in asynchronous mode, the work that its threads have."""

    core: Raft
    log: LatestSnapshotLog
    is_async: bool
    now: float = 0.0
    append_work: list[Message] = field(default_factory=list)
    apply_work: list[Message] = field(default_factory=list)


class Nodes:
    """The world of one transcript."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.messages: list[Message] = []
        self.lines: list[str] = []
        self.indent = ""
        self.is_quiet = False
        #: Why the command failed; told even where nothing else is.
        self.failure = ""

    def run(self, directive: Directive) -> str:
        """What the command prints, `ok` when nothing. Raises Unknown."""
        directive.check(COMMANDS)
        self.lines, self.failure = [], ""
        was_quiet = self.is_quiet
        if "log-level" in directive.values:
            self.is_quiet = directive.choice("log-level", LEVELS, "debug")
        getattr(self, "_" + directive.command.strip("_").replace("-", "_"))(directive)
        printed = [] if self.is_quiet else self.lines
        if "log-level" in directive.values:
            self.is_quiet = was_quiet
        return "\n".join([*printed, *([self.failure] if self.failure else [])]) or "ok"

    def _write(self, *lines: str) -> None:
        self.lines += [self.indent + line for line in lines]

    def _node(self, number: int | str) -> Node:
        return self.nodes[int(number) - 1]

    def _selected(self, directive: Directive) -> list[int]:
        return directive.numbers() or list(range(1, len(self.nodes) + 1))

    # -- setting up

    def _breakpoint(self, directive: Directive) -> None:
        """For somebody with a debugger."""

    def _log_level(self, directive: Directive) -> None:
        level = directive.words[0].lower()
        if level not in LEVELS:
            raise Unknown(directive, f"the level {level!r}", LEVELS)
        self.is_quiet = LEVELS[level]

    def _add_nodes(self, directive: Directive) -> None:
        voters, learners = (
            tuple(PeerId(int(item)) for item in directive.values.get(key, []))
            for key in ("voters", "learners")
        )
        for _ in range(int(directive.words[0])):
            log = LatestSnapshotLog()
            index = int(directive.one("index", "0"))
            if index:
                meta = SnapshotMeta(
                    index=Index(index), term=Term(1), config=ConfigState(voters=voters, learners=learners)
                )
                log.save_snapshot(meta, directive.one("content", "").strip('"').encode())
                log.latest = Snapshot(meta=meta)
            is_async = directive.flag("async-storage-writes")
            config = RaftConfig(
                peer=PeerId(len(self.nodes) + 1),
                heartbeat_seconds=1.0,
                election_seconds=float(ELECTION_TICKS),
                pre_vote=directive.flag("prevote"),
                check_quorum=directive.flag("checkquorum"),
                step_down_on_removal=directive.flag("step-down-on-removal"),
                read_mode=directive.choice("read-only", READ_MODES, "safe"),
                append_bytes_max=NO_LIMIT,
                inflight_messages_max=int(directive.one("inflight", str(2**31))),
                inflight_bytes_max=0,
                uncommitted_bytes_max=NO_LIMIT,
                snapshot_retry_seconds=float("inf"),
                disk_stall_seconds=float("inf"),
                applying_bytes_max=int(directive.one("max-committed-size-per-ready", str(NO_LIMIT))),
                pipelined=is_async,
                disable_config_change_validation=directive.flag("disable-conf-change-validation"),
            )
            core = Raft(config, log, random.Random(len(self.nodes)), 0.0)
            self.nodes.append(Node(core, log, is_async))

    # -- asking

    def _raft_state(self, directive: Directive) -> None:
        for node in self.nodes:
            status = node.core.status()
            voters = {*status.config.voters, *status.config.voters_outgoing}
            kind = "Voter" if status.peer in voters else "Non-Voter"
            self._write(
                f"{status.peer}: {ROLE_NAMES[status.role]} ({kind}) Term:{status.term} Lead:{status.leader}"
            )

    def _status(self, directive: Directive) -> None:
        for peer, progress in self._node(directive.words[0]).core.status().progress.items():
            self._write(f"{peer}: {peer_progress_text(progress)}")

    def _raft_log(self, directive: Directive) -> None:
        self._write_log(self._node(directive.words[0]).log)

    def _write_log(self, log: MemoryLog) -> None:
        first, last = log.first_index(), log.last_index()
        if last < first:
            self._write(f"log is empty: first index={first}, last index={last}")
            return
        self._write(*map(entry_text, log.entries(first, Index(last + 1), NO_LIMIT)))

    # -- poking

    def _campaign(self, directive: Directive) -> None:
        self._node(directive.words[0]).core.campaign()

    def _compact(self, directive: Directive) -> None:
        log = self._node(directive.words[0]).log
        log.compact(int(directive.words[1]))
        self._write_log(log)

    def _forget_leader(self, directive: Directive) -> None:
        self._node(directive.words[0]).core.forget_leader()

    def _read_index(self, directive: Directive) -> None:
        number, context = directive.words
        try:
            self._node(number).core.read_index(context.encode())
        except Unavailable:
            self.failure = "raft proposal dropped"

    def _report_unreachable(self, directive: Directive) -> None:
        self._node(directive.words[0]).core.report_unreachable(PeerId(int(directive.words[1])))

    def _transfer_leadership(self, directive: Directive) -> None:
        self._node(directive.one("from", "")).core.transfer(PeerId(int(directive.one("to", ""))))

    def _set_randomized_election_timeout(self, directive: Directive) -> None:
        self._node(directive.words[0]).core._peer.randomized_timeout = float(directive.one("timeout", ""))

    def _tick_election(self, directive: Directive) -> None:
        self._tick(directive.words[0], ELECTION_TICKS)

    def _tick_heartbeat(self, directive: Directive) -> None:
        self._tick(directive.words[0], 1)

    def _tick(self, number: str, ticks: int) -> None:
        node = self._node(number)
        for _ in range(ticks):
            node.now += 1.0
            node.core.tick(node.now)

    def _propose(self, directive: Directive) -> None:
        data = directive.words[1] if len(directive.words) > 1 else ""
        self._propose_entry(directive.words[0], EntryKind.NORMAL, data.strip('"').encode())

    def _propose_conf_change(self, directive: Directive) -> None:
        change = ConfigChange(
            transition=directive.choice("transition", TRANSITIONS, "auto"),
            steps=parse_steps(" ".join(directive.body).split()),
        )
        kind = EntryKind.CONFIG_CHANGE if directive.flag("v1") else EntryKind.CONFIG_CHANGE_V2
        data = b"" if change == ConfigChange() else config_change_codec.encode(change)
        self._propose_entry(directive.words[0], kind, data)

    def _propose_entry(self, number: str, kind: EntryKind, data: bytes) -> None:
        """As a peer's own clients do in etcd: a follower forwards, a refused change leaves an empty entry."""
        entry = Entry(term=Term(0), index=Index(0), kind=kind, data=data)
        try:
            self._node(number).core._step(
                Message(kind=MessageKind.PROPOSE, sender=PeerId(int(number)), entries=(entry,))
            )
        except Unavailable:
            self.failure = "raft proposal dropped"

    def _send_snapshot(self, directive: Directive) -> None:
        source, target = directive.numbers()
        node = self._node(source)
        message = Message(
            kind=MessageKind.SNAPSHOT,
            to=PeerId(target),
            sender=PeerId(source),
            term=node.core.term,
            snapshot=node.log.latest,
        )
        self.messages.append(message)
        self._write(*message_lines(message))

    # -- running

    def _deliver_msgs(self, directive: Directive) -> None:
        kinds: dict[str, MessageKind | None] = {name: kind for kind, name in MESSAGE_NAMES.items()}
        kind = directive.choice("type", kinds, "") if "type" in directive.values else None
        count = 0
        for word, dropped in directive.arguments:
            if word == "drop":
                count += sum(self._deliver(int(item), kind, is_dropped=True) for item in dropped)
            elif not dropped:
                count += self._deliver(int(word), kind, is_dropped=False)
        if not count:
            self._write("no messages")

    def _waiting(self, number: int) -> bool:
        return any(message.to == number for message in self.messages)

    def _deliver(self, number: int, kind: MessageKind | None, *, is_dropped: bool) -> int:
        """How many there were."""

        def is_taken(message: Message) -> bool:
            is_local = message.sender in (APPEND_THREAD, APPLY_THREAD, message.to)
            return message.to == number and kind in (None, message.kind) and not (is_dropped and is_local)

        taken = [message for message in self.messages if is_taken(message)]
        self.messages = [message for message in self.messages if not is_taken(message)]
        for message in taken:
            lines = message_lines(message)
            if is_dropped:
                self._write("dropped: " + lines[0], *lines[1:])
                continue
            self._write(*lines)
            self._receive(self._node(number), message)
        return len(taken)

    def _receive_all(self, number: int) -> None:
        self._deliver(number, None, is_dropped=False)

    def _receive(self, node: Node, message: Message) -> None:
        core = node.core
        if message.sender in (APPEND_THREAD, APPLY_THREAD):
            core._step(message)
            return
        if message.kind in FROM_MEMBERS and message.sender not in core._peer.peers.progress:
            self._write("raft: cannot step as peer not found")
            return
        if message.kind in LOCAL:
            self._write("raft: cannot step raft local message")
            return
        core._peer.now = node.now
        try:
            core._step(message)
        except Unavailable:
            self._write("raft proposal dropped")

    def _process_ready(self, directive: Directive) -> None:
        self._each(directive, "handling Ready", self._handle_ready)

    def _process_append_thread(self, directive: Directive) -> None:
        self._each(directive, "processing append thread", self._do_append_work)

    def _process_apply_thread(self, directive: Directive) -> None:
        self._each(directive, "processing apply thread", self._do_apply_work)

    def _each(self, directive: Directive, title: str, work: Callable[[int], None]) -> None:
        selected = self._selected(directive)
        for number in selected:
            if len(selected) == 1:
                work(number)
            else:
                self._titled(number, title, work)

    def _titled(self, number: int, title: str, work: Callable[[int], None]) -> None:
        self._write(f"> {number} {title}")
        self.indent += "  "
        work(number)
        self.indent = self.indent[:-2]

    def _stabilize(self, directive: Directive) -> None:
        selected = self._selected(directive)
        is_busy = True
        while is_busy:
            is_busy = False
            for number in selected:
                if self._node(number).core._has_ready():
                    self._titled(number, "handling Ready", self._handle_ready)
                    is_busy = True
            for number in selected:
                if self._waiting(number):
                    self._titled(number, "receiving messages", self._receive_all)
                    is_busy = True
            for number in selected:
                if self._node(number).append_work:
                    self._titled(number, "processing append thread", self._do_all_append_work)
                    is_busy = True
            for number in selected:
                if self._node(number).apply_work:
                    self._titled(number, "processing apply thread", self._do_all_apply_work)
                    is_busy = True

    def _do_all_append_work(self, number: int) -> None:
        while self._node(number).append_work:
            self._do_append_work(number)

    def _do_all_apply_work(self, number: int) -> None:
        while self._node(number).apply_work:
            self._do_apply_work(number)

    def _handle_ready(self, number: int) -> None:
        node = self._node(number)
        ready = node.core.ready()
        if ready is None:
            self._write("<empty Ready>")
            return
        if node.is_async:
            self._queue_async(node, ready)
            return
        messages = (*ready.messages, *ready.messages_after_persist)
        self._write(*ready_lines(ready, messages))
        self._persist(node, ready.entries, ready.hard_state, ready.snapshot)
        self._apply(node, ready.committed_entries)
        self.messages += messages
        node.core.persisted(ready.number)
        if ready.committed_entries:
            node.core.applied(ready.committed_entries[-1].index)

    def _queue_async(self, node: Node, ready: Ready) -> None:
        """Asynchronous storage: the work and the answers it allows travel as messages to the node's threads."""
        peer = node.core.status().peer
        responses = node.core.responses(ready.number)
        node.core._peer.outbox._awaiting.pop()
        messages = list(ready.messages)
        # Entries whose write is under way already ask for nothing more, though each answer covers them again.
        waits = any(response.kind is not MessageKind.STORAGE_APPEND_RESPONSE for response in responses)
        if ready.entries or ready.hard_state or ready.snapshot or waits:
            hard = ready.hard_state or HardState()
            work = Message(
                kind=MessageKind.STORAGE_APPEND,
                to=APPEND_THREAD,
                sender=peer,
                term=hard.term,
                vote=hard.vote,
                commit=hard.commit,
                entries=ready.entries,
                snapshot=ready.snapshot,
                responses=responses,
            )
            messages.append(work)
            node.append_work.append(work)
        if ready.committed_entries:
            answer = Message(
                kind=MessageKind.STORAGE_APPLY_RESPONSE,
                to=peer,
                sender=APPLY_THREAD,
                entries=ready.committed_entries,
            )
            work = Message(
                kind=MessageKind.STORAGE_APPLY,
                to=APPLY_THREAD,
                sender=peer,
                entries=ready.committed_entries,
                responses=(answer,),
            )
            messages.append(work)
            node.apply_work.append(work)
        self._write(*ready_lines(ready, messages))
        self.messages += ready.messages

    def _do_append_work(self, number: int) -> None:
        node = self._node(number)
        if not node.append_work:
            self._write("no append work to perform")
            return
        work = node.append_work.pop(0)
        self._write_work(work)
        hard = HardState(term=work.term, vote=work.vote, commit=work.commit)
        self._persist(node, work.entries, None if hard == HardState() else hard, work.snapshot)
        self.messages += work.responses

    def _do_apply_work(self, number: int) -> None:
        node = self._node(number)
        if not node.apply_work:
            self._write("no apply work to perform")
            return
        work = node.apply_work.pop(0)
        self._write_work(work)
        self._apply(node, work.entries)
        self.messages += work.responses

    def _write_work(self, work: Message) -> None:
        bare = msgspec.structs.replace(work, responses=())
        self._write("Processing:", *message_lines(bare), "Responses:")
        for response in work.responses:
            self._write(*message_lines(response))

    def _persist(
        self,
        node: Node,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
    ) -> None:
        if snapshot is not None:
            node.log.save_snapshot(snapshot.meta, snapshot.data)
            node.log.latest = snapshot
        node.log.append(entries, hard_state)

    def _apply(self, node: Node, entries: tuple[Entry, ...]) -> None:
        for entry in entries:
            config = node.log.latest.meta.config
            if entry.kind is not EntryKind.NORMAL:
                config = node.core.apply_config_change(decode_config_change(entry))
            node.log.latest = Snapshot(meta=SnapshotMeta(index=entry.index, term=entry.term, config=config))
