"""The file around the segments: who it is for, what comes, and the digest of every piece.

| bytes | hold |
|---|---|
| 4 | `AIRS` |
| 1 | version of the format, 1 |
| 1 | version of the entropy tables, 1 |
| 4 | h, length of the header, little-endian |
| 4 | m, length of the manifest |
| 32 | SHA-256 of the 14 bytes before, the header and the manifest |
| h | header (`header`) |
| m | manifest: varint n; n varints, the segments' lengths; n times 32 bytes, their SHA-256 |
| rest | the segments (`segments`), one after the other |

All up to the first segment is the *head*.  Its digest covers the manifest and so names the whole stream: to trust a
stream is to trust these 32 bytes.  The first segments are short and later ones an eighth of what came before, so that
the digests stay a few per cent of the stream and yet the first kilobyte can be used.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from airlora.codec.format.header import StreamHeader, pack_header, unpack_header
from airlora.codec.format.limits import Limits
from airlora.codec.format.tables import TABLES_VERSION
from airlora.codec.format.varint import ByteReader, varint
from airlora.errors import CodecError

__all__ = ["FORMAT_VERSION", "MAGIC", "StreamHead", "pack_head", "unpack_head", "verify_segment"]

MAGIC = b"AIRS"
FORMAT_VERSION = 1
_FIXED = struct.Struct("<4sBBII")
_DIGEST_BYTES = 32
_MIN_HEAD_BYTES = _FIXED.size + _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class StreamHead:
    """All of a stream but its segments.

    Args:
        header: What the stream says of itself.
        lengths: Bytes of each segment.
        digests: SHA-256 of each segment.
        num_bytes: Bytes of the head.
        digest: SHA-256 that the head carries, 64 hexadecimal digits; it names the stream.
    """

    header: StreamHeader
    lengths: tuple[int, ...]
    digests: tuple[bytes, ...]
    num_bytes: int
    digest: str

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole stream."""
        return self.num_bytes + sum(self.lengths)


def pack_head(header: StreamHeader, segments: Sequence[bytes]) -> bytes:
    """Return the head for these segments."""
    packed = pack_header(header)
    lengths = b"".join(varint(len(segment)) for segment in segments)
    manifest = varint(len(segments)) + lengths + b"".join(hashlib.sha256(segment).digest() for segment in segments)
    fixed = _FIXED.pack(MAGIC, FORMAT_VERSION, TABLES_VERSION, len(packed), len(manifest))
    return fixed + hashlib.sha256(fixed + packed + manifest).digest() + packed + manifest


def unpack_head(data: bytes | memoryview, limits: Limits) -> StreamHead:
    """Return the head that `data` starts with.

    Raises:
        CodecError: `data` is no stream, is newer, damaged or shorter than its head, or claims more than `limits` allow.
    """
    if len(data) < len(MAGIC) or bytes(data[: len(MAGIC)]) != MAGIC:
        raise CodecError("stream: not written by airlora (it does not start with AIRS)")
    if len(data) < _MIN_HEAD_BYTES:
        raise CodecError(f"stream: cut inside its head ({len(data)} bytes of {_MIN_HEAD_BYTES} or more)")
    _, version, tables, header_bytes, manifest_bytes = _FIXED.unpack_from(data)
    for name, found, known in (("format", version, FORMAT_VERSION), ("entropy tables", tables, TABLES_VERSION)):
        if found != known:
            raise CodecError.of(f"stream: version of the {name}", found, f"{known}; a newer airlora may read it")
    _at_most("bytes of the header", header_bytes, limits.max_header_bytes)
    _at_most("bytes of the manifest", manifest_bytes, 10 + limits.max_segments * (_DIGEST_BYTES + 9))
    num_bytes = _MIN_HEAD_BYTES + header_bytes + manifest_bytes
    if len(data) < num_bytes:
        raise CodecError(f"stream: cut inside its head ({len(data)} bytes of {num_bytes})")
    digest = bytes(data[_FIXED.size : _MIN_HEAD_BYTES])
    body = bytes(data[_MIN_HEAD_BYTES:num_bytes])
    if hashlib.sha256(bytes(data[: _FIXED.size]) + body).digest() != digest:
        raise CodecError("stream: head is damaged (its digest differs)")
    header = unpack_header(body[:header_bytes], limits)
    lengths, digests = _unpack_manifest(body[header_bytes:], limits)
    return StreamHead(header, lengths, digests, num_bytes, digest.hex())


def verify_segment(head: StreamHead, place: int, segment: bytes | memoryview) -> None:
    """Raise `CodecError` unless `segment` is segment `place` of the manifest, whole and undamaged."""
    if place >= len(head.lengths):
        raise CodecError.of("number of segments", place + 1, f"at most {len(head.lengths)}, as in the manifest")
    if len(segment) != head.lengths[place]:
        raise CodecError.of(f"segment {place}: length", len(segment), f"{head.lengths[place]} bytes")
    if hashlib.sha256(segment).digest() != head.digests[place]:
        raise CodecError(f"segment {place}: damaged or out of order (its digest differs)")


def _unpack_manifest(data: bytes, limits: Limits) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    reader = ByteReader(data, "manifest")
    count = reader.number("number of segments", limits.max_segments)
    lengths = tuple(reader.number("length of a segment", limits.max_segment_bytes) for _ in range(count))
    if 0 in lengths:
        raise CodecError("manifest: a segment of 0 bytes")
    digests = tuple(reader.take(_DIGEST_BYTES) for _ in range(count))
    reader.finish()
    return lengths, digests


def _at_most(name: str, value: int, limit: int) -> None:
    if value > limit:
        raise CodecError.of(f"stream: {name}", value, f"at most {limit}")
