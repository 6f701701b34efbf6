"""Items to an adapter: the device's side, one item at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.header import StreamHeader
from airlora.codec.format.items import Item, Kind, Layout
from airlora.errors import CodecError
from airlora.ranks import RankPattern

__all__ = ["Assembly", "DecodedStream"]

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
