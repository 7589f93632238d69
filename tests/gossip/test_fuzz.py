"""A slice of the fuzzer: mutated packets and state exchanges raise WireError at most."""

from __future__ import annotations

import pytest

from scripts.fuzz_gossip import CLUSTER, PROMISES, Target, corpus, fuzz
from swarmlet.gossip.packet import decode_packet, decode_sync


def test_the_corpus_is_valid_so_that_mutations_get_past_the_first_byte() -> None:
    *_, last = corpus()
    assert decode_sync(last, CLUSTER).sender == "node-9"
    assert decode_packet(corpus()[0]).sender == "node-9"


def test_headers_that_promise_gigabytes_allocate_next_to_nothing() -> None:
    target = Target(1)
    for promise in PROMISES:
        for prefix in (b"", b"\x94\x01\xa1s", b"\x94\x01\xa6fuzzed\xa1s"):
            target._trace(prefix + promise)
    assert 0 < target.peak < 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_but_wire_errors_comes_out_of_mutated_messages(seed: int) -> None:
    target, finding = fuzz(seed, 4000)
    assert finding is None
    assert target.refused > 0
