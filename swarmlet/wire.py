"""MessagePack at every border: positional arrays, a tag first, a version where a message travels alone.

`msgspec` writes and checks the bytes; nothing else imports it for encoding. A struct that derives from
`Record` is an array on the wire. Fields may be added at the end with a default, never removed, renamed
in meaning or reordered: an older reader ignores what it does not know, a newer one fills in the default.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, dataclass_transform

import msgspec

from swarmlet.errors import WireError

T = TypeVar("T")

#: A frame, entry or message beyond this is refused before it is decoded (design, "Sizes": an entry is <= 4 MiB).
MESSAGE_BYTES_MAX = 8 * 1024 * 1024


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """A frozen value that is encoded as a positional array.

    `gc=False`: records hold no reference cycles, and a full collection over a million of them would stall
    the event loop for longer than a heartbeat.
    """


class Codec(Generic[T]):
    """Encodes and decodes one type (often a union of tagged records), bounded."""

    def __init__(self, kind: Any, *, limit: int = MESSAGE_BYTES_MAX) -> None:
        """`limit` is in bytes, of the encoded form."""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._limit = limit

    def encode(self, value: T) -> bytes:
        """The bytes of `value`. Raises WireError when they exceed the limit."""
        data = self._encoder.encode(value)
        if len(data) > self._limit:
            raise WireError(f"message of {len(data):_} B exceeds {self._limit:_} B")
        return data

    def decode(self, data: bytes | bytearray | memoryview) -> T:
        """The value in `data`. Raises WireError on anything else than exactly one valid value."""
        if len(data) > self._limit:
            raise WireError(f"message of {len(data):_} B exceeds {self._limit:_} B")
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, OverflowError) as error:
            raise WireError(f"not a valid message: {error}") from error


def to_builtins(value: Any) -> Any:
    """`value` as plain lists, dicts and scalars (positional, as on the wire)."""
    return msgspec.to_builtins(value)
