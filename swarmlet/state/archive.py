"""A saved state as a file: a header that says what it is, blocks with checksums, an end that seals the whole. Pure.

All numbers are big-endian. A file that was cut anywhere, or of which any bit changed, is refused with the place.
The format is described in `docs/reference/snapshot-file.md`.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator

from swarmlet.errors import InvalidInput, WireError
from swarmlet.wire import Codec, Record

MAGIC = b"SWARMBAK"
VERSION = 1
#: Contents in clear; secrets in them are sealed one by one.
CLEAR_KEY = 0
#: One block: small enough to check and pass on as it comes.
BLOCK_BYTES_MAX = 1024 * 1024
HEADER_BYTES_MAX = 64 * 1024

# magic, version, key id, bytes of header
_HEAD = struct.Struct(">8sHII")
_CRC = struct.Struct(">I")
# bytes of data, crc of number and data
_BLOCK = struct.Struct(">II")
_NUMBER = struct.Struct(">Q")
# a block of no bytes, blocks, bytes of all blocks, SHA-256 of everything before
_END = struct.Struct(">IQQ32s")


class ArchiveHeader(Record):
    """What a file says of itself, before its contents."""

    cluster_id: str
    #: The last log entry in it.
    index: int
    term: int
    feature_level: int
    saved_at_ns: int
    #: The version that saved it, and on which node.
    version: str = ""
    node: str = ""
    #: Names of those who voted then.
    voters: tuple[str, ...] = ()
    #: Saved without asking a leader: something acknowledged elsewhere may be missing.
    is_stale: bool = False


_header_codec: Codec[ArchiveHeader] = Codec(ArchiveHeader, limit=HEADER_BYTES_MAX)


def archived(header: ArchiveHeader, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of a file that holds `pieces`, in bounded parts."""
    digest = hashlib.sha256()
    encoded = _header_codec.encode(header)
    head = _HEAD.pack(MAGIC, VERSION, CLEAR_KEY, len(encoded)) + encoded
    part = head + _CRC.pack(zlib.crc32(head))
    digest.update(part)
    yield part
    number, total = 0, 0
    for piece in pieces:
        for start in range(0, len(piece), BLOCK_BYTES_MAX):
            data = piece[start : start + BLOCK_BYTES_MAX]
            part = _BLOCK.pack(len(data), _block_crc(number, data)) + data
            digest.update(part)
            yield part
            number, total = number + 1, total + len(data)
    yield _END.pack(0, number, total, digest.digest())


def _block_crc(number: int, data: bytes) -> int:
    """A block that moved to another place is as wrong as one that changed."""
    return zlib.crc32(data, zlib.crc32(_NUMBER.pack(number)))


class ArchiveReader:
    """Takes a file's bytes as they come. Every method raises InvalidInput naming the place where it is damaged."""

    def __init__(self, name: str) -> None:
        """`name` is what errors call the file."""
        self._name = name
        self._buffer = bytearray()
        self._offset = 0
        self._digest = hashlib.sha256()
        #: What the file says of itself, once that much has come.
        self.header: ArchiveHeader | None = None
        self.blocks = 0
        self.bytes = 0
        self.is_complete = False

    def feed(self, data: bytes) -> list[bytes]:
        """The blocks that `data` completed, checked."""
        self._buffer += data
        if self.is_complete and self._buffer:
            raise self._damaged("bytes follow its end")
        if self.header is None and not self._read_header():
            return []
        found = []
        while (block := self._read_block()) is not None:
            found.append(block)
        return found

    def finish(self) -> ArchiveHeader:
        """Everything has come: the header of a whole file."""
        if self.header is None and len(self._buffer) < len(MAGIC):
            raise InvalidInput(f"{self._name}: {len(self._buffer)} B are no snapshot file of swarmlet")
        if self.header is None or not self.is_complete:
            raise InvalidInput(
                f"{self._name}: cut off at byte {self._offset + len(self._buffer)}: the end of the snapshot is missing; "
                "save it again, or take another copy"
            )
        return self.header

    def _read_header(self) -> bool:
        if len(self._buffer) >= len(MAGIC) and self._buffer[: len(MAGIC)] != MAGIC:
            raise InvalidInput(f"{self._name}: not a snapshot file of swarmlet (it begins with other bytes)")
        if len(self._buffer) < _HEAD.size:
            return False
        _, version, key_id, length = _HEAD.unpack_from(self._buffer)
        if version > VERSION or key_id != CLEAR_KEY:
            raise InvalidInput(
                f"{self._name}: form {version}, key {key_id}; this program reads form {VERSION} in clear: "
                "use the version of swarmlet that saved it"
            )
        if length > HEADER_BYTES_MAX:
            raise self._damaged("its header has an impossible size")
        end = _HEAD.size + length + _CRC.size
        if len(self._buffer) < end:
            return False
        head = bytes(self._buffer[: end - _CRC.size])
        if _CRC.unpack_from(self._buffer, end - _CRC.size)[0] != zlib.crc32(head):
            raise self._damaged("its header does not match its checksum")
        try:
            self.header = _header_codec.decode(head[_HEAD.size :])
        except WireError as error:
            raise self._damaged(f"its header can't be read ({error})") from error
        self._take(end)
        return True

    def _read_block(self) -> bytes | None:
        if len(self._buffer) < _BLOCK.size:
            return None
        length, crc = _BLOCK.unpack_from(self._buffer)
        if length == 0:
            self._read_end()
            return None
        if length > BLOCK_BYTES_MAX:
            raise self._damaged(f"a block claims {length:_} B")
        end = _BLOCK.size + length
        if len(self._buffer) < end:
            return None
        data = bytes(self._buffer[_BLOCK.size : end])
        if crc != _block_crc(self.blocks, data):
            raise self._damaged(f"block {self.blocks} does not match its checksum")
        self._take(end)
        self.blocks, self.bytes = self.blocks + 1, self.bytes + length
        return data

    def _read_end(self) -> None:
        if len(self._buffer) < _END.size:
            return
        _, blocks, total, digest = _END.unpack_from(self._buffer)
        if (blocks, total, digest) != (self.blocks, self.bytes, self._digest.digest()):
            raise self._damaged("the whole does not match its checksum")
        self._take(_END.size)
        self.is_complete = True
        if self._buffer:
            raise self._damaged("bytes follow its end")

    def _take(self, size: int) -> None:
        self._digest.update(self._buffer[:size])
        del self._buffer[:size]
        self._offset += size

    def _damaged(self, what: str) -> InvalidInput:
        return InvalidInput(f"{self._name}: damaged at byte {self._offset}: {what}; take another copy")
