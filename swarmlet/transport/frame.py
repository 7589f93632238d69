"""The frames of the mesh: a length of four bytes (big endian), then `[kind, id, method, body]` in MessagePack.

A connection begins with HELLO from the client and WELCOME (or ERROR with id 0) from the server. Then the
client sends REQUEST, OPEN, ONEWAY; the server answers with REPLY or ERROR, and ITEM... END or ERROR. In a
stream both ways, the client sends INPUT... INPUT_END meanwhile.
"""

from __future__ import annotations

import struct
from enum import IntEnum, StrEnum

from swarmlet.errors import WireError
from swarmlet.wire import Codec, Record

PROTOCOL_VERSION = 1
_LENGTH = struct.Struct(">I")


class Kind(IntEnum):
    """What a frame is. Numbers are for ever; gaps leave room."""

    HELLO = 1
    WELCOME = 2
    PING = 4
    PONG = 5
    REQUEST = 10
    REPLY = 11
    ERROR = 12
    #: The client no longer wants the answer or the stream.
    CANCEL = 13
    ONEWAY = 14
    #: Opens a stream from server to client, or one both ways.
    OPEN = 20
    ITEM = 21
    END = 22
    #: The reader took this many bytes (body: MessagePack integer).
    CREDIT = 23
    #: What the client sends in a stream both ways, and that it sends no more.
    INPUT = 24
    INPUT_END = 25


class Purpose(StrEnum):
    """What a connection is for. One connection has one purpose, so a large transfer delays no heartbeat."""

    RPC = "rpc"
    RAFT = "raft"
    #: Raft's snapshots and other bulk, apart from its heartbeats.
    BULK = "bulk"
    GOSSIP = "gossip"
    #: The only purpose for which a client certificate is not asked.
    JOIN = "join"


class Frame(Record):
    """One frame. `id` ties answers to requests; 0 where there is none."""

    kind: int
    id: int = 0
    method: str = ""
    body: bytes = b""


class Hello(Record, tag="hello"):
    """The first frame's body, from the client. `cluster` is empty where a joiner does not know it yet."""

    version: int
    cluster: str
    purpose: Purpose


class Welcome(Record, tag="welcome"):
    """The server's answer to a hello."""

    version: int
    cluster: str
    node: str


_frame_codec: Codec[Frame] = Codec(Frame, limit=1 << 32)
hello_codec: Codec[Hello] = Codec(Hello, limit=4096)
welcome_codec: Codec[Welcome] = Codec(Welcome, limit=4096)
credit_codec: Codec[int] = Codec(int, limit=16)


def pack(frame: Frame, limit: int) -> bytes:
    """The bytes of `frame` with its length in front. Raises WireError above `limit` bytes."""
    data = _frame_codec.encode(frame)
    if len(data) > limit:
        raise WireError(f"frame of {len(data):_} B exceeds {limit:_} B")
    return _LENGTH.pack(len(data)) + data


class FrameReader:
    """Cuts a byte stream into frames. Holds at most one unfinished frame of at most `limit` bytes, plus one read."""

    def __init__(self, limit: int) -> None:
        """`limit` may be raised later, when the peer has shown who it is."""
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes. Raises WireError on a frame that is too long or no frame."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while len(buffer) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, at)
            if length > self.limit:
                raise WireError(f"frame of {length:_} B exceeds {self.limit:_} B")
            end = at + _LENGTH.size + length
            if len(buffer) < end:
                break
            # Decoded in place: the body is the only copy.
            with memoryview(buffer) as whole, whole[at + _LENGTH.size : end] as part:
                frames.append(_frame_codec.decode(part))
            at = end
        del buffer[:at]
        return frames
