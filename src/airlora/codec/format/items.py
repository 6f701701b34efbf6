"""What a stream is made of: items that make a thing, add to it or copy it.

| item | means |
|---|---|
| `NEW` | the next rank-one component u v^T of a module (all scales inside), or a tensor of the head |
| `REFINE` | a further layer of u and v, or of a tensor, that is added to what an earlier item made |
| `COPY` | the next component of a module is component `index` of the stream that the device holds; or its tensor |

The numbers of an item come in parts: `groups` for u and as many for v, or `groups` for a tensor, nearly equal in
length.  Each part has a coding, a step and a table of its own.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from airlora.codec.format.quantiser import dequantise
from airlora.errors import CodecError
from airlora.ranks import ModuleShape

__all__ = ["Coding", "Item", "Kind", "Layout", "Part", "split_lengths"]


class Kind(enum.IntEnum):
    """What an item does."""

    NEW = 0
    REFINE = 1
    COPY = 2


class Coding(enum.IntEnum):
    """How the numbers of a part are written."""

    UNIFORM = 0
    FLOAT16 = 1
    FLOAT32 = 2


@dataclass(frozen=True, slots=True)
class Part:
    """A run of numbers that share a step and a table.

    Args:
        coding: How they are written.
        data: Quantised (int32) or, for the two float codings, the numbers themselves (float32); shape [length].
        step_index: Of `step_size`; 0 for floats.
        table: Of `frequencies`; 0 for floats.
    """

    coding: Coding
    data: NDArray[Any]
    step_index: int = 0
    table: int = 0

    @property
    def is_quantised(self) -> bool:
        """Whether the numbers are coded as whole numbers."""
        return self.coding == Coding.UNIFORM

    def values(self) -> NDArray[np.float32]:
        """Return the numbers that the part stands for, shape [length]."""
        if self.is_quantised:
            decoded: NDArray[np.float32] = dequantise(self.data[None], np.array([self.step_index]))[0]
            return decoded
        values: NDArray[np.float32] = self.data.astype(np.float32)
        return values


@dataclass(frozen=True, slots=True)
class Item:
    """One step of making an adapter.

    Args:
        kind: What it does.
        target: Place of the module, or number of modules plus place of the tensor, in the header.
        index: Component that is refined, or copied from the earlier stream; 0 for new ones and for tensors.
        groups: Parts per vector.
        parts: Of u then v, or of the tensor; none for a copy.
    """

    kind: Kind
    target: int
    index: int = 0
    groups: int = 1
    parts: tuple[Part, ...] = ()

    def values(self) -> NDArray[np.float32]:
        """Return all numbers of the item, one part after the other."""
        values: NDArray[np.float32] = np.concatenate([part.values() for part in self.parts])
        return values


def split_lengths(length: int, groups: int) -> list[int]:
    """Return nearly equal lengths that add up to `length`, the longer ones first.

    >>> split_lengths(10, 3)
    [4, 3, 3]
    """
    short, longer = divmod(length, groups)
    return [short + (place < longer) for place in range(groups)]


class Layout:
    """How long the vectors of every target are.

    Args:
        modules: As in the header.
        tensors: As in the header.
        r_max: Components per module at most.
    """

    def __init__(self, modules: Mapping[str, ModuleShape], tensors: Mapping[str, tuple[int, ...]], r_max: int) -> None:
        self.num_modules = len(modules)
        self.r_max = r_max
        self.vectors: list[tuple[int, ...]] = [(shape.d_out, shape.d_in) for shape in modules.values()]
        self.vectors += [(math.prod(shape),) for shape in tensors.values()]
        self.names = [*modules, *tensors]

    def is_module(self, target: int) -> bool:
        """Whether a target is a module; the others are tensors."""
        return target < self.num_modules

    def num_numbers(self, target: int) -> int:
        """Return the numbers of one item of a target."""
        return sum(self.vectors[target])

    def part_lengths(self, target: int, groups: int) -> list[int]:
        """Return the length of every part of an item.

        Raises:
            CodecError: `groups` is not from 1 to the length of the shortest vector.
        """
        shortest = min(self.vectors[target])
        if not 1 <= groups <= shortest:
            raise CodecError.of(f"groups of {self.names[target]}", groups, f"1 to {shortest}")
        return [length for vector in self.vectors[target] for length in split_lengths(vector, groups)]
