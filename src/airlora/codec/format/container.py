"""Container format of a stream: stream header and segments.

| bytes | content |
|---|---|
| 4 | magic `AIRS` |
| 1 | version of the format: 1, or 2 for a stream with a seeded basis or centred tensors |
| 1 | version of the entropy tables, 1 |
| 4 | h, length of the header fields, little-endian |
| 4 | m, length of the segment list, little-endian |
| 32 | SHA-256 of the 14 bytes before, the header fields and the segment list |
| h | header fields, see `header` |
| m | segment list: varint n, n varints with the lengths of the segments, n SHA-256 digests of the segments |
| rest | n segments one after the other, see `segments` |

All bytes before the first segment form the stream header. Its digest covers the segment list and therefore identifies
the whole stream: whoever trusts these 32 bytes can verify every segment.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from airlora.codec.format.header import StreamHeader, pack_header, unpack_header
from airlora.codec.format.limits import Limits
from airlora.codec.format.tables import TABLES_VERSION
from airlora.codec.format.varint import ByteReader, encode_varint
from airlora.errors import CodecError

__all__ = ["FORMAT_VERSION", "StreamIndex", "pack_index", "unpack_index"]

FORMAT_VERSION = 2
"""Newest version of the format. Streams without a seeded basis and centred tensors have version 1 for older agents."""
_MAGIC = b"AIRS"
_FIXED = struct.Struct("<4sBBII")
_DIGEST_BYTES = 32
_MIN_INDEX_BYTES = _FIXED.size + _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class StreamIndex:
    """Parsed stream header: the header fields and the length and digest of every segment.

    Args:
        header: Header fields.
        lengths: Size of each segment in bytes.
        digests: SHA-256 digest of each segment, 32 bytes each.
        num_bytes: Size of the stream header in bytes. The first segment starts at this offset.
        digest: SHA-256 digest that identifies the stream, 64 hexadecimal digits.
        version: Version of the format.
    """

    header: StreamHeader
    lengths: tuple[int, ...]
    digests: tuple[bytes, ...]
    num_bytes: int
    digest: str
    version: int

    @property
    def total_bytes(self) -> int:
        """Size of the complete stream in bytes."""
        return self.num_bytes + sum(self.lengths)

    def verify_segment(self, number: int, segment: bytes | memoryview) -> None:
        """Verify the length and the digest of a segment.

        Args:
            number: Position of the segment in the stream, from 0.
            segment: Bytes of the segment.

        Raises:
            CodecError: The stream header lists no such segment, or another length or digest.
        """
        if number >= len(self.lengths):
            raise CodecError.of(
                "number of segments", number + 1, f"at most {len(self.lengths)}, as in the stream header"
            )
        if len(segment) != self.lengths[number]:
            raise CodecError.of(f"segment {number}: length", len(segment), f"{self.lengths[number]} bytes")
        if hashlib.sha256(segment).digest() != self.digests[number]:
            raise CodecError(f"segment {number}: damaged or out of order (its digest differs)")


def pack_index(header: StreamHeader, segments: Sequence[bytes]) -> bytes:
    """Return the stream header that precedes these segments."""
    packed = pack_header(header)
    lengths = b"".join(encode_varint(len(segment)) for segment in segments)
    digests = b"".join(hashlib.sha256(segment).digest() for segment in segments)
    segment_list = encode_varint(len(segments)) + lengths + digests
    version = _version_of(header)
    fixed = _FIXED.pack(_MAGIC, version, TABLES_VERSION, len(packed), len(segment_list))
    return fixed + hashlib.sha256(fixed + packed + segment_list).digest() + packed + segment_list


def unpack_index(data: bytes | memoryview, limits: Limits) -> StreamIndex:
    """Return the parsed stream header at the start of `data`.

    Args:
        data: First bytes of a stream. Bytes after the stream header are ignored.
        limits: Upper bounds on what the stream may declare.

    Raises:
        CodecError: The data is not an airlora stream, has an unknown version, is damaged or truncated inside the
            stream header, or declares more than `limits` allow.
    """
    if len(data) < len(_MAGIC) or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise CodecError("stream: not written by airlora (it does not start with AIRS)")
    if len(data) < _MIN_INDEX_BYTES:
        raise CodecError(f"stream: truncated inside its header ({len(data)} bytes of {_MIN_INDEX_BYTES} or more)")
    _, version, tables, header_bytes, list_bytes = _FIXED.unpack_from(data)
    for name, found, newest in (("format", version, FORMAT_VERSION), ("entropy tables", tables, TABLES_VERSION)):
        if not 1 <= found <= newest:
            known = "1" if newest == 1 else f"1 to {newest}"
            raise CodecError.of(f"stream: version of the {name}", found, f"{known}; a newer airlora may read it")
    for name, size, limit in (
        ("header fields", header_bytes, limits.max_header_bytes),
        ("segment list", list_bytes, 10 + limits.max_segments * (_DIGEST_BYTES + 9)),
    ):
        if size > limit:
            raise CodecError.of(f"stream: bytes of the {name}", size, f"at most {limit}")
    num_bytes = _MIN_INDEX_BYTES + header_bytes + list_bytes
    if len(data) < num_bytes:
        raise CodecError(f"stream: truncated inside its header ({len(data)} bytes of {num_bytes})")
    digest = bytes(data[_FIXED.size : _MIN_INDEX_BYTES])
    body = bytes(data[_MIN_INDEX_BYTES:num_bytes])
    if hashlib.sha256(bytes(data[: _FIXED.size]) + body).digest() != digest:
        raise CodecError("stream: header is damaged (its digest differs)")
    header = unpack_header(body[:header_bytes], limits)
    if version != _version_of(header):
        raise CodecError.of("stream: version of the format", version, f"{_version_of(header)} for these header fields")
    lengths, digests = _unpack_segment_list(body[header_bytes:], limits)
    return StreamIndex(header, lengths, digests, num_bytes, digest.hex(), version)


def _version_of(header: StreamHeader) -> int:
    return 1 if header.basis is None and not header.centred else 2


def _unpack_segment_list(data: bytes, limits: Limits) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    reader = ByteReader(data, "segment list")
    count = reader.read_varint("number of segments", limits.max_segments)
    lengths = tuple(reader.read_varint("length of a segment", limits.max_segment_bytes) for _ in range(count))
    if 0 in lengths:
        raise CodecError("segment list: holds a segment of 0 bytes")
    digests = tuple(reader.take(_DIGEST_BYTES) for _ in range(count))
    reader.finish()
    return lengths, digests
