"""The log on the real disk: a child appends and says what is durable; it is killed, and what lies beyond is ruined.

`SWARMLET_CRASH_KILLS=500` runs the whole of it; a slice is part of the ordinary tests.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import struct
import sys
import time
from pathlib import Path

import pytest

from swarmlet.errors import CorruptLog
from swarmlet.ids import Index, PeerId, Term
from swarmlet.raft.disk_log import DiskLog
from swarmlet.raft.files import OsFiles
from swarmlet.raft.log import NO_LIMIT
from swarmlet.raft.message import ConfigState, Entry, HardState, SnapshotMeta
from swarmlet.raft.segment import HEADER_BYTES

KILLS = int(os.environ.get("SWARMLET_CRASH_KILLS", "40"))
CLUSTER = "crash"
SEGMENT_BYTES = 32 * 1024
#: A snapshot now and then lets old segments be deleted, as in production.
COMPACT_EVERY = 400
ACKNOWLEDGED = struct.Struct(">QQQ")  # index, segment, end of what is durable in it


def data_at(index: int) -> bytes:
    """What every run writes at `index`."""
    seed = hashlib.blake2b(str(index).encode(), digest_size=8).digest()
    return seed * (seed[0] if seed[1] > 8 else 20 * seed[0])


def open_log(directory: Path, files: OsFiles | None = None) -> DiskLog:
    return DiskLog.open(str(directory), CLUSTER, segment_bytes=SEGMENT_BYTES, files=files)


def append_until_killed(directory: Path, pipe: int, seed: int) -> None:
    """The child: append, and say so when a sync has ended, before anything else is written."""
    rng = random.Random(seed)
    logs: list[DiskLog] = []

    def sync(descriptor: int) -> None:
        os.fdatasync(descriptor)
        for log in logs:
            segment = log._segments[-1].header.number
            os.write(pipe, ACKNOWLEDGED.pack(log.last_index(), segment, log._end))

    log = open_log(directory, OsFiles(sync))
    logs.append(log)
    while True:
        first = log.last_index() + 1
        entries = [
            Entry(term=Term(1), index=Index(first + n), data=data_at(first + n))
            for n in range(rng.choice([1, 1, 3, 20]))
        ]
        last = int(entries[-1].index)
        hard = HardState(term=Term(1 + last // 100), vote=PeerId(1), commit=Index(first - 1))
        log.append(entries, hard if rng.random() < 0.5 else None, sync=rng.random() < 0.7)
        if rng.random() < 0.2:
            continue
        log.append((), None, sync=True)
        if last - log.snapshot_meta().index > COMPACT_EVERY:
            config = ConfigState(voters=(PeerId(1),))
            log.save_snapshot(SnapshotMeta(index=Index(last), term=Term(1), config=config), b"state")
            log.compact(last - 50)


def kill_one(directory: Path, rng: random.Random) -> tuple[int, int, int]:
    """Run a child for a moment and kill it; the last thing that it said, zeroes for nothing."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        try:
            append_until_killed(directory, send, rng.randrange(2**32))
        finally:
            os._exit(3)
    os.close(send)
    # Mostly it gets to say something first, however slow the disk is.
    said = os.read(receive, ACKNOWLEDGED.size) if rng.random() < 0.9 else b""
    time.sleep(rng.uniform(0.0, 0.04))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child ended by itself"
    while chunk := os.read(receive, 65536):
        said += chunk
    os.close(receive)
    whole = len(said) // ACKNOWLEDGED.size * ACKNOWLEDGED.size
    if not whole:
        return 0, 0, 0
    index, segment, end = ACKNOWLEDGED.unpack_from(said, whole - ACKNOWLEDGED.size)
    return index, segment, end


def ruin(directory: Path, segment: int, end: int, rng: random.Random) -> None:
    """Cut or garble the newest segment at random beyond the last sync."""
    path = max(directory.glob("*.log"))
    start = end if int(path.stem) == segment else HEADER_BYTES
    content = bytearray(path.read_bytes())
    used = max(start, len(content.rstrip(b"\0")))
    draw = rng.random()
    if draw < 0.3:
        os.truncate(path, rng.randint(start, len(content)))
        return
    if draw < 0.8:
        low = rng.randint(start, max(start, min(len(content), used + 600)))
        high = min(len(content), low + rng.choice([1, 20, 512, 3000]))
        content[low:high] = rng.randbytes(high - low) if rng.random() < 0.7 else bytes(high - low)
        path.write_bytes(content)


def check(directory: Path, acknowledged: int) -> int:
    """Everything acknowledged is there, and everything there is what was written."""
    log = open_log(directory)
    assert log.last_index() >= acknowledged, f"entries after {log.last_index()} are lost"
    for entry in log.entries(log.first_index(), Index(log.last_index() + 1), NO_LIMIT):
        assert entry.data == data_at(entry.index), f"entry {entry.index} is not what was written"
    if log.snapshot_meta().index:
        assert log.read_snapshot()[1] == b"state"
    last = int(log.last_index())
    log.close()
    return last


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    rng = random.Random(os.environ.get("SWARMLET_CRASH_SEED", "1"))
    directory = tmp_path / "raft"
    open_log(directory).close()
    known, told = 0, 0
    for number in range(KILLS):
        index, segment, end = kill_one(directory, rng)
        if segment:
            ruin(directory, segment, end, rng)
            known, told = max(known, index), told + 1
        try:
            known = check(directory, known)
        except (AssertionError, CorruptLog) as error:
            raise AssertionError(f"after {number + 1} kills, acknowledged {known}: {error}") from error
    said = f"{KILLS} kills, {told} after something was durable: {known} entries, none lost or made up"
    sys.stdout.write(f"{said}\n")
    assert told > KILLS // 3, "the children were killed before they did anything"
