"""An adapter to one stream of bytes, best first, and back from any prefix of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airlora.codec.format.container import FORMAT_VERSION, unpack_head
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream, StreamReader
from airlora.errors import CodecError
from airlora.files import read_bytes

__all__ = ["cut", "decode_delta", "decode_stream", "describe", "read_stream"]


def decode_stream(
    data: bytes | memoryview, *, limits: Limits | None = None, strict: bool = False, base: DecodedStream | None = None
) -> DecodedStream:
    """Return the adapter that a stream, or its first bytes, stands for.

    Args:
        data: The stream, or at least its head; a segment that is cut is left out, and `is_complete` tells.
        limits: What it may claim.
        strict: Refuse a stream that is not whole.
        base: The adapter that the device holds, for a delta stream.

    Raises:
        CodecError: The stream is damaged, foreign, newer, claims too much, goes on after its end, or, if `strict`, is
            not whole.
    """
    view = memoryview(data)
    reader = StreamReader(view, limits=limits, base=base)
    total = reader.head.total_bytes
    if len(view) > total:
        raise CodecError.of("stream: length", len(view), f"{total} bytes, as in its manifest")
    if strict and len(view) < total:
        raise CodecError.of("stream: length", len(view), f"{total} bytes; it is cut")
    while (place := reader.next_range) is not None and place[1] <= len(view):
        reader.feed(view[place[0] : place[1]])
    return reader.result()


def read_stream(
    path: Path | str, *, limits: Limits | None = None, strict: bool = False, base: DecodedStream | None = None
) -> DecodedStream:
    """Return what the stream in a file stands for; see `decode_stream`, whose errors here name the file.

    Raises:
        CodecError: The file is missing, cannot be read or holds no stream that `decode_stream` takes.
    """
    data = read_bytes(path, "stream", CodecError)
    try:
        return decode_stream(data, limits=limits, strict=strict, base=base)
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error


def decode_delta(
    data: bytes | memoryview, old: bytes | DecodedStream, *, limits: Limits | None = None, strict: bool = False
) -> DecodedStream:
    """Return the new adapter from what `encode_delta` made, a full stream included.

    Args:
        data: The delta, or its first bytes.
        old: The stream that it starts from, whole, or what that decoded to.
        limits: What either may claim.
        strict: Refuse a delta that is not whole.

    Raises:
        CodecError: The delta starts from another stream; otherwise as `decode_stream`.
    """
    base = old if isinstance(old, DecodedStream) else decode_stream(old, limits=limits, strict=True)
    return decode_stream(data, limits=limits, strict=strict, base=base)


def cut(data: bytes, max_bytes: int, *, limits: Limits | None = None) -> bytes:
    """Return the longest prefix of whole segments within `max_bytes`; the manifest stays, so that the rest can follow.

    Raises:
        CodecError: The head alone is larger, or damaged.
    """
    head = unpack_head(data, Limits() if limits is None else limits)
    if max_bytes < head.num_bytes:
        raise CodecError.of("max_bytes", max_bytes, f"at least {head.num_bytes}, the stream's head")
    end = head.num_bytes
    for length in head.lengths:
        if end + length > min(max_bytes, len(data)):
            break
        end += length
    return bytes(data[:end])


def describe(data: bytes, *, limits: Limits | None = None, base: DecodedStream | None = None) -> dict[str, Any]:
    """Return what a stream is and holds, as values that JSON can hold; raises `CodecError` as `decode_stream` does."""
    head = unpack_head(data, Limits() if limits is None else limits)
    decoded = decode_stream(data, limits=limits, base=base)
    numbers = sum(u.size + v.size for u, v in decoded.modules.values()) + sum(t.size for t in decoded.tensors.values())
    return {
        "format_version": FORMAT_VERSION,
        "digest": head.digest,
        "base_fingerprint": head.header.base_fingerprint,
        "base_stream": head.header.base_stream,
        "payload_bytes": decoded.bytes_used,
        "total_bytes": head.total_bytes,
        "head_bytes": head.num_bytes,
        "num_segments": decoded.num_segments,
        "total_segments": len(head.lengths),
        "is_complete": decoded.is_complete,
        "num_components": decoded.num_components,
        "num_params": numbers,
        "bits_per_param": 8 * decoded.bytes_used / numbers if numbers else None,
        "rank_pattern": {name: int(v.shape[0]) for name, (_, v) in decoded.modules.items()},
        "tensors": {name: list(tensor.shape) for name, tensor in decoded.tensors.items()},
        "metadata": dict(head.header.metadata),
    }
