"""Frames, and how errors cross."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet import errors
from swarmlet.errors import SwarmletError, Unavailable, WireError
from swarmlet.transport.failure import Failure, _codec, pack_error, unpack_error
from swarmlet.transport.frame import Frame, FrameReader, Kind, pack

LIMIT = 10_000
frames = st.lists(
    st.builds(
        Frame,
        kind=st.sampled_from(Kind),
        id=st.integers(0, 2**63 - 1),
        method=st.text(max_size=20),
        body=st.binary(),
    ),
    max_size=6,
)


@given(frames, st.lists(st.integers(1, 40)))
def test_frames_survive_any_cutting_of_the_stream(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(pack(frame, LIMIT) for frame in sent)
    reader, got = FrameReader(LIMIT), []
    for cut in cuts:
        got += reader.feed(data[:cut])
        data = data[cut:]
    got += reader.feed(data)
    assert got == sent
    assert not reader._buffer


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waits_for_more_within_the_bound(data: bytes) -> None:
    reader = FrameReader(100)
    try:
        reader.feed(data)
    except WireError:
        return
    assert len(reader._buffer) <= 104


def test_a_frame_beyond_the_limit_is_refused_at_both_ends() -> None:
    with pytest.raises(WireError, match="exceeds 100 B"):
        pack(Frame(kind=1, body=bytes(200)), 100)
    with pytest.raises(WireError, match="exceeds 100 B"):
        FrameReader(100).feed(pack(Frame(kind=1, body=bytes(200)), 1000)[:4])


def every_error() -> list[SwarmletError]:
    special: list[SwarmletError] = [
        errors.NotLeader("n1"),
        errors.NotLeader(),
        errors.Overloaded("full", 7.0),
        errors.JoinRefused("token_wrong", "no"),
        errors.DriverError("pull failed", temporary=False),
        errors.InvalidJob(["a:1: no", "b:2: no"]),
    ]
    classes = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SwarmletError)
    ]
    taken = {type(error) for error in special}
    return special + [kind("what happened") for kind in classes if kind not in taken]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_crosses_with_what_it_carries(error: SwarmletError) -> None:
    there = unpack_error(pack_error(error))
    assert (type(there), str(there), vars(there)) == (type(error), str(error), vars(error))


def test_an_error_of_a_newer_version_becomes_unavailable() -> None:
    for name in ("QuantumFailure", "annotations", "Exception"):
        there = unpack_error(_codec.encode(Failure(name=name, message="what happened")))
        assert (type(there), str(there)) == (Unavailable, "what happened")


def test_a_subclass_defined_elsewhere_crosses_as_its_nearest_known_class() -> None:
    class Local(errors.NotFound):
        pass

    assert type(unpack_error(pack_error(Local("x")))) is errors.NotFound


@given(st.binary())
def test_a_damaged_error_is_a_wire_error(body: bytes) -> None:
    with contextlib.suppress(WireError):
        assert isinstance(unpack_error(body), SwarmletError)
