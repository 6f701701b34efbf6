"""Reading a stream segment by segment, as it comes over a link."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.container import StreamHead, unpack_head, verify_segment
from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Item, Kind, Layout
from airlora.codec.format.limits import Limits
from airlora.codec.format.segments import unpack_segment
from airlora.errors import CodecError
from airlora.ranks import RankPattern

__all__ = ["Assembly", "DecodedStream", "StreamReader"]

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class DecodedStream:
    """The adapter that a stream, or as much of it as came, stands for.

    Args:
        header: What the stream says of itself.
        modules: U [d_out, r] and V [r, d_in] per module, float32; the update is U V, with every scale inside.
        tensors: The head's tensors that came.
        num_components: Sum of the ranks.
        num_segments: Whole segments used.
        bytes_used: Bytes up to the end of the last one.
        is_complete: Whether every segment of the manifest was there.
        digest: SHA-256 of the stream's head, which names the whole stream (all its segments' digests are in it).
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
        """Components per module, in the order of the header; raises `RankPatternError` if there is no module."""
        return RankPattern({name: v.shape[0] for name, (_, v) in self.modules.items()})


class StreamReader:
    """An adapter that grows with every segment.

    Args:
        head: The first bytes of the stream, at least up to the first segment; what follows is ignored.
        limits: What the stream may claim.
        base: What the device holds, for a delta stream; must be whole.

    Raises:
        CodecError: The head is damaged or claims too much, or the stream starts from another one than `base`.
    """

    def __init__(
        self, head: bytes | memoryview, *, limits: Limits | None = None, base: DecodedStream | None = None
    ) -> None:
        self._limits = Limits() if limits is None else limits
        self.head: StreamHead = unpack_head(head, self._limits)
        _verify_base(self.head, base)
        self._assembly = Assembly(self.head.header, base)
        self._numbers_left = self._limits.max_numbers
        self.num_segments = 0
        self.bytes_used = self.head.num_bytes

    @property
    def is_complete(self) -> bool:
        """Whether every segment has come."""
        return self.num_segments == len(self.head.lengths)

    @property
    def next_range(self) -> tuple[int, int] | None:
        """Where in the stream the next segment lies, start and end; None if all have come."""
        if self.is_complete:
            return None
        return self.bytes_used, self.bytes_used + self.head.lengths[self.num_segments]

    def feed(self, segment: bytes | memoryview) -> None:
        """Take the next segment; on an error the adapter is lost and the reader of no further use.

        Raises:
            CodecError: It is not the next segment of the manifest, or holds what cannot be.
        """
        verify_segment(self.head, self.num_segments, segment)
        layout = self._assembly.layout
        what = f"segment {self.num_segments}"
        items = unpack_segment(segment, layout, max_numbers=self._numbers_left, what=what)
        self._numbers_left -= sum(layout.num_numbers(item.target) for item in items)
        self._assembly.apply(items)
        self.num_segments += 1
        self.bytes_used += len(segment)

    def result(self) -> DecodedStream:
        """Return the adapter as far as it has come."""
        modules = self._assembly.modules()
        return DecodedStream(
            header=self.head.header,
            modules=modules,
            tensors=self._assembly.tensors(),
            num_components=sum(v.shape[0] for _, v in modules.values()),
            num_segments=self.num_segments,
            bytes_used=self.bytes_used,
            is_complete=self.is_complete,
            digest=self.head.digest,
        )


def _verify_base(head: StreamHead, base: DecodedStream | None) -> None:
    wanted = head.header.base_stream
    if wanted is None:
        return
    if base is None:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}; that one is needed too")
    if base.digest != wanted:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}, not of {base.digest[:12]}")
    if not base.is_complete:
        raise CodecError(f"stream: is a delta of stream {wanted[:12]}, of which only {base.num_segments} segments came")


class Assembly:
    """Applies items.

    Args:
        header: Of the stream.
        base: What the device holds, for a delta stream.
    """

    def __init__(self, header: StreamHeader, base: DecodedStream | None = None) -> None:
        self.header = header
        self.layout = Layout(header.modules, header.tensors, header.r_max)
        self._base = base
        self._components: list[list[tuple[Array, Array]]] = [[] for _ in header.modules]
        self._tensors: dict[int, Array] = {}

    def apply(self, items: Iterable[Item]) -> None:
        """Make, refine or copy what each item says, in order.

        Raises:
            CodecError: An item refers to what is not there, or makes too many components or a tensor twice.
        """
        for item in items:
            if self.layout.is_module(item.target):
                self._apply_component(item)
            else:
                self._apply_tensor(item)

    def modules(self) -> dict[str, tuple[Array, Array]]:
        """Return U [d_out, r] and V [r, d_in] per module."""
        result = {}
        for (name, shape), components in zip(self.header.modules.items(), self._components, strict=True):
            U = np.empty((shape.d_out, len(components)), dtype=np.float32)
            V = np.empty((len(components), shape.d_in), dtype=np.float32)
            for place, (u, v) in enumerate(components):
                U[:, place] = u
                V[place] = v
            result[name] = (U, V)
        return result

    def tensors(self) -> dict[str, Array]:
        """Return the head's tensors that came, in the order of the header."""
        shapes = enumerate(self.header.tensors.items(), start=len(self.header.modules))
        return {name: self._tensors[t].reshape(shape).copy() for t, (name, shape) in shapes if t in self._tensors}

    def _apply_component(self, item: Item) -> None:
        name, components = self.layout.names[item.target], self._components[item.target]
        if item.kind == Kind.REFINE:
            if item.index >= len(components):
                raise CodecError.of(f"component of {name} to refine", item.index, f"below {len(components)}")
            u, v = components[item.index]
            du, dv = self._split(item)
            components[item.index] = (u + du, v + dv)
            return
        if len(components) >= self.header.r_max:
            raise CodecError.of(f"components of {name}", len(components) + 1, f"at most r_max = {self.header.r_max}")
        components.append(self._copied(item, name) if item.kind == Kind.COPY else self._split(item))

    def _apply_tensor(self, item: Item) -> None:
        name = self.layout.names[item.target]
        if item.kind == Kind.REFINE:
            if item.target not in self._tensors:
                raise CodecError(f"tensor {name}: is refined before it came")
            self._tensors[item.target] = self._tensors[item.target] + item.values()
            return
        if item.target in self._tensors:
            raise CodecError(f"tensor {name}: came twice")
        if item.kind == Kind.NEW:
            self._tensors[item.target] = item.values()
            return
        held = None if self._base is None else self._base.tensors.get(name)
        if held is None or held.shape != self.header.tensors[name]:
            raise CodecError(f"tensor {name}: is to be copied, but the earlier stream does not hold it")
        self._tensors[item.target] = held.ravel()

    def _copied(self, item: Item, name: str) -> tuple[Array, Array]:
        U, V = (None, None) if self._base is None else self._base.modules.get(name, (None, None))
        wanted = self.layout.vectors[item.target]
        if U is None or V is None or item.index >= V.shape[0] or (U.shape[0], V.shape[1]) != wanted:
            raise CodecError(f"component {item.index} of {name}: is to be copied, but the earlier stream lacks it")
        return U[:, item.index], V[item.index]

    def _split(self, item: Item) -> tuple[Array, Array]:
        values, length = item.values(), self.layout.vectors[item.target][0]
        return values[:length], values[length:]
