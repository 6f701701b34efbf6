"""Segment-by-segment decoding of a stream while it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.container import unpack_index
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Item, Kind, Layout
from airlora.codec.format.limits import Limits
from airlora.codec.format.segments import unpack_segment
from airlora.errors import CodecError
from airlora.ranks import RankPattern

__all__ = ["DecodedStream", "StreamReader"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodedStream:
    """Adapter decoded from a stream or from a prefix of it.

    Args:
        header: Header fields of the stream.
        modules: U [d_out, r] and V [r, d_in] of every module, float32. The weight update is U V, all scales included.
        tensors: Decoded dense tensors, float32. A tensor that has not been received is missing.
        num_components: Number of components of all modules together.
        num_segments: Number of decoded segments.
        bytes_used: Size of the stream header and the decoded segments in bytes.
        is_complete: Whether all segments of the stream were decoded.
        digest: SHA-256 digest that identifies the complete stream, 64 hexadecimal digits.
    """

    header: StreamHeader
    modules: Mapping[str, tuple[Array, Array]]
    tensors: Mapping[str, Array]
    num_components: int
    num_segments: int
    bytes_used: int
    is_complete: bool
    digest: str

    @property
    def rank_pattern(self) -> RankPattern:
        """Number of components per module, in the order of the header.

        Raises:
            RankPatternError: The stream has no modules.
        """
        return RankPattern({name: v.shape[0] for name, (_, v) in self.modules.items()})


class StreamReader:
    """Decoder that takes one segment at a time.

    Args:
        data: First bytes of the stream, at least the whole stream header. Bytes after the stream header are ignored.
        limits: Upper bounds on what the stream may declare. None uses the defaults of `Limits`.
        base: Complete base stream, required for a delta stream.

    Attributes:
        index: Parsed stream header.
        num_segments: Number of segments decoded so far.
        bytes_used: Size of the stream header and the segments decoded so far, in bytes.

    Raises:
        CodecError: The stream header is damaged or declares too much, or `base` is not the base stream.
    """

    def __init__(
        self, data: bytes | memoryview, *, limits: Limits | None = None, base: DecodedStream | None = None
    ) -> None:
        limits = Limits() if limits is None else limits
        self.index = unpack_index(data, limits)
        _verify_base(self.index.header.base_stream, base)
        self._adapter = _GrowingAdapter(self.index.header, base)
        self._values_left = limits.max_values
        self.num_segments = 0
        self.bytes_used = self.index.num_bytes

    @property
    def is_complete(self) -> bool:
        """Whether all segments have been decoded."""
        return self.num_segments == len(self.index.lengths)

    @property
    def next_range(self) -> tuple[int, int] | None:
        """Start and end of the next segment as byte offsets in the stream. None after the last segment."""
        if self.is_complete:
            return None
        return self.bytes_used, self.bytes_used + self.index.lengths[self.num_segments]

    def feed(self, segment: bytes | memoryview) -> None:
        """Decode the next segment. After an error the reader must not be used any more.

        Args:
            segment: All bytes of the segment.

        Raises:
            CodecError: The bytes are not the next segment of the stream, or an item of the segment is invalid.
        """
        self.index.verify_segment(self.num_segments, segment)
        layout, name = self._adapter.layout, f"segment {self.num_segments}"
        items = unpack_segment(segment, layout, max_values=self._values_left, name=name)
        self._values_left -= sum(layout.num_values(item.target) for item in items)
        for item in items:
            self._adapter.apply(item)
        self.num_segments += 1
        self.bytes_used += len(segment)

    def result(self) -> DecodedStream:
        """Return the adapter decoded so far."""
        modules = self._adapter.modules()
        return DecodedStream(
            header=self.index.header,
            modules=modules,
            tensors=self._adapter.tensors(),
            num_components=sum(v.shape[0] for _, v in modules.values()),
            num_segments=self.num_segments,
            bytes_used=self.bytes_used,
            is_complete=self.is_complete,
            digest=self.index.digest,
        )


def _verify_base(digest: str | None, base: DecodedStream | None) -> None:
    if digest is None:
        return
    if base is None:
        raise CodecError(f"stream: is a delta of stream {digest[:12]}, which is needed to decode it")
    if base.digest != digest:
        raise CodecError(f"stream: is a delta of stream {digest[:12]}, not of {base.digest[:12]}")
    if not base.is_complete:
        raise CodecError(
            f"stream: is a delta of stream {digest[:12]}, of which only {base.num_segments} segments were given"
        )


class _GrowingAdapter:
    """Components and tensors to which items are applied in order."""

    def __init__(self, header: StreamHeader, base: DecodedStream | None) -> None:
        self.layout = Layout(header)
        self._header, self._base = header, base
        self._components: list[list[tuple[Array, Array]]] = [[] for _ in header.modules]
        self._tensors: dict[int, Array] = {}

    def apply(self, item: Item) -> None:
        if self.layout.is_module(item.target):
            self._apply_to_module(item)
        else:
            self._apply_to_tensor(item)

    def modules(self) -> dict[str, tuple[Array, Array]]:
        result = {}
        for (name, shape), components in zip(self._header.modules.items(), self._components, strict=True):
            U = np.empty((shape.d_out, len(components)), dtype=np.float32)
            V = np.empty((len(components), shape.d_in), dtype=np.float32)
            for k, (u, v) in enumerate(components):
                U[:, k] = u
                V[k] = v
            result[name] = (U, V)
        return result

    def tensors(self) -> dict[str, Array]:
        shapes = enumerate(self._header.tensors.items(), start=len(self._header.modules))
        return {name: self._tensors[t].reshape(shape).copy() for t, (name, shape) in shapes if t in self._tensors}

    def _apply_to_module(self, item: Item) -> None:
        name, components = self.layout.names[item.target], self._components[item.target]
        if item.kind == Kind.REFINE:
            if item.index >= len(components):
                raise CodecError.of(f"component of {name} to refine", item.index, f"below {len(components)}")
            u, v = components[item.index]
            du, dv = self._split(item)
            components[item.index] = (u + du, v + dv)
            return
        if len(components) >= self.layout.r_max:
            raise CodecError.of(f"components of {name}", len(components) + 1, f"at most r_max = {self.layout.r_max}")
        components.append(self._base_component(item, name) if item.kind == Kind.COPY else self._split(item))

    def _apply_to_tensor(self, item: Item) -> None:
        name = self.layout.names[item.target]
        if item.kind == Kind.REFINE:
            if item.target not in self._tensors:
                raise CodecError(f"tensor {name}: is refined before it is created")
            self._tensors[item.target] = self._tensors[item.target] + item.values()
            return
        if item.target in self._tensors:
            raise CodecError(f"tensor {name}: is created twice")
        if item.kind == Kind.NEW:
            self._tensors[item.target] = item.values()
            return
        tensor = None if self._base is None else self._base.tensors.get(name)
        if tensor is None or tensor.shape != self._header.tensors[name]:
            raise CodecError(f"tensor {name}: cannot be copied because the base stream does not contain it")
        self._tensors[item.target] = tensor.ravel()

    def _base_component(self, item: Item, name: str) -> tuple[Array, Array]:
        U, V = (None, None) if self._base is None else self._base.modules.get(name, (None, None))
        lengths = self.layout.vectors[item.target]
        if U is None or V is None or item.index >= V.shape[0] or (U.shape[0], V.shape[1]) != lengths:
            raise CodecError(f"component {item.index} of {name}: cannot be copied because the base stream lacks it")
        return U[:, item.index], V[item.index]

    def _split(self, item: Item) -> tuple[Array, Array]:
        values, d_out = item.values(), self.layout.vectors[item.target][0]
        return values[:d_out], values[d_out:]
