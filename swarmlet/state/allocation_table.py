"""The allocation table: runs of identical allocations plus what became different about single ones.

Callers insert whole runs and replace single allocations; they see one `Allocation` per id and never how it is
kept: small plans as a row each, large ones as a block (`allocation_block`), of which only those that changed
since have a row.
Beside the rows it keeps, up to date with every change, what each node's allocations take (the same as
`model.fit.Usage.of` would count), so that a check at apply costs what is asked, not what runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import chain
from operator import itemgetter
from typing import Any

import immutables
import msgspec

from swarmlet.ids import AllocationId, JobId, Namespace, NodeId
from swarmlet.model.allocation import AllocatedCores, AllocatedDevice, Allocation, ClientStatus
from swarmlet.model.fit import Usage
from swarmlet.model.node import Node
from swarmlet.model.resources import AllocatedPort, Quantity
from swarmlet.state.allocation_block import BLOCK_MASK, AllocationBlock, Piece, Reader, number_of
from swarmlet.state.block_report import (
    NOTHING_TOLD,
    Stamp,
    Told,
    ToldChunk,
    read,
    retold,
    stamp_of,
    statuses_of,
    written,
)
from swarmlet.state.ordered import Ordered, with_prefix, with_text_prefix
from swarmlet.state.slots import copier


class NodeUsage(msgspec.Struct, frozen=True, gc=False):
    """What the allocations of one node hold. A port may have two holders after a lost allocation came back."""

    quantity: Quantity = Quantity()
    holders: immutables.Map[int, int] = immutables.Map()
    count: int = 0
    #: (kind, id) -> thousandths of a device that are held.
    devices: immutables.Map[tuple[str, str], int] = immutables.Map()
    #: Number of a core -> how many allocations have it for themselves.
    cores: immutables.Map[int, int] = immutables.Map()

    def changed(self, allocation: Allocation, by: int) -> NodeUsage:
        """With `allocation` counted once more (`by` 1) or once less (-1)."""
        holders = self.holders
        for port in allocation.ports:
            left = holders.get(port.value, 0) + by
            holders = holders.set(port.value, left) if left else holders.delete(port.value)
        taken = allocation.resources
        quantity = self.quantity.plus(taken) if by > 0 else self.quantity.minus(taken)
        devices = self.devices
        for held in allocation.devices:
            for name in held.ids:
                rest = devices.get((held.device, name), 0) + by * held.milli
                key = (held.device, name)
                devices = devices.set(key, rest) if rest > 0 else devices.delete(key)
        cores = self.cores
        for each in allocation.cores:
            for core in each.ids:
                rest = cores.get(core, 0) + by
                cores = cores.set(core, rest) if rest > 0 else cores.delete(core)
        return NodeUsage(quantity, holders, self.count + by, devices, cores)


NOTHING = NodeUsage()
#: Pieces of a block that are counted in one part: about a millisecond.
PIECES_AT_ONCE = 1024


class AllocationRun(msgspec.Struct, frozen=True, gc=False):
    """Allocations on one node that are alike but for id, index and ports."""

    template: Allocation
    #: Id and index of each.
    members: tuple[tuple[AllocationId, int], ...]
    #: The ports of each; as long as `members`.
    ports: tuple[tuple[AllocatedPort, ...], ...]
    #: The devices of each; empty where none are asked for.
    devices: tuple[tuple[AllocatedDevice, ...], ...] = ()
    #: The same for cores.
    cores: tuple[tuple[AllocatedCores, ...], ...] = ()

    def allocations(self) -> Iterator[Allocation]:
        """Each as a row of its own."""
        replace = msgspec.structs.replace
        nothing: tuple[tuple[()], ...] = ((),) * len(self.members)
        given = zip(self.members, self.ports, self.devices or nothing, self.cores or nothing, strict=True)
        for (key, index), ports, devices, cores in given:
            yield replace(self.template, id=key, index=index, ports=ports, devices=devices, cores=cores)


class AllocationTable:
    """All allocations. Changing methods change this holder alone; a `copy` is O(1) and stays as it is."""

    __slots__ = (
        "_block_left",
        "_block_rows",
        "_blocks",
        "_blocks_of_job",
        "_by_job",
        "_by_node",
        "_cursors",
        "_finished",
        "_gone",
        "_held",
        "_ids",
        "_rows",
        "_told",
        "_usage",
        "_wanted",
    )

    def __init__(self) -> None:
        """Start empty."""
        self._rows: immutables.Map[str, Allocation] = immutables.Map()
        self._ids: Ordered[str] = Ordered()
        # (namespace, job, create index, group, index, id) and (node, create index, id).
        self._by_job: Ordered[tuple[Any, ...]] = Ordered()
        self._by_node: Ordered[tuple[Any, ...]] = Ordered()
        # Blocks by name (what their ids end with), and how many of each are left. A row whose id is of a block
        # takes that one's place; such a row is in no index of its own but `_finished`.
        self._blocks: immutables.Map[int, Reader] = immutables.Map()
        self._block_left: immutables.Map[int, int] = immutables.Map()
        # How many rows stand for allocations of a block, and what was reported of the others.
        self._block_rows: immutables.Map[int, int] = immutables.Map()
        self._told: immutables.Map[int, Told] = immutables.Map()
        # (namespace, job, create index, group, name). Which are on a node each block says itself.
        self._blocks_of_job: Ordered[tuple[Any, ...]] = Ordered()
        # Ids of blocks that were forgotten one by one.
        self._gone: Ordered[str] = Ordered()
        # (modify index, id) of those that ended: the oldest are collected first.
        self._finished: Ordered[tuple[int, str]] = Ordered()
        self._usage: immutables.Map[NodeId, NodeUsage] = immutables.Map()
        self._cursors: immutables.Map[NodeId, int] = immutables.Map()
        # (namespace, job, version) -> allocations that still hold resources under that version.
        self._held: immutables.Map[tuple[str, str, int], int] = immutables.Map()
        # (namespace, job) -> allocations that are not terminal.
        self._wanted: immutables.Map[tuple[str, str], int] = immutables.Map()

    def copy(self) -> AllocationTable:
        """The table as it is now."""
        fresh = AllocationTable.__new__(AllocationTable)
        _copy(fresh, self)
        return fresh

    def __len__(self) -> int:
        return len(self._ids) + sum(self._block_left.values())

    # Reading.

    def get(self, allocation_id: AllocationId) -> Allocation | None:
        """An allocation by id."""
        row = self._rows.get(allocation_id)
        if row is not None or not self._blocks:
            return row
        reader = self._reader_of(allocation_id)
        if reader is None or allocation_id in self._gone:
            return None
        placed = reader.get(allocation_id)
        return None if placed is None else self._reported(reader, placed)

    def _reported(self, reader: Reader, placed: Allocation) -> Allocation:
        """An allocation of a block that has no row, as its node last reported it."""
        stamp = stamp_of(self._told.get(reader.name, NOTHING_TOLD), placed.index)
        return placed if stamp is None else stamp.on(placed)

    def _reader_of(self, allocation_id: str) -> Reader | None:
        """The block that an id names."""
        number = number_of(allocation_id) if self._blocks else None
        return None if number is None else self._blocks.get(number & BLOCK_MASK)

    def _current(self, reader: Reader, placed: Iterable[Allocation]) -> Iterator[Allocation]:
        """Allocations of a block as they are now."""
        told = self._told.get(reader.name, NOTHING_TOLD)
        has_rows = reader.name in self._block_rows
        for each in placed:
            row = self._rows.get(each.id) if has_rows else None
            if row is not None:
                yield row
            elif not self._gone or each.id not in self._gone:
                stamp = stamp_of(told, each.index)
                yield each if stamp is None else stamp.on(each)

    def with_id_prefix(self, prefix: str) -> Iterator[Allocation]:
        """Those whose id begins with `prefix`, by id."""
        single = (self._rows[key] for key in with_text_prefix(self._ids, prefix))
        if not self._blocks:
            return single
        blocks = [self._current(reader, reader.by_id(prefix)) for _, reader in self._blocks_by_name()]
        return merge(single, *blocks, key=lambda row: row.id)

    def _blocks_by_name(self) -> list[tuple[int, Reader]]:
        return sorted(self._blocks.items(), key=itemgetter(0))

    def of_job(self, namespace: Namespace, job_id: JobId) -> Iterator[Allocation]:
        """By creation index, then group and index."""
        single = (self._rows[key[-1]] for key in with_prefix(self._by_job, (namespace, job_id)))
        if not self._blocks:
            return single
        readers = (self._blocks[key[-1]] for key in with_prefix(self._blocks_of_job, (namespace, job_id)))
        blocks = [self._current(reader, reader.by_index()) for reader in readers]
        return merge(single, *blocks, key=_job_key)

    def status_counts(
        self, namespace: Namespace, job_id: JobId, *, is_wanted: bool = False
    ) -> dict[str, dict[ClientStatus, int]]:
        """How many allocations of each group of a job are in which client status; of a block that is whole as its
        reports say, without an allocation being put together.
        """
        counts: dict[str, dict[ClientStatus, int]] = {}
        single = (self._rows[key[-1]] for key in with_prefix(self._by_job, (namespace, job_id)))
        readers = [self._blocks[key[-1]] for key in with_prefix(self._blocks_of_job, (namespace, job_id))]
        broken = [
            self._current(reader, reader.by_index()) for reader in readers if not self.is_whole(reader.name)
        ]
        for row in chain(single, *broken):
            if is_wanted and row.is_terminal():
                continue
            of_group = counts.setdefault(row.group, {})
            of_group[row.client_status] = of_group.get(row.client_status, 0) + 1
        for reader in readers:
            template = reader.block.template
            # What is reported by stamps waits or runs: such a block is wanted, or else its template is terminal.
            if not self.is_whole(reader.name) or (is_wanted and template.is_terminal()):
                continue
            of_group = counts.setdefault(template.group, {})
            told = statuses_of(self._told.get(reader.name, NOTHING_TOLD))
            told[template.client_status] = (
                told.get(template.client_status, 0) + reader.total - sum(told.values())
            )
            for status, number in told.items():
                of_group[status] = of_group.get(status, 0) + number
        return counts

    def unbroken_blocks(self, namespace: Namespace, job_id: JobId) -> list[Reader] | None:
        """The blocks that all of a job's allocations are in, none of which has a row; None where that is not so."""
        names = [key[-1] for key in with_prefix(self._blocks_of_job, (namespace, job_id))]
        if any(not self.is_whole(name) for name in names):
            return None
        if next(with_prefix(self._by_job, (namespace, job_id)), None) is not None:
            return None
        return [self._blocks[name] for name in names]

    def on_node(self, node_id: NodeId) -> Iterator[Allocation]:
        """By creation index."""
        single = (self._rows[key[-1]] for key in with_prefix(self._by_node, (node_id,)))
        if not self._blocks:
            return single
        rows = list(single)
        for reader, pieces in self.pieces_on(node_id):
            for piece in pieces:
                rows.extend(self._current(reader, reader.of_piece(piece)))
        return iter(sorted(rows, key=_node_key))

    def pieces_on(self, node_id: NodeId) -> list[tuple[Reader, Sequence[Piece]]]:
        """What was placed on a node as parts of blocks, by creation index."""
        # Of thousands of blocks few have anything on it: those are asked, the others' nodes looked at here.
        found = [
            (reader, pieces)
            for reader in self._blocks.values()
            if ((places := reader.places) is None or node_id in places)
            and (pieces := reader.pieces_on(node_id))
        ]
        return sorted(found, key=lambda each: (each[0].block.template.create_index, each[0].name))

    def unsorted_blocks(self) -> list[Reader]:
        """Those of which nobody has asked what they have on a node: the first answer of `pieces_on` would sort them all."""
        return [reader for reader in self._blocks.values() if reader.places is None]

    def rows_on(self, node_id: NodeId) -> Iterator[Allocation]:
        """Those on a node that have a row of their own and are of no block, by creation index."""
        return (self._rows[key[-1]] for key in with_prefix(self._by_node, (node_id,)))

    def block(self, name: int) -> Reader | None:
        """A block by name."""
        return self._blocks.get(name)

    def has_row(self, allocation_id: AllocationId) -> bool:
        """Whether an allocation is kept in a row of its own."""
        return allocation_id in self._rows

    def is_whole(self, name: int) -> bool:
        """Whether no allocation of a block has a row or was forgotten."""
        reader = self._blocks[name]
        return name not in self._block_rows and self._block_left[name] == reader.total

    def has_block(self, block: AllocationBlock) -> bool:
        """Whether a block of that name is there."""
        return block.name in self._blocks

    def blocks(self) -> list[AllocationBlock]:
        """All blocks, by name, as they were placed."""
        return [reader.block for _, reader in self._blocks_by_name()]

    def told(self) -> Iterator[ToldChunk]:
        """What was reported of allocations of blocks, by block and index."""
        for name, reader in self._blocks_by_name():
            yield from written(reader.block.mark, self._told.get(name, NOTHING_TOLD))

    def gone(self) -> list[str]:
        """Ids of blocks that were forgotten one by one."""
        return list(self._gone)

    def gone_count(self) -> int:
        """How many those are. O(1)."""
        return len(self._gone)

    def rows(self) -> Iterator[Allocation]:
        """All that have a row of their own, by id."""
        return (self._rows[key] for key in sorted(self._rows))

    def finished(self) -> Iterator[Allocation]:
        """Those that ended on their node (or are lost), the one changed longest ago first."""
        return (self._rows[key] for _, key in self._finished)

    def finished_count(self) -> int:
        """How many those are. O(1)."""
        return len(self._finished)

    def held_count(self, namespace: Namespace, job_id: JobId, version: int) -> int:
        """How many allocations still run (or may) under this version of a job."""
        return self._held.get((namespace, job_id, version), 0)

    def wanted_count(self, namespace: Namespace, job_id: JobId) -> int:
        """How many allocations of a job are not terminal."""
        return self._wanted.get((namespace, job_id), 0)

    def quantity_on(self, node_id: NodeId) -> Quantity:
        """What is held on a node. O(1)."""
        return self._usage.get(node_id, NOTHING).quantity

    def holding(self, node_id: NodeId) -> NodeUsage:
        """What is held on a node, and by how many. O(1)."""
        return self._usage.get(node_id, NOTHING)

    def holding_finder(self) -> Callable[[NodeId], NodeUsage | None]:
        """`holding` for many nodes; None: nothing."""
        return self._usage.get

    def held_on(self, node_id: NodeId) -> int:
        """How many allocations hold resources on a node. O(1)."""
        return self._usage.get(node_id, NOTHING).count

    def usage(self, node: Node) -> Usage:
        """A fresh scratch copy of what is taken on a node, its reserved ports included."""
        held = self._usage.get(node.id, NOTHING)
        return Usage(held.quantity, (*node.reserved_ports, *held.holders), held.devices, held.cores)

    def port_cursor(self, node_id: NodeId) -> int:
        """Where the search for a free dynamic port begins."""
        return self._cursors.get(node_id, 0)

    def port_cursors(self) -> list[tuple[NodeId, int]]:
        """All cursors that moved, by node."""
        return sorted(self._cursors.items())

    # Changing.

    def insert_runs(self, runs: Iterable[AllocationRun]) -> list[Allocation]:
        """Add runs, in one pass over the indexes. The ids must be new. Gives back the allocations."""
        fresh = [row for run in runs for row in run.allocations()]
        self.insert_all(fresh)
        return fresh

    def insert_block(self, block: AllocationBlock) -> None:
        """Add a block whose name is new. Costs what it has of pieces, however many allocations those are."""
        for _ in self.inserting(Reader(block)):
            pass

    def inserting(self, reader: Reader) -> Iterator[None]:
        """Add a block, in parts. Between them this table is not to be read."""
        block, name, total = reader.block, reader.name, reader.total
        template = block.template
        assert name not in self._blocks, f"block {name:x} is there already"
        self._blocks = self._blocks.set(name, reader)
        self._block_left = self._block_left.set(name, total)
        self._blocks_of_job = self._blocks_of_job.add(_block_key(block))
        if template.holds_resources():
            usages = self._usage.mutate()
            for first in range(0, len(block.pieces), PIECES_AT_ONCE):
                _add_pieces(usages, template.resources, block.pieces[first : first + PIECES_AT_ONCE])
                yield
            self._usage = usages.finish()
            version = (template.namespace, template.job_id, template.job_version)
            self._held = _counted(self._held, version, total)
        if not template.is_terminal():
            self._wanted = _counted(self._wanted, (template.namespace, template.job_id), total)

    def insert_all(self, allocations: Iterable[Allocation]) -> None:
        """Add allocations whose ids are new, in one pass over the indexes."""
        fresh = list(allocations)
        rows = self._rows.mutate()
        for row in fresh:
            assert row.id not in rows, f"allocation {row.id} is there already"
            rows[row.id] = row
        self._rows = rows.finish()
        self._ids = self._ids.union([row.id for row in fresh])
        self._by_job = self._by_job.union([_job_key(row) for row in fresh])
        self._by_node = self._by_node.union([_node_key(row) for row in fresh])
        self._finished = self._finished.union(
            [(row.modify_index, row.id) for row in fresh if row.is_client_terminal()]
        )
        for row in fresh:
            self._count(row, 1)

    def replace(self, allocation: Allocation) -> None:
        """Override one allocation. Its node, job, group, index and creation index never change."""
        before = self.get(allocation.id)
        assert before is not None, f"there is no allocation {allocation.id}"
        self._count(before, -1)
        if self._blocks and allocation.id not in self._rows:
            reader = self._reader_of(allocation.id)
            if reader is not None:
                self._block_rows = _counted(self._block_rows, reader.name, 1)
        self._rows = self._rows.set(allocation.id, allocation)
        if before.is_client_terminal():
            self._finished = self._finished.discard((before.modify_index, before.id))
        if allocation.is_client_terminal():
            self._finished = self._finished.add((allocation.modify_index, allocation.id))
        self._count(allocation, 1)

    def delete(self, allocation_id: AllocationId) -> None:
        """Forget one."""
        row = self.get(allocation_id)
        assert row is not None, f"there is no allocation {allocation_id}"
        self._count(row, -1)
        has_row = allocation_id in self._rows
        if has_row:
            self._rows = self._rows.delete(allocation_id)
        self._finished = self._finished.discard((row.modify_index, row.id))
        reader = self._reader_of(allocation_id)
        if reader is not None:
            if has_row:
                self._block_rows = _counted(self._block_rows, reader.name, -1)
            self.mark_gone(reader.block, (allocation_id,))
            return
        self._ids = self._ids.discard(allocation_id)
        self._by_job = self._by_job.discard(_job_key(row))
        self._by_node = self._by_node.discard(_node_key(row))

    def mark_gone(self, block: AllocationBlock, ids: Iterable[str]) -> None:
        """Forget allocations of a block, and the block with the last of them."""
        fresh = list(ids)
        self._gone = self._gone.union(fresh)
        left = self._block_left[block.name] - len(fresh)
        if left:
            self._block_left = self._block_left.set(block.name, left)
            return
        reader = self._blocks[block.name]
        self._block_left = self._block_left.delete(block.name)
        self._blocks = self._blocks.delete(block.name)
        self._blocks_of_job = self._blocks_of_job.discard(_block_key(block))
        if block.name in self._told:
            self._told = self._told.delete(block.name)
        gone = {row.id for row in reader.by_index()}
        self._gone = Ordered(key for key in self._gone if key not in gone)

    def tell(self, blocks: Iterable[tuple[Reader, Iterable[tuple[int, int, Stamp]]]]) -> list[int]:
        """Stamp (first index, how many, stamp) of blocks without rows of their own (`is_whole`); how many verdicts on
        health are new in each.
        """
        told, judged = self._told.mutate(), list[int]()
        for reader, spans in blocks:
            told[reader.name], number = retold(told.get(reader.name, NOTHING_TOLD), spans)
            judged.append(number)
        self._told = told.finish()
        return judged

    def stamp(self, reader: Reader, index: int) -> Stamp | None:
        """What was last reported of an index of a block."""
        return stamp_of(self._told.get(reader.name, NOTHING_TOLD), index)

    def restore_told(self, chunks: Iterable[ToldChunk]) -> None:
        """Fill in what `told` gave, once the blocks are there."""
        by_block: dict[bytes, list[ToldChunk]] = {}
        for chunk in chunks:
            by_block.setdefault(chunk.block, []).append(chunk)
        for mark, each in by_block.items():
            self._told = self._told.set(int.from_bytes(mark, "big"), read(each))

    def restore(
        self, blocks: Iterable[AllocationBlock], gone: Iterable[str], rows: Iterable[Allocation]
    ) -> None:
        """Fill an empty table with what `blocks`, `gone` and `rows` gave."""
        for block in blocks:
            self.insert_block(block)
        for key in gone:
            row, reader = self.get(AllocationId(key)), self._reader_of(key)
            assert row is not None
            assert reader is not None
            self._count(row, -1)
            self.mark_gone(reader.block, (key,))
        single: list[Allocation] = []
        for row in rows:
            if self._reader_of(row.id) is not None:
                self.replace(row)
            else:
                single.append(row)
        self.insert_all(single)

    def move_port_cursor(self, node_id: NodeId, cursor: int) -> None:
        """Let the next search begin at `cursor`."""
        self._cursors = self._cursors.set(node_id, cursor)

    def forget_node(self, node_id: NodeId) -> None:
        """Drop the cursor of a node that is gone."""
        if node_id in self._cursors:
            self._cursors = self._cursors.delete(node_id)

    def _count(self, row: Allocation, by: int) -> None:
        """Count `row` in or out of what is kept per node, version and job."""
        if row.holds_resources():
            usage = self._usage.get(row.node_id, NOTHING).changed(row, by)
            if usage.count:
                self._usage = self._usage.set(row.node_id, usage)
            else:
                self._usage = self._usage.delete(row.node_id)
            self._held = _counted(self._held, (row.namespace, row.job_id, row.job_version), by)
        if not row.is_terminal():
            self._wanted = _counted(self._wanted, (row.namespace, row.job_id), by)


