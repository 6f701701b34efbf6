"""Encoding of an adapter into a full stream or a delta stream.

A delta stream encodes only the difference to a base stream that the device holds. Equal components are copied. Similar
components are copied and refined, if this is cheaper than to send them anew at the same Lagrange multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypedDict, Unpack, cast

import numpy as np

from airlora.codec.encoder.plan import MIN_SEGMENT_BYTES, pack_stream, plan_items
from airlora.codec.encoder.precision import BitWidth, LossModelCache, PrecisionSchedule, choose_schedule
from airlora.codec.encoder.refinement import PlannedItem
from airlora.codec.encoder.rounding import Rounding
from airlora.codec.encoder.sources import DenseTensor, ModuleUpdate, verify_sources
from airlora.codec.format.decode import decode_stream
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Layout
from airlora.codec.format.limits import Limits
from airlora.codec.format.reader import DecodedStream
from airlora.errors import CodecError
from airlora.identity import is_same_base

__all__ = ["EncodeOptions", "PrecisionOptions", "StreamEncoder", "encode_delta", "encode_stream", "verify_base_stream"]

_MAX_SIZE_CORRECTIONS = 5
_SIZE_TOLERANCE = 0.03


class PrecisionOptions(TypedDict, total=False):
    """Options of the encoder that determine the precision. An option that is left out has its default value.

    Attributes:
        bits: Bits per value. "auto" (default) optimises the precision and the selection of the components; a number
            sends all components with that precision. The other options except `rounding` apply to "auto" only.
        lagrange_multiplier: Lagrange multiplier of the optimisation, loss per byte. None (default) searches for the
            value that satisfies `max_bytes` or `max_distortion`.
        max_distortion: Largest share of the total importance that rounding and unsent components may lose; default 0.1.
        max_bytes: Size of the stream in bytes. It overrides `max_distortion`. The stream is up to 3 % smaller, or
            larger where no precision is as small; `truncate` limits the size exactly.
        layers: Number of times that a value may be sent, from coarse to fine, 1 (default) to 8. More layers improve
            the prefixes of the stream and make the complete stream a little larger.
        rounding: Rounding method; default `Rounding.RATE_DISTORTION`.
    """

    bits: BitWidth
    lagrange_multiplier: float | None
    max_distortion: float
    max_bytes: int | None
    layers: int
    rounding: Rounding


class EncodeOptions(PrecisionOptions, total=False):
    """Options of the encoder. An option that is left out has its default value.

    Attributes:
        min_segment_bytes: Size of the first segments in bytes; default 512. Every segment has a digest of 32 bytes, and
            receivers use whole segments.
    """

    min_segment_bytes: int


def encode_stream(
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor] | None = None,
    **options: Unpack[EncodeOptions],
) -> bytes:
    """Return the full stream of an adapter.

    The result is deterministic on one machine. Other machines may return different bytes, but all machines decode the
    same bytes to the same adapter.

    Args:
        header: Header fields, which list all modules and tensors that may be sent.
        updates: Components by module name. Modules may be left out.
        tensors: Dense tensors by parameter name. Tensors may be left out.
        **options: Options of the encoder, see `EncodeOptions`.

    Raises:
        CodecError: A module or tensor does not match the header, or the value of an option is not allowed.
    """
    encoder = StreamEncoder(header, updates, tensors, **options)
    return encoder.pack(header)


def encode_delta(
    old: bytes,
    header: StreamHeader,
    updates: Mapping[str, ModuleUpdate],
    tensors: Mapping[str, DenseTensor] | None = None,
    *,
    limits: Limits | None = None,
    **options: Unpack[EncodeOptions],
) -> bytes:
    """Return the delta stream or the full stream of an adapter, whichever is smaller.

    `describe` tells which one it is: `base_stream` is None for a full stream.

    Args:
        old: Complete full stream that the device holds.
        header: Header fields of the new adapter. The base model must be that of `old`; `base_stream` is ignored.
        updates: Components by module name. Modules may be left out.
        tensors: Dense tensors by parameter name. Tensors may be left out.
        limits: Upper bounds on what `old` may declare. None uses the defaults of `Limits`.
        **options: Options of the encoder, see `EncodeOptions`.

    Raises:
        CodecError: `old` is damaged, truncated, a delta stream or for another base model, or `encode_stream` refuses an
            argument.
    """
    base = verify_base_stream(old, header, limits=limits)
    encoder = StreamEncoder(header, updates, tensors, **options)
    full = encoder.pack(replace(header, base_stream=None))
    delta = encoder.pack(replace(header, base_stream=base.digest), _matching(base, header))
    return min(full, delta, key=len)


def verify_base_stream(old: bytes, header: StreamHeader, *, limits: Limits | None = None) -> DecodedStream:
    """Verify that a stream can be the base of a delta stream with the given header, and return it decoded.

    Raises:
        CodecError: The stream is damaged, truncated, a delta stream or for another base model.
    """
    base = decode_stream(old, limits=limits, strict=True)
    if not is_same_base(base.header.base_fingerprint, header.base_fingerprint):
        raise CodecError(
            f"delta: the base stream belongs to base model {base.header.base_fingerprint[:12]},"
            f" the new adapter to {header.base_fingerprint[:12]}"
        )
    return base


class StreamEncoder:
    """Encoder of one adapter. It chooses the precision of every layer when it is created.

    The arguments and errors are those of `encode_stream`.

    Attributes:
        layout: Modules and dense tensors that the items of the stream refer to.
        schedule: Precision of every layer.
    """

    def __init__(
        self,
        header: StreamHeader,
        updates: Mapping[str, ModuleUpdate],
        tensors: Mapping[str, DenseTensor] | None = None,
        **options: Unpack[EncodeOptions],
    ) -> None:
        tensors = {} if tensors is None else tensors
        verify_sources(header, updates, tensors)
        self._updates, self._tensors = updates, {name: _sent_part(header, name, own) for name, own in tensors.items()}
        self.layout = Layout(header)
        self._cache: LossModelCache = {}
        self._min_segment_bytes = options.get("min_segment_bytes", MIN_SEGMENT_BYTES)
        if self._min_segment_bytes < 1:
            raise CodecError.of("min_segment_bytes", self._min_segment_bytes, "a whole number, 1 or more")
        precision = cast("PrecisionOptions", {k: value for k, value in options.items() if k != "min_segment_bytes"})
        self.schedule = choose_schedule(self._updates, self._tensors, **precision, cache=self._cache)
        self._rounding = Rounding(options.get("rounding", Rounding.RATE_DISTORTION))
        max_bytes = options.get("max_bytes")
        if max_bytes is not None and self.schedule.multiplier is not None:
            self._correct_size(header, max_bytes, precision)

    def plan(self, base: DecodedStream | None = None) -> list[PlannedItem]:
        """Return the items to send, in stream order.

        Args:
            base: Decoded stream that the device holds. None plans a full stream.
        """
        return plan_items(self.layout, self._updates, self._tensors, self.schedule, rounding=self._rounding, base=base)

    def pack(self, header: StreamHeader, base: DecodedStream | None = None) -> bytes:
        """Return the stream.

        Args:
            header: Header fields.
            base: Decoded stream that the device holds. None packs a full stream.
        """
        return pack_stream(header, self.layout, self.plan(base), min_segment_bytes=self._min_segment_bytes)

    def _correct_size(self, header: StreamHeader, max_bytes: int, options: PrecisionOptions) -> None:
        """Correct the schedule by the size of the stream, which `choose_schedule` estimates."""
        target = wanted = (1 - _SIZE_TOLERANCE / 2) * max_bytes
        found: list[tuple[int, PrecisionSchedule]] = []
        for _ in range(_MAX_SIZE_CORRECTIONS):
            found.append((len(self.pack(header)), self.schedule))
            if (1 - _SIZE_TOLERANCE) * max_bytes <= found[-1][0] <= max_bytes:
                break
            target *= wanted / found[-1][0]
            corrected: PrecisionOptions = {**options, "max_bytes": min(max(1, round(target)), 2**63 - 1)}
            self.schedule = choose_schedule(self._updates, self._tensors, **corrected, cache=self._cache)
            if self.schedule == found[-1][1]:  # everything or nothing is sent
                break
        # The largest stream that is small enough, or else the smallest.
        self.schedule = max(found, key=lambda own: (own[0] <= max_bytes, -abs(own[0] - max_bytes)))[1]


def _sent_part(header: StreamHeader, name: str, tensor: DenseTensor) -> DenseTensor:
    """Return the part of a dense tensor that is sent, for a centred one after the mean row is subtracted."""
    if name not in header.centred:
        return tensor
    values = np.asarray(tensor.values, dtype=np.float32)
    return replace(tensor, values=header.sent_part(name, values - values.mean(axis=0)))


def _matching(base: DecodedStream, header: StreamHeader) -> DecodedStream:
    """Return `base` without what the header declares otherwise, and of its tensors the parts that are sent."""
    modules = {
        name: factors for name, factors in base.modules.items() if header.modules.get(name) == base.header.modules[name]
    }
    found = {name: base.matching_tensor(name, header) for name in header.tensors}
    tensors = {name: header.sent_part(name, tensor) for name, tensor in found.items() if tensor is not None}
    return replace(base, modules=modules, tensors=tensors)
