"""A block reads like the same allocations one by one, whatever happened to some of them since."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.ids import AllocationId, EvaluationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import (
    Allocation,
    ClientStatus,
    DeploymentHealth,
    TaskEvent,
    TaskState,
    TaskStatus,
)
from swarmlet.model.resources import Quantity
from swarmlet.state.allocation_block import BLOCK_MASK, AllocationBlock, Piece, Reader, block_of, number_of
from swarmlet.state.allocation_table import AllocationTable
from swarmlet.state.block_report import Stamp, states_at
from swarmlet.state.command import ReportPattern

NODES = (NodeId("a"), NodeId("b"), NodeId("c"))
TEMPLATE = Allocation(
    id=AllocationId(""),
    namespace=Namespace("default"),
    job_id=JobId("shop"),
    job_version=3,
    group="web",
    index=0,
    node_id=NodeId(""),
    evaluation_id=EvaluationId("e"),
    resources=Quantity(cpu=2, memory=3, disk=5),
    create_index=7,
    modify_index=7,
)


@st.composite
def blocks(draw: st.DrawFn) -> AllocationBlock:
    start, pieces = draw(st.integers(0, 40)), []
    for gap, count, node in draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.integers(1, 9), st.sampled_from(NODES)), min_size=1, max_size=6
        )
    ):
        pieces.append(Piece(start=start + gap, count=count, node_id=node))
        start += gap + count
    seed = draw(st.integers(0, 10**6))
    template = msgspec.structs.replace(TEMPLATE, create_index=draw(st.integers(1, 3)))
    return block_of(("test", seed), template, tuple(draw(st.permutations(pieces))))


def facts(table: AllocationTable) -> list[object]:
    """Everything that can be read."""
    everything = list(table.with_id_prefix(""))
    return [
        everything,
        len(table),
        [table.get(row.id) for row in everything],
        [list(table.with_id_prefix(row.id[:cut])) for row in everything for cut in (1, 2, 5, 8, 9, 36)],
        list(table.of_job(TEMPLATE.namespace, TEMPLATE.job_id)),
        [list(table.on_node(node)) for node in NODES],
        [(table.quantity_on(node), table.held_on(node)) for node in NODES],
        list(table.finished()),
        table.held_count(TEMPLATE.namespace, TEMPLATE.job_id, 3),
        table.wanted_count(TEMPLATE.namespace, TEMPLATE.job_id),
    ]


changes = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(["delete", "run", "end", "say", "say"])), max_size=25
)
SAID = ReportPattern(
    client_status=ClientStatus.RUNNING,
    client_description="up",
    task_states={"main": TaskState(status=TaskStatus.RUNNING, events=(TaskEvent(kind="Started", at_ns=2),))},
)


def say(table: AllocationTable, target: Allocation, number: int) -> Allocation | None:
    """Have the node of `target` report it, where its block takes that; what it then is."""
    index_of = number_of(target.id)
    assert index_of is not None
    reader = table.block(index_of & BLOCK_MASK)
    if reader is None or not table.is_whole(reader.name):
        return None
    verdict = DeploymentHealth(is_healthy=True, at_ns=number) if number % 3 == 0 else None
    stamp = Stamp(SAID, number * 10, verdict, number, number * 100)
    known = table.get(target.id)
    assert known is not None
    kept = verdict if known.health is None else known.health
    table.tell([(reader, [(target.index, 1, stamp)])])
    if known.client_status is ClientStatus.RUNNING and known.task_states == states_at(SAID, number * 10):
        return known  # said before
    return msgspec.structs.replace(stamp.on(target), health=kept)


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.lists(blocks(), max_size=3, unique_by=lambda block: block.name), changes)
def test_a_table_of_blocks_reads_like_a_table_of_rows(
    given_blocks: list[AllocationBlock], happened: list[tuple[int, str]]
) -> None:
    table, plain = AllocationTable(), AllocationTable()
    for block in given_blocks:
        table.insert_block(block)
        plain.insert_all(Reader(block).by_index())
    before, was = table.copy(), facts(table)
    assert was == facts(plain)
    for number, what in happened:
        ids = [row.id for row in plain.with_id_prefix("")]
        if not ids:
            break
        target = plain.get(ids[number % len(ids)])
        assert target is not None
        if what == "say":
            said = say(table, target, number)
            if said is not None:
                plain.replace(said)
            continue
        for each in (table, plain):
            if what == "delete":
                each.delete(target.id)
                continue
            status = ClientStatus.RUNNING if what == "run" else ClientStatus.COMPLETE
            each.replace(msgspec.structs.replace(target, client_status=status, modify_index=number))
    assert facts(table) == facts(plain)
    restored = AllocationTable()
    restored.restore(table.blocks(), table.gone(), ())
    restored.restore_told(table.told())
    restored.restore((), (), table.rows())
    assert list(restored.told()) == list(table.told())
    assert facts(restored) == facts(table)
    assert (restored.blocks(), restored.gone()) == (table.blocks(), table.gone())
    assert facts(before) == was


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2_000_000), st.integers(0, 2_000_000), st.integers(0))
def test_an_id_leads_back_to_its_index(count: int, index: int, seed: int) -> None:
    reader = Reader(block_of((seed,), TEMPLATE, (Piece(start=0, count=count, node_id=NODES[0]),)))
    found = reader.get(reader.id_of(index % count))
    assert found is not None
    assert (found.index, found.node_id) == (index % count, NODES[0])
    assert found.id == reader.id_of(index % count)


def test_ids_of_a_block_differ_in_the_part_that_people_type() -> None:
    reader = Reader(block_of(("x",), TEMPLATE, (Piece(start=0, count=5000, node_id=NODES[0]),)))
    assert len({reader.id_of(index)[:8] for index in range(5000)}) == 5000
    assert {reader.id_of(index)[14] for index in range(50)} == {"8"}


def test_foreign_ids_are_of_no_block() -> None:
    table = AllocationTable()
    block = block_of(("x",), TEMPLATE, (Piece(start=0, count=3, node_id=NODES[0]),))
    table.insert_block(block)
    last = Reader(block).id_of(2)
    for foreign in ("", "no-uuid", last[:-1], last.replace("8", "4"), Reader(block).id_of(3)):
        assert table.get(AllocationId(foreign)) is None
    assert list(table.with_id_prefix("zz")) == []


@given(st.lists(blocks(), max_size=5, unique_by=lambda block: block.name), st.data())
def test_what_blocks_have_on_a_node_is_the_same_whichever_of_them_are_sorted(
    made: list[AllocationBlock], data: st.DataObject
) -> None:
    table = AllocationTable()
    for block in made:
        table.insert_block(block)
    for reader in data.draw(st.lists(st.sampled_from(table.unsorted_blocks()))) if made else []:
        reader.sort()
    expected = sorted(made, key=lambda block: (block.template.create_index, block.name))
    for node in (*NODES, NodeId("nowhere")):
        assert [(reader.name, tuple(pieces)) for reader, pieces in table.pieces_on(node)] == [
            (block.name, on)
            for block in expected
            if (on := tuple(piece for piece in block.pieces if piece.node_id == node))
        ]
    assert table.unsorted_blocks() == []
