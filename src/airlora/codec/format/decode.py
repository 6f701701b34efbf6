"""Decoding, truncation and description of a stream in memory."""

from __future__ import annotations

from typing import Any

from airlora.codec.format.container import unpack_index
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream, StreamReader
from airlora.errors import CodecError

__all__ = ["decode_stream", "describe", "truncate"]


def decode_stream(
    data: bytes | memoryview, *, limits: Limits | None = None, strict: bool = False, base: DecodedStream | None = None
) -> DecodedStream:
    """Return the adapter decoded from a stream or from a prefix of it.

    Args:
        data: Stream, or a prefix that contains at least the stream header. An incomplete last segment is ignored.
        limits: Upper bounds on what the stream may declare. None uses the defaults of `Limits`.
        strict: Whether to refuse a truncated stream.
        base: Complete base stream, required for a delta stream.

    Raises:
        CodecError: The data is not an airlora stream, has an unknown version, is damaged, declares too much, is longer
            than its header says or, if `strict`, is truncated.
    """
    view = memoryview(data)
    reader = StreamReader(view, limits=limits, base=base)
    total = reader.index.total_bytes
    if len(view) > total:
        raise CodecError.of("stream: length", len(view), f"{total} bytes, as in its header")
    if strict and len(view) < total:
        raise CodecError.of("stream: length", len(view), f"{total} bytes; the stream is truncated")
    while (segment := reader.next_range) is not None and segment[1] <= len(view):
        reader.feed(view[segment[0] : segment[1]])
    return reader.result()


def truncate(data: bytes, max_bytes: int, *, limits: Limits | None = None) -> bytes:
    """Return the longest prefix of complete segments that fits into `max_bytes`.

    The prefix keeps the stream header with the whole segment list, so the remaining segments can be appended later.

    Args:
        data: Stream, or a prefix that contains at least the stream header.
        max_bytes: Largest size of the prefix in bytes, at least the size of the stream header.
        limits: Upper bounds on what the stream may declare. None uses the defaults of `Limits`.

    Raises:
        CodecError: The stream header is larger than `max_bytes` or damaged.
    """
    index = unpack_index(data, Limits() if limits is None else limits)
    if max_bytes < index.num_bytes:
        raise CodecError.of("max_bytes", max_bytes, f"at least {index.num_bytes}, the size of the stream header")
    end = index.num_bytes
    for length in index.lengths:
        if end + length > min(max_bytes, len(data)):
            break
        end += length
    return bytes(data[:end])


def describe(data: bytes, *, limits: Limits | None = None, base: DecodedStream | None = None) -> dict[str, Any]:
    """Return the properties of a stream as a dictionary that JSON can represent.

    Args:
        data: Stream, or a prefix that contains at least the stream header.
        limits: Upper bounds on what the stream may declare. None uses the defaults of `Limits`.
        base: Complete base stream, required for a delta stream.

    Raises:
        CodecError: `decode_stream` refuses the stream.
    """
    index = unpack_index(data, Limits() if limits is None else limits)
    decoded = decode_stream(data, limits=limits, base=base)
    num_params = sum(u.size + v.size for u, v in decoded.modules.values())
    num_params += sum(tensor.size for tensor in decoded.tensors.values())
    return {
        "format_version": index.version,
        "digest": decoded.digest,
        "base_fingerprint": decoded.header.base_fingerprint,
        "base_stream": decoded.header.base_stream,
        "payload_bytes": decoded.bytes_used,
        "total_bytes": index.total_bytes,
        "head_bytes": index.num_bytes,
        "num_segments": decoded.num_segments,
        "total_segments": len(index.lengths),
        "is_complete": decoded.is_complete,
        "num_components": decoded.num_components,
        "num_params": num_params,
        "bits_per_param": 8 * decoded.bytes_used / num_params if num_params else None,
        "rank_pattern": {name: int(v.shape[0]) for name, (_, v) in decoded.modules.items()},
        "tensors": {name: list(tensor.shape) for name, tensor in decoded.tensors.items()},
        "metadata": dict(decoded.header.metadata),
    }
