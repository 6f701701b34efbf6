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
        coefficients: Coefficients of the seeded basis, float32 [D], which `modules` contains. Those that have not been
            received are 0. None if the stream has none, or no chunk has been received.
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
    coefficients: Array | None = None

    def matching_tensor(self, name: str, header: StreamHeader) -> Array | None:
        """Return a dense tensor if it has been received and is sent as another header declares it."""
        own, other = ((found.tensors.get(name), name in found.centred) for found in (self.header, header))
        return self.tensors.get(name) if own == other else None

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
            coefficients=self._adapter.coefficients(),
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

    def coefficients(self) -> Array | None:
        basis, first = self._header.basis, len(self.layout.names) - self.layout.num_chunks
        if basis is None or not any(self.layout.is_chunk(target) for target in self._tensors):
            return None
        chunks = enumerate(basis.chunks.values(), start=first)
        return np.concatenate(
            [self._tensors.get(target, np.zeros(length, dtype=np.float32)) for target, length in chunks]
        )

    def modules(self) -> dict[str, tuple[Array, Array]]:
        """Return the components of the basis, followed by those that were sent one by one."""
        free, coefficients = self._free_modules(), self.coefficients()
        if self._header.basis is None or coefficients is None:
            return free
        seeded = self._header.basis.components(coefficients, self._header.modules)
        return {
            name: (np.concatenate([U, free[name][0]], axis=1), np.concatenate([V, free[name][1]]))
            for name, U, V in seeded
        }

    def _free_modules(self) -> dict[str, tuple[Array, Array]]:
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
        header = self._header
        numbered = enumerate(header.tensors, start=len(header.modules))
        return {name: header.whole_tensor(name, self._tensors[t]).copy() for t, name in numbered if t in self._tensors}

    def _apply_to_module(self, item: Item) -> None:
        name, components = self.layout.names[item.target], self._components[item.target]
        if item.kind == Kind.REFINE:
            if item.index >= len(components):
                raise CodecError.of(f"component of {name} to refine", item.index, f"below {len(components)}")
            u, v = components[item.index]
            du, dv = self._split(item)
            components[item.index] = (u + du, v + dv)
            return
        count = len(components) + 1 + (0 if self._header.basis is None else self._header.basis.rank)
        if count > self.layout.r_max:
            raise CodecError.of(f"components of {name}", count, f"at most r_max = {self.layout.r_max}")
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
        tensor = self._base_chunk(item.target) if self.layout.is_chunk(item.target) else self._base_tensor(name)
        if tensor is None:
            raise CodecError(f"tensor {name}: cannot be copied because the base stream does not contain it")
        self._tensors[item.target] = tensor.ravel()

    def _base_tensor(self, name: str) -> Array | None:
        tensor = None if self._base is None else self._base.matching_tensor(name, self._header)
        return None if tensor is None else self._header.sent_part(name, tensor)

    def _base_chunk(self, target: int) -> Array | None:
        """Return a chunk of the base stream's coefficients, if its basis is that of this stream."""
        base, basis = self._base, self._header.basis
        if base is None or basis is None or base.coefficients is None or base.header.basis != basis:
            return None
        return basis.split(base.coefficients)[self.layout.names[target]]

    def _base_component(self, item: Item, name: str) -> tuple[Array, Array]:
        U, V = (None, None) if self._base is None else self._base.modules.get(name, (None, None))
        lengths = self.layout.vectors[item.target]
        if U is None or V is None or item.index >= V.shape[0] or (U.shape[0], V.shape[1]) != lengths:
            raise CodecError(f"component {item.index} of {name}: cannot be copied because the base stream lacks it")
        return U[:, item.index], V[item.index]

    def _split(self, item: Item) -> tuple[Array, Array]:
        values, d_out = item.values(), self.layout.vectors[item.target][0]
        return values[:d_out], values[d_out:]
