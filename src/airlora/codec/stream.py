"""An adapter to one stream of bytes, best first, and back from any prefix of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

from airlora.codec.assembly import DecodedStream
from airlora.codec.climb import Ladder, Unit
from airlora.codec.coding import Rounding
from airlora.codec.container import FORMAT_VERSION, unpack_head
from airlora.codec.encode import encode_items, pack_stream
from airlora.codec.header import StreamHeader
from airlora.codec.items import Layout
from airlora.codec.limits import Limits
from airlora.codec.plan import Budgeted, find_price
from airlora.codec.reader import StreamReader
from airlora.codec.sources import HeadTensor, ModuleUpdate
from airlora.errors import CodecError
from airlora.files import read_bytes

__all__ = [
    "Bits",
    "EncodeOptions",
    "Encoding",
    "cut",
    "decode_stream",
    "describe",
    "encode_stream",
    "read_stream",
    "resolve_precision",
    "verify_sources",
]

Bits = Literal["auto", 32, 16, 8, 4]


class EncodeOptions(TypedDict, total=False):
    """How an adapter is coded; what is left out has its default.

    Attributes:
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


def resolve_precision(
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, HeadTensor],
    *,
    bits: Bits = "auto",
    price: float | None = None,
    max_distortion: float = 0.1,
    max_bytes: int | None = None,
    layers: int = 1,
    rounding: Rounding = Rounding.RATE_DISTORTION,
) -> Ladder:
    """Return how fine `EncodeOptions` ask for."""
    if rounding not in list(Rounding):
        raise CodecError.of("rounding", str(rounding), ", ".join(Rounding))
    if type(layers) is not int or not 1 <= layers <= 8:
        raise CodecError.of("layers", layers, "1 to 8")
    if bits not in get_args(Bits):
        raise CodecError.of("bits", bits, "auto, 32, 16, 8 or 4")
    if bits != "auto":
        return Ladder(bits=bits)
    if price is not None:
        if not 0 < price < float("inf"):
            raise CodecError.of("price", price, "a number above 0")
        return Ladder(price, layers=layers)
    if not 0 < max_distortion < 1:
        raise CodecError.of("max_distortion", max_distortion, "a number above 0 and below 1")
    if max_bytes is not None and not 1 <= max_bytes < 2**63:
        raise CodecError.of("max_bytes", max_bytes, "a whole number, 1 or more and below 2^63")

    def is_enough(bought: Budgeted) -> bool:
        if max_bytes is not None:
            return bought.num_bytes * _OVERHEAD + _HEAD_BYTES >= max_bytes
        return bought.loss <= max_distortion * bought.total

    return Ladder(find_price(updates, tensors, is_enough=is_enough, rounding=Rounding(rounding)).price, layers=layers)


# Digests and fields beside the numbers, and the header; only to aim at `max_bytes`.
_OVERHEAD = 1.03
_HEAD_BYTES = 300
_CORRECTIONS = 3
_CLOSE = 0.03


def verify_sources(
    header: StreamHeader, updates: Mapping[str, ModuleUpdate], tensors: Mapping[str, HeadTensor]
) -> None:
    """Raise `CodecError` unless every source is in the header, of its shape and within r_max."""
    for name, update in updates.items():
        shape = header.modules.get(name)
        if shape is None:
            raise CodecError.of("module", name, "one of the header's")
        found = (update.U.shape[0], update.V.shape[1])
        if found != (shape.d_out, shape.d_in):
            raise CodecError.of(f"d_out and d_in of {name}", found, str((shape.d_out, shape.d_in)))
        if update.V.shape[0] > header.r_max:
            raise CodecError.of(f"components of {name}", update.V.shape[0], f"at most r_max = {header.r_max}")
    for name, tensor in tensors.items():
        if tensor.values.shape != header.tensors.get(name):
            raise CodecError.of(
                f"shape of {name}", tensor.values.shape, str(header.tensors.get(name, "no such tensor"))
            )
