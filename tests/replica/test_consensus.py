"""What the shell of consensus does to be fast: proposals travel together, commit marks travel with entries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest

from swarmlet.errors import NotLeader, Overloaded, StorageError, SwarmletError
from swarmlet.ids import ClusterId, Index, PeerId, Term
from swarmlet.raft.message import Entry, HardState, Message, MessageKind, Packet, Snapshot, packet_codec
from swarmlet.raft.options import EntryId
from swarmlet.raft.ready import Ready
from swarmlet.replica import consensus as module
from swarmlet.replica.consensus import Consensus
from tests.replica.virtual_time import run

PEER = PeerId(2)


class Core:
    """A core that hands out what a test puts into it."""

    def __init__(self) -> None:
        self.readys: list[Ready] = []
        self.batches: list[tuple[bytes, ...]] = []
        self.fits: Callable[[bytes], bool] = lambda data: True
        self.deadline = 1e9

    def ready(self) -> Ready | None:
        return self.readys.pop(0) if self.readys else None

    def persisted(self, number: int) -> None: ...

    def tick(self, now: float) -> None: ...

    def propose(self, data: bytes) -> EntryId:
        return self.propose_batch((data,))

    def propose_batch(self, data: Sequence[bytes]) -> EntryId:
        if not all(map(self.fits, data)):
            raise Overloaded("too much")
        self.batches.append(tuple(data))
        return EntryId(Term(1), Index(1))

    def report_unreachable(self, peer: PeerId) -> None: ...


class Writer:
    """A disk that works until a test says that it is done."""

    is_full = False

    def __init__(self) -> None:
        self.written: list[tuple[int, HardState | None]] = []
        #: "disk", when it was given work; "left", when a packet left the node.
        self.events: list[str] = []

    def submit(
        self,
        number: int,
        entries: tuple[Entry, ...],
        hard_state: HardState | None,
        snapshot: Snapshot | None,
        must_sync: bool,
    ) -> None:
        self.written.append((number, hard_state))
        self.events.append("disk")

    def run(self, action: Callable[[], None]) -> None: ...

    def close(self) -> None: ...


class Applier:
    def restore(self, snapshot: Snapshot) -> None: ...

    def enqueue(self, entries: tuple[Entry, ...]) -> None: ...


class Shell:
    """A `Consensus` between fakes."""

    def __init__(self) -> None:
        self.core, self.writer = Core(), Writer()
        self.sent: list[Message] = []
        self.failures: list[StorageError] = []
        self.consensus = Consensus(
            core=self.core,  # type: ignore[arg-type]
            cluster_id=ClusterId("c"),
            applier=Applier(),
            clock=asyncio.get_running_loop().time,
            send=self._send,
            on_reads=lambda reads: None,
            on_role=lambda role: None,
            on_failure=self.failures.append,
        )
        self.consensus.writer = self.writer

    def _send(self, peer: PeerId, data: bytes) -> bool:
        packet: Packet = packet_codec.decode(data)
        self.sent += packet.messages
        # As a connection does: at the end of the turn.
        asyncio.get_running_loop().call_soon(self.writer.events.append, "left")
        return True

    def perform(self, number: int, *messages: Message, entries: int = 0, commit: int = 0) -> None:
        self.core.readys.append(
            Ready(
                number=number,
                messages=messages,
                entries=tuple(Entry(term=Term(1), index=Index(n + 1)) for n in range(entries)),
                hard_state=HardState(term=Term(1), commit=Index(commit)) if commit else None,
                must_sync=bool(entries),
            )
        )
        self.consensus.pump()


def refused(error: SwarmletError) -> None:
    raise AssertionError(f"refused: {error}")


def append(commit: int, entries: int = 0) -> Message:
    return Message(
        kind=MessageKind.APPEND,
        to=PEER,
        commit=Index(commit),
        entries=tuple(Entry(term=Term(1), index=Index(n + 1)) for n in range(entries)),
    )


def test_proposals_of_one_turn_are_one_batch() -> None:
    async def main() -> None:
        shell = Shell()
        for data in (b"a", b"b", b"c"):
            shell.consensus.propose(data, refused)
        assert shell.core.batches == []
        await asyncio.sleep(0)
        assert shell.core.batches == [(b"a", b"b", b"c")]

    run(main())


def test_a_batch_has_a_bound_of_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROPOSAL_BYTES_MAX", 4)

    async def main() -> None:
        shell = Shell()
        for data in (b"aa", b"bb", b"c", b"larger", b"d"):
            shell.consensus.propose(data, refused)
        await asyncio.sleep(0)
        assert shell.core.batches == [(b"aa", b"bb"), (b"c",), (b"larger",), (b"d",)]

    run(main())


def test_what_is_proposed_behind_a_refused_one_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROPOSAL_BYTES_MAX", 3)

    async def main() -> None:
        shell = Shell()
        heard: list[tuple[bytes, type[SwarmletError]]] = []
        shell.core.fits = lambda data: data != b"b"
        for data in (b"a", b"b", b"c", b"d"):
            shell.consensus.propose(
                data,
                lambda error, data=data: heard.append((data, type(error))),  # type: ignore[misc]
            )
        await asyncio.sleep(0)
        assert shell.core.batches == [(b"a",)]
        assert heard == [(b"b", Overloaded), (b"c", Overloaded), (b"d", Overloaded)]

    run(main())


def test_proposals_gather_while_the_disk_works_and_not_for_long() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, entries=1)
        shell.consensus.propose(b"a", refused)
        await asyncio.sleep(0)
        shell.consensus.propose(b"b", refused)
        await asyncio.sleep(0)
        assert shell.core.batches == []
        shell.consensus.on_durable(1)
        await asyncio.sleep(0)
        assert shell.core.batches == [(b"a", b"b")]
        shell.perform(2, entries=1)
        shell.consensus.propose(b"c", refused)
        await asyncio.sleep(2 * module.HOLD_SECONDS)
        assert shell.core.batches[1:] == [(b"c",)]  # although the disk still works

    run(main())


def test_a_commit_mark_travels_with_the_next_entries_or_soon_alone() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, append(commit=5))
        assert shell.sent == []
        shell.perform(2, append(commit=5, entries=1))
        assert shell.sent == [append(commit=5, entries=1)]
        shell.perform(3, append(commit=6))
        await asyncio.sleep(2 * module.NOTICE_SECONDS)
        assert shell.sent[1:] == [append(commit=6)]

    run(main())


def test_a_commit_mark_is_not_lost_behind_entries_that_know_less() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, append(commit=5, entries=1), append(commit=6))
        assert shell.sent == [append(commit=5, entries=1), append(commit=6)]

    run(main())


def test_an_append_that_only_asks_is_sent_although_nothing_is_committed() -> None:
    async def main() -> None:
        shell = Shell()
        heartbeat = Message(kind=MessageKind.HEARTBEAT, to=PEER)
        shell.perform(1, append(commit=0), heartbeat)
        assert shell.sent == [append(commit=0), heartbeat]
        shell.perform(2, append(commit=0))
        await asyncio.sleep(2 * module.NOTICE_SECONDS)
        assert shell.sent[2:] == [append(commit=0)]

    run(main())


def test_a_commit_mark_alone_costs_no_write_until_there_is_another_one() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, commit=5)
        assert shell.writer.written == []
        shell.perform(2, entries=1)
        assert shell.writer.written == [(2, HardState(term=Term(1), commit=Index(5)))]
        shell.consensus.on_durable(2)
        shell.perform(3, commit=6)
        shell.core.deadline = asyncio.get_running_loop().time()
        shell.consensus.pump()
        await asyncio.sleep(0.1)
        assert shell.writer.written[1:] == [(0, HardState(term=Term(1), commit=Index(6)))]

    run(main())


def test_a_bug_in_the_core_ends_the_node() -> None:
    async def main() -> None:
        shell = Shell()

        def fails(data: bytes) -> bool:
            raise RuntimeError("a bug")

        shell.core.fits = fails
        shell.consensus.propose(b"a", refused)
        await asyncio.sleep(0)
        assert shell.consensus.is_stopped
        assert "a bug" in str(shell.failures[0])

    run(main())


def test_a_refusal_names_the_leader_to_whoever_proposed() -> None:
    async def main() -> None:
        shell = Shell()
        heard: list[SwarmletError] = []

        def refuses(data: bytes) -> bool:
            raise NotLeader("7")

        shell.core.fits = refuses
        shell.consensus.propose(b"a", heard.append)
        await asyncio.sleep(0)
        assert [type(error) for error in heard] == [NotLeader]
        assert not shell.consensus.is_stopped

    run(main())


def test_an_idle_disk_begins_once_the_messages_have_left() -> None:
    """Its thread would take the interpreter from the connections, which write at the end of the turn."""

    async def main() -> None:
        shell = Shell()
        shell.perform(1, append(1, entries=1), entries=1)
        assert shell.writer.events == []
        await asyncio.sleep(0)
        assert shell.writer.events == ["left", "disk"]

    run(main())


def test_a_disk_at_work_or_one_without_messages_gets_its_work_at_once() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, entries=1)
        assert [number for number, _ in shell.writer.written] == [1]
        shell.perform(2, append(2, entries=1), entries=1)
        assert [number for number, _ in shell.writer.written] == [1, 2]

    run(main())


def test_what_waits_for_its_messages_reaches_the_disk_before_what_comes_later() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, append(1, entries=1), entries=1, commit=1)
        shell.perform(2, entries=1, commit=2)
        assert shell.writer.written == [
            (1, HardState(term=Term(1), commit=Index(1))),
            (2, HardState(term=Term(1), commit=Index(2))),
        ]
        await asyncio.sleep(0)
        assert len(shell.writer.written) == 2

    run(main())


def test_nothing_reaches_the_disk_of_a_node_that_stopped_meanwhile() -> None:
    async def main() -> None:
        shell = Shell()
        shell.perform(1, append(1, entries=1), entries=1)
        shell.consensus.stop()
        await asyncio.sleep(0)
        assert shell.writer.written == []

    run(main())
