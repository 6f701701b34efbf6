"""Items: the instructions of a stream that create, refine or copy components and tensors.

| item | effect |
|---|---|
| `NEW` | appends a rank-one component u v^T to a module (all scales included), or creates a dense tensor |
| `REFINE` | adds a correction to u and v of an existing component, or to an existing tensor |
| `COPY` | appends component `index` of the base stream to a module, or copies a tensor of the base stream |

Chunks of the coefficients of a seeded basis are created, refined and copied like tensors.

The values of an item are split into groups of nearly equal length: `num_groups` groups for u and as many for v, or
`num_groups` groups for a tensor. Each group has its own value format, step and entropy table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.header import StreamHeader
from airlora.codec.format.quantiser import dequantise
from airlora.errors import CodecError

__all__ = ["Item", "Kind", "Layout", "ValueFormat", "ValueGroup", "split_lengths"]


class Kind(enum.IntEnum):
    """Effect of an item."""

    NEW = 0
    REFINE = 1
    COPY = 2


class ValueFormat(enum.IntEnum):
    """Representation of the values of a group."""

    QUANTISED = 0
    FLOAT16 = 1
    FLOAT32 = 2


@dataclass(frozen=True, slots=True)
class ValueGroup:
    """Consecutive values that share a value format, a step and an entropy table.

    Args:
        format: Representation of the values.
        data: Symbols (int32) if quantised, values (float32) otherwise, [length].
        step_index: Step index of the quantiser; 0 for floats.
        table: Entropy table of the symbols; 0 for floats.
    """

    format: ValueFormat
    data: NDArray[Any]
    step_index: int = 0
    table: int = 0

    @property
    def is_quantised(self) -> bool:
        """Whether the values are stored as symbols of the quantiser."""
        return self.format == ValueFormat.QUANTISED

    def values(self) -> NDArray[np.float32]:
        """Return the decoded values, [length]."""
        if self.is_quantised:
            decoded: NDArray[np.float32] = dequantise(self.data[None], np.array([self.step_index]))[0]
            return decoded
        values: NDArray[np.float32] = self.data.astype(np.float32)
        return values


@dataclass(frozen=True, slots=True)
class Item:
    """One instruction for building an adapter.

    Args:
        kind: Effect of the item.
        target: Position of the module in the header, or number of modules plus position of the tensor.
        index: Component to refine, or component of the base stream to copy; 0 for new components and for tensors.
        num_groups: Number of groups per vector or tensor.
        groups: Groups of u followed by those of v, or groups of the tensor. Empty for a copy.
    """

    kind: Kind
    target: int
    index: int = 0
    num_groups: int = 1
    groups: tuple[ValueGroup, ...] = ()

    def values(self) -> NDArray[np.float32]:
        """Return the decoded values of all groups, concatenated."""
        values: NDArray[np.float32] = np.concatenate([group.values() for group in self.groups])
        return values


def split_lengths(length: int, num_groups: int) -> list[int]:
    """Return nearly equal group lengths that add up to `length`, longer groups first.

    Examples:
        >>> split_lengths(10, 3)
        [4, 3, 3]
    """
    short, longer = divmod(length, num_groups)
    return [short + (position < longer) for position in range(num_groups)]


class Layout:
    """Targets of the items of a stream: its modules, its dense tensors, and the chunks of its coefficients.

    Args:
        header: Header fields of the stream.

    Attributes:
        names: Name of every target.
        vectors: Vector lengths of every target: (d_out, d_in) of a module, (size,) of a tensor or chunk.
        num_modules: Number of modules.
        num_chunks: Number of chunks of coefficients.
        r_max: Largest number of components per module.
    """

    def __init__(self, header: StreamHeader) -> None:
        chunks = {} if header.basis is None else header.basis.chunks
        self.names = [*header.modules, *header.tensors, *chunks]
        self.vectors: list[tuple[int, ...]] = [(shape.d_out, shape.d_in) for shape in header.modules.values()]
        self.vectors += [(header.num_sent(name),) for name in header.tensors]
        self.vectors += [(length,) for length in chunks.values()]
        self.num_modules = len(header.modules)
        self.num_chunks = len(chunks)
        self.r_max = header.r_max

    def is_module(self, target: int) -> bool:
        """Whether a target is a module rather than a tensor or chunk."""
        return target < self.num_modules

    def is_tensor(self, target: int) -> bool:
        """Whether a target is a dense tensor rather than a module or chunk."""
        return self.num_modules <= target < len(self.names) - self.num_chunks

    def is_chunk(self, target: int) -> bool:
        """Whether a target is a chunk of coefficients."""
        return target >= len(self.names) - self.num_chunks

    def num_values(self, target: int) -> int:
        """Return the number of values of one item of a target."""
        return sum(self.vectors[target])

    def group_lengths(self, target: int, num_groups: int) -> list[int]:
        """Return the length of every group of an item.

        Raises:
            CodecError: `num_groups` is not between 1 and the length of the target's shortest vector.
        """
        shortest = min(self.vectors[target])
        if not 1 <= num_groups <= shortest:
            raise CodecError.of(f"groups of {self.names[target]}", num_groups, f"1 to {shortest}")
        return [length for vector in self.vectors[target] for length in split_lengths(vector, num_groups)]
