"""An adapter to one stream of bytes, best first, and back from any prefix of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict, Unpack

from airlora.codec.encoder.plan import encode_items, pack_stream
from airlora.codec.encoder.precision import Bits, resolve_precision
from airlora.codec.encoder.refinement import Unit
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import HeadTensor, ModuleUpdate, verify_sources
from airlora.codec.format.decode import decode_stream
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Layout
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream
from airlora.errors import CodecError

__all__ = ["EncodeOptions", "Encoding", "encode_delta", "encode_stream", "verify_earlier"]


_CORRECTIONS = 3
_CLOSE = 0.03


class EncodeOptions(TypedDict, total=False):
    """How an adapter is coded; what is left out has its default.

    Args:
        bits: "auto" (the default) plans precision and what is sent; a number sends all at that many bits a number.
        price: For "auto": the loss that a byte is worth; by default found from the two below.
        max_distortion: For "auto": share of the weights that may be lost by rounding and by what is not sent; 0.1.
        max_bytes: For "auto": about how large the stream may become, which overrides `max_distortion`; `cut` is exact.
        layers: For "auto": from coarse to fine, how often a number may be sent, 1 (the default) to 8; more make
            prefixes better and the whole a little larger.
        rounding: How numbers are rounded; `Rounding.RATE_DISTORTION`.
    """

    bits: Bits
    price: float | None
    max_distortion: float
    max_bytes: int | None
    layers: int
    rounding: Rounding


def encode_stream(
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor] | None = None,
    **options: Unpack[EncodeOptions],
) -> bytes:
    """Return the stream of an adapter.

    Args:
        header: What the stream says of itself; its modules and tensors are those that may be sent.
        updates: The components of each module; a module may be left out.
        tensors: The head.
        **options: See `EncodeOptions`.

    Returns:
        The same bytes for the same input on one machine; elsewhere perhaps others, but bytes decode alike everywhere.

    Raises:
        CodecError: A source is not in the header or of another shape, or an argument is not allowed.
    """
    encoding = Encoding(header, updates, tensors, **options)
    return pack_stream(header, encoding.layout, encoding.units())


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


class Encoding:
    """An adapter with the precision that its options ask for; arguments and errors are those of `encode_stream`."""

    def __init__(
        self,
        header: StreamHeader,
        updates: Mapping[str, ModuleUpdate],
        tensors: Mapping[str, HeadTensor] | None = None,
        **options: Unpack[EncodeOptions],
    ) -> None:
        self._updates, self._tensors = updates, {} if tensors is None else tensors
        verify_sources(header, self._updates, self._tensors)
        self.layout = Layout(header.modules, header.tensors, header.r_max)
        self.ladder = resolve_precision(self._updates, self._tensors, **options)
        self._rounding = Rounding(options.get("rounding", Rounding.RATE_DISTORTION))
        wanted = options.get("max_bytes")
        if wanted is not None and len(self.ladder.prices) > 1:
            self._aim(header, wanted, options)

    def units(self, base: DecodedStream | None = None) -> list[Unit]:
        """Return what is sent, best first, to a device that holds `base`."""
        return encode_items(self.layout, self._updates, self._tensors, self.ladder, rounding=self._rounding, base=base)

    def _aim(self, header: StreamHeader, wanted: int, options: EncodeOptions) -> None:
        """Correct the ladder by what its layers come to, each of which codes what the last left; plans see one."""
        aim = float(wanted)
        for _ in range(_CORRECTIONS):
            ratio = len(pack_stream(header, self.layout, self.units())) / wanted
            if abs(ratio - 1) < _CLOSE:
                break
            aim /= ratio
            closer: EncodeOptions = {**options, "max_bytes": min(max(1, round(aim)), 2**63 - 1)}
            before, self.ladder = self.ladder, resolve_precision(self._updates, self._tensors, **closer)
            if self.ladder == before:  # all is sent, or nothing is
                break


def _usable(base: DecodedStream, header: StreamHeader) -> DecodedStream:
    """Return `base` without what has another shape now."""
    modules = {
        name: pair
        for name, pair in base.modules.items()
        if name in header.modules and base.header.modules[name] == header.modules[name]
    }
    tensors = {name: tensor for name, tensor in base.tensors.items() if header.tensors.get(name) == tensor.shape}
    return replace(base, modules=modules, tensors=tensors)
