#!/usr/bin/env python3
"""Feed gossip's decoders and its core what nobody sane would send: `scripts/fuzz_gossip.py --inputs 1000000`.

Valid packets and state exchanges, mutated: bits, cuts, repetitions, and MessagePack headers that promise gigabytes.
Nothing but WireError may come out of decoding, nothing at all out of the core, and no input may make it
allocate more than the stated bound. Exit code 1 with the input in hexadecimal otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from swarmlet.errors import WireError
from swarmlet.gossip.config import GossipConfig
from swarmlet.gossip.core import Swim
from swarmlet.gossip.effect import Member, MemberState
from swarmlet.gossip.keyring import Keyring, Sealer
from swarmlet.gossip.packet import (
    PACKET_VERSION,
    Ack,
    AnswerKind,
    Evidence,
    Nack,
    Ping,
    PingRequest,
    QueryAnswer,
    QueryReceipt,
    SyncBody,
    SyncKind,
    Update,
    UserEvent,
    decode_packet,
    decode_sync,
    encode_event,
    encode_packet,
    encode_sync,
    encode_update,
)
from swarmlet.ids import NodeId

CLUSTER = "fuzzed"
KEY = bytes(32)
#: Decoding may allocate this much, and this many times the input's length: objects are larger than their bytes.
ALLOCATION_BYTES = 64 * 1024
ALLOCATION_FACTOR = 64
#: Allocations are traced for one input in this many: tracing takes longer than decoding.
TRACED_EVERY = 50
#: MessagePack headers that promise more than follows: arrays, maps, strings, bytes, extensions of 4 GiB.
PROMISES = [bytes((kind,)) + b"\xff\xff\xff\xff" for kind in (0xDD, 0xDF, 0xDB, 0xC6, 0xC9)]
PROMISES += [
    b"\xdc\xff\xff",
    b"\xcb\x7f\xf8" + bytes(6),
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + bytes(7),
    b"\xc0",
]
#: A question to all (number, name, payload, nodes, tags), as the event of a query carries it.
QUESTION = b"\x95\x05\xa3who\xc4\x00\x90\x90"
#: A core is replaced after this many inputs, so that its tables stay as small as a young cluster's.
CORE_INPUTS = 20_000


def corpus() -> list[bytes]:
    """Valid packets and state exchanges of every kind."""
    updates = [
        Update(
            id=f"node-{number}",
            state=state,
            incarnation=number,
            accuser="node-1",
            evidence=Evidence.SILENT,
            seconds=1.5,
            content=number + 1,
            name="name",
            host="10.0.0.1",
            port=4747,
            metadata=bytes(number * 50),
        )
        for number, state in enumerate(MemberState)
    ]
    messages = (
        Ping(sequence=1, target="me"),
        Ack(sequence=2, subject="node-1"),
        PingRequest(sequence=3, target="node-2", host="10.0.0.2", port=1),
        Nack(sequence=4),
        QueryAnswer(origin="me", number=5, responder="node-1", kind=AnswerKind.ANSWER, payload=b"well"),
        QueryReceipt(number=5, responder="me"),
    )
    events = (
        UserEvent(time=3, origin="node-1", name="deployed", payload=b"v2"),
        UserEvent(time=4, origin="node-2", name="_query", payload=QUESTION),
    )
    spoken = [encode_event(event) for event in events]
    packets = [encode_packet(NodeId("node-9"), messages, [encode_update(each) for each in updates])]
    packets += [encode_packet(NodeId("node-9"), (), [], spoken)]
    packets += [encode_packet(NodeId("node-9"), (message,), []) for message in messages]
    bodies = [
        SyncBody(
            version=PACKET_VERSION,
            cluster_id=CLUSTER,
            sender="node-9",
            updates=tuple(updates),
            kind=kind,
            event_time=4,
            events=events,
            marks=tuple(range(8)),
            differing=(0, 3, 7),
            buckets=8,
        )
        for kind in SyncKind
    ]
    return packets + [encode_sync(body) for body in bodies]


def mutate(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A few changes to a valid message, or plain noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    mutated = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 4))):
        at = rng.randrange(len(mutated) + 1)
        match rng.choice((0, 0, 0, 0, 0, 1, 2, 3, 4, 5)):
            case 0 if mutated:
                mutated[at % len(mutated)] ^= 1 << rng.randrange(8)
            case 1:
                mutated[at : at + 1] = rng.choice(PROMISES)
            case 2:
                del mutated[at : at + rng.randrange(1, 20)]
            case 3:
                mutated[at:at] = mutated[at : at + rng.randrange(1, 60)]
            case 4:
                mutated[at:at] = rng.randbytes(rng.randrange(1, 9))
            case _:
                other = rng.choice(others)
                mutated[at:] = other[min(at, len(other)) :]
    return bytes(mutated)


class Target:
    """What is fuzzed: both decoders, and a core that gets each input sealed and as a state exchange."""

    def __init__(self, seed: int) -> None:
        self.refused = 0
        self.peak = 0.0
        self._rng = random.Random(seed)
        self._sealer = Sealer(Keyring(KEY), CLUSTER, self._rng.randbytes)
        self._core = self._new_core()
        self._inputs = 0

    def _new_core(self) -> Swim:
        me = Member(
            id=NodeId("me"), name="me", address=("10.0.0.9", 1), state=MemberState.ALIVE, incarnation=0
        )
        return Swim(me, GossipConfig(cluster_id=CLUSTER), Keyring(KEY), self._rng, 0.0)

    def feed(self, data: bytes) -> None:
        """Raises whatever is not allowed to come out."""
        self._inputs += 1
        if self._inputs % CORE_INPUTS == 0:
            self._core = self._new_core()
        if self._inputs % TRACED_EVERY == 0:
            self._trace(data)
        for decode in (decode_packet, lambda data: decode_sync(data, CLUSTER)):
            self._decode(decode, data)
        now = self._inputs / 1000
        self._core.on_packet(now, self._sealer.seal(data), ("10.0.0.1", 1))
        try:
            self._core.on_sync(now, data, ("10.0.0.1", 1))
            self._core.on_sync_reply(now, data)
        except WireError:
            self.refused += 1
        self._core.on_timer(now)
        self._core.drain()

    def _decode(self, decode: Callable[[bytes], object], data: bytes) -> None:
        try:
            decode(data)
        except WireError:
            self.refused += 1

    def _trace(self, data: bytes) -> None:
        tracemalloc.start()
        try:
            self._decode(decode_packet, data)
            self._decode(lambda data: decode_sync(data, CLUSTER), data)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        self.peak = max(self.peak, peak / (ALLOCATION_BYTES + ALLOCATION_FACTOR * len(data)))
        if self.peak > 1:
            raise MemoryError(
                f"{len(data)} B of input made it allocate {peak} B, more than"
                f" {ALLOCATION_BYTES} B + {ALLOCATION_FACTOR} x the input"
            )


def fuzz(seed: int, inputs: int) -> tuple[Target, str | None]:
    """Feed `inputs` mutated messages. The second value describes what went wrong."""
    rng = random.Random(seed)
    target = Target(seed)
    valid = corpus()
    for number in range(inputs):
        data = mutate(rng, rng.choice(valid), valid)
        try:
            target.feed(data)
        except Exception as error:  # noqa: BLE001 - anything that comes out is the finding
            return target, f"input {number}: {type(error).__name__}: {error}\n  {data.hex()}"
    return target, None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    started = time.monotonic()
    target, finding = fuzz(options.seed, options.inputs)
    if finding:
        print(f"seed {options.seed}, {finding}")
        return 1
    print(
        f"{options.inputs} inputs in {time.monotonic() - started:.0f} s, seed {options.seed}: decoders and state exchange"
        f" refused {target.refused} times, nothing else came out; peak allocation {100 * target.peak:.0f} % of the bound"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
