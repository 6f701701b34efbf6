"""From the stream that a device holds to a newer one, coding only what changed.

What is the same is copied; what is near is copied and the difference sent, where that is cheaper than to send it anew
at the same price of a byte.  If no delta is smaller than the full stream, the full stream is what is returned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Unpack

from airlora.codec.encoder.plan import pack_stream
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate
from airlora.codec.format.assembly import DecodedStream
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.limits import Limits
from airlora.codec.stream import EncodeOptions, Encoding, decode_stream
from airlora.errors import CodecError

__all__ = ["decode_delta", "encode_delta", "verify_earlier"]


def encode_delta(
    old: bytes,
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor] | None = None,
    *,
    limits: Limits | None = None,
    **options: Unpack[EncodeOptions],
) -> bytes:
    """Return the smaller of a delta stream and the full stream of the new adapter; `describe` tells which it is.

    Args:
        old: The whole stream that the device holds, full itself.
        header: Of the new adapter, for the same base model; its `base_stream` is set here.
        updates: As in `encode_stream`, and so are the other arguments.
        tensors: The new head.
        limits: What `old` may claim.
        **options: As there.

    Raises:
        CodecError: `old` is damaged, cut, a delta itself or for another base model; otherwise as `encode_stream`.
    """
    base = verify_earlier(old, header, limits=limits)
    encoding = Encoding(header, updates, tensors, **options)
    streams = []
    for held, digest in ((None, None), (_usable(base, header), base.digest)):
        streams.append(pack_stream(replace(header, base_stream=digest), encoding.layout, encoding.units(held)))
    return min(streams, key=len)


def verify_earlier(old: bytes, header: StreamHeader, *, limits: Limits | None = None) -> DecodedStream:
    """Return the stream that a delta for an adapter of this header starts from; raises as `encode_delta` does."""
    base = decode_stream(old, limits=limits, strict=True)
    if base.header.base_fingerprint != header.base_fingerprint:
        raise CodecError(
            f"delta: the earlier stream belongs to base model {base.header.base_fingerprint[:12]},"
            f" the new one to {header.base_fingerprint[:12]}"
        )
    return base


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


def _usable(base: DecodedStream, header: StreamHeader) -> DecodedStream:
    """Return `base` without what has another shape now."""
    modules = {
        name: pair
        for name, pair in base.modules.items()
        if name in header.modules and base.header.modules[name] == header.modules[name]
    }
    tensors = {name: tensor for name, tensor in base.tensors.items() if header.tensors.get(name) == tensor.shape}
    return replace(base, modules=modules, tensors=tensors)
