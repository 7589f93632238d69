"""A saved state as a file: whole, or refused with the place; however its bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.errors import InvalidInput
from swarmlet.state.archive import BLOCK_BYTES_MAX, ArchiveHeader, ArchiveReader, archived

HEADER = ArchiveHeader(
    cluster_id="c", index=7, term=2, feature_level=2, saved_at_ns=1, version="0.1", node="n1"
)


def file(*pieces: bytes) -> bytes:
    return b"".join(archived(HEADER, pieces))


def read(data: bytes, step: int = 0) -> tuple[ArchiveHeader, bytes]:
    reader = ArchiveReader("f")
    found = []
    for start in range(0, len(data), step or len(data) or 1):
        found += reader.feed(data[start : start + (step or len(data))])
    return reader.finish(), b"".join(found)


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 97))
def test_what_was_saved_is_read_however_it_comes(pieces: list[bytes], step: int) -> None:
    assert read(file(*pieces), step) == (HEADER, b"".join(pieces))


def test_a_large_piece_becomes_several_blocks() -> None:
    data = bytes(BLOCK_BYTES_MAX + 1)
    reader = ArchiveReader("f")
    assert [len(block) for block in reader.feed(file(data))] == [BLOCK_BYTES_MAX, 1]


WHOLE = file(b"a" * 100, b"b" * 50)


@pytest.mark.parametrize("size", range(len(WHOLE)))
def test_a_file_that_was_cut_anywhere_is_refused(size: int) -> None:
    with pytest.raises(InvalidInput, match=r"f: (cut off at byte|.* B are no snapshot file)"):
        read(WHOLE[:size])


@settings(max_examples=300)
@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 7))
def test_every_flipped_bit_is_noticed(at: int, bit: int) -> None:
    damaged = bytearray(WHOLE)
    damaged[at] ^= 1 << bit
    with pytest.raises(InvalidInput, match=r"^f: "):
        read(bytes(damaged))


def test_blocks_may_not_change_places() -> None:
    parts = list(archived(HEADER, [b"one", b"two"]))
    with pytest.raises(InvalidInput, match=r"damaged at byte .* block 0"):
        read(parts[0] + parts[2] + parts[1] + parts[3])


def test_nothing_may_follow_the_end() -> None:
    with pytest.raises(InvalidInput, match="bytes follow its end"):
        read(WHOLE + b"x")


def test_another_file_is_called_what_it_is() -> None:
    with pytest.raises(InvalidInput, match="f: not a snapshot file of swarmlet"):
        read(b"#!/bin/sh\nexit 0\n")


def test_a_file_of_a_newer_form_is_refused_by_name() -> None:
    newer = bytearray(WHOLE)
    newer[9] = 2
    with pytest.raises(InvalidInput, match="form 2, key 0; this program reads form 1"):
        read(bytes(newer))
