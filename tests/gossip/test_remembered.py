"""Members known from disk: looked for, found again, and told to nobody before that."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import msgspec
import pytest

from swarmlet.gossip.effect import EventKind, Member, MemberState
from swarmlet.gossip.packet import Ack, Ping, Update, decode_sync
from swarmlet.ids import NodeId
from swarmlet.joining import remembered_members
from swarmlet.joining.remembered_members import MEMBERS_MAX, RememberedMembers
from swarmlet.simulation.gossip_cluster import Cluster
from tests.gossip.double import CLUSTER, Bench, alive, member


def remembering(*names: str) -> Bench:
    bench = Bench()
    bench.core.acquaint(bench.now, [member(name) for name in names], is_remembered=True)
    bench.take()
    return bench


def remembered(bench: Bench) -> set[str]:
    return {each.id for each in bench.core.members() if each.is_remembered}


def told(bench: Bench) -> set[str]:
    """Of whom a full exchange tells."""
    return {update.id for update in decode_sync(bench.hear_sync("stranger", ()), CLUSTER).updates}


def test_whom_only_the_disk_knows_is_pinged_and_told_to_nobody() -> None:
    bench = remembering("a", "b")
    assert remembered(bench) == {"a", "b"}
    assert told(bench) == {"me"}
    bench.core.on_timer(bench.core.deadline)
    effects = bench.run_for(2.0)
    assert effects != []
    assert bench.kinds("a")[:1] != [EventKind.JOINED]


def test_one_that_answers_is_a_member_again() -> None:
    bench = remembering("a")
    bench.answering.add("a")
    bench.run_for(2.0)
    assert remembered(bench) == set()
    assert bench.kinds("a") == [EventKind.JOINED]
    assert told(bench) == {"me", "a"}


def test_one_that_had_left_and_comes_back_joins_once() -> None:
    bench = remembering("a")
    left = Update(id="a", state=MemberState.LEFT, incarnation=0, accuser="a")
    bench.hear("b", updates=(left,))
    bench.hear("b", updates=(alive("a", incarnation=1),))
    assert bench.kinds("a") == [EventKind.JOINED]


def test_one_that_another_tells_of_is_a_member_again() -> None:
    bench = remembering("a", "b")
    bench.hear_sync("c", (alive("a"),))
    assert remembered(bench) == {"b"}


def test_one_that_is_silent_dies_and_is_still_told_to_nobody() -> None:
    bench = remembering("a")
    bench.run_for(60.0)
    assert bench.state("a") in {MemberState.SUSPECT, MemberState.DEAD}
    assert remembered(bench) == {"a"}
    assert told(bench) == {"me"}


def test_an_accusation_of_somebody_else_who_remembers_proves_nothing() -> None:
    bench = remembering("a", "b")
    bench.hear("b", (Ping(sequence=1, target="me"),))
    bench.hear("b", (Ack(sequence=1, subject="b"),))
    accused = msgspec.structs.replace(alive("a"), state=MemberState.SUSPECT, accuser="b", content=0)
    bench.hear("b", updates=(accused,))
    assert "a" in remembered(bench)


def test_a_cluster_whose_members_all_restart_finds_itself_from_disk_alone() -> None:
    cluster = Cluster(3, 6)
    cluster.run_for(5.0)
    known = {name: cluster.cores[name].members() for name in cluster.names}
    for name in cluster.names:
        cluster.power_off(name)
    cluster.run_for(20.0)
    for name in cluster.names:
        cluster.start(name, join=False)
        cluster.cores[name].acquaint(cluster.world.now, known[name], is_remembered=True)
        cluster.act(name, lambda core: None)
        cluster.run_for(0.5)
    cluster.run_for(10.0)
    for name in cluster.names:
        assert cluster.agrees(name, MemberState.ALIVE)
        assert not any(each.is_remembered for each in cluster.cores[name].members())


# The file.


class Book:
    """A file of remembered members, its wall clock, and who is there."""

    def __init__(self, folder: Path, *members: Member) -> None:
        self.now = 1_000_000.0
        self.members = list(members)
        self.path = folder / "members.json"
        self.file = RememberedMembers(
            self.path, NodeId("me"), lambda: self.members, lambda: self.now, 24 * 3600.0
        )

    async def write(self) -> None:
        """Let the loop look, a few times."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await self.file.run()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered_members, "LOOK_SECONDS", 0.01)


async def test_the_living_others_are_remembered(tmp_path: Path) -> None:
    dead = msgspec.structs.replace(member("d"), state=MemberState.DEAD)
    book = Book(tmp_path, member("me"), member("b", incarnation=7), member("a"), dead)
    await book.write()
    assert book.file.load() == [member("a"), member("b", incarnation=7)]


async def test_a_file_that_is_old_damaged_or_of_the_future_counts_for_nothing(tmp_path: Path) -> None:
    book = Book(tmp_path, *[member(f"n{number}") for number in range(2 * MEMBERS_MAX)])
    assert book.file.load() == []
    await book.write()
    assert len(book.file.load()) == MEMBERS_MAX
    book.now += 25 * 3600
    assert book.file.load() == []
    book.now -= 26 * 3600
    assert book.file.load() == []
    book.path.write_bytes(b"{")
    assert book.file.load() == []