def _add_pieces(
    usages: immutables.MapMutation[NodeId, NodeUsage], each: Quantity, pieces: Sequence[Piece]
) -> None:
    """Count pieces of allocations that hold no ports. Written out: there are thousands."""
    find, cpu, memory, disk = usages.get, each.cpu, each.memory, each.disk
    for piece in pieces:
        node_id, count = piece.node_id, piece.count
        before = find(node_id, NOTHING)
        held = before.quantity
        usages[node_id] = NodeUsage(
            Quantity(
                cpu=held.cpu + count * cpu, memory=held.memory + count * memory, disk=held.disk + count * disk
            ),
            before.holders,
            before.count + count,
            before.devices,
            before.cores,
        )


def _counted(counts: immutables.Map[Any, int], key: Any, by: int) -> immutables.Map[Any, int]:
    """A counter moved; zero is not kept."""
    left = counts.get(key, 0) + by
    return counts.set(key, left) if left else counts.delete(key)


def _block_key(block: AllocationBlock) -> tuple[Any, ...]:
    row = block.template
    return (row.namespace, row.job_id, row.create_index, row.group, block.name)


def _job_key(row: Allocation) -> tuple[Any, ...]:
    return (row.namespace, row.job_id, row.create_index, row.group, row.index, row.id)


def _node_key(row: Allocation) -> tuple[Any, ...]:
    return (row.node_id, row.create_index, row.id)


_copy = copier(AllocationTable.__slots__)
