r"""Seeded basis: few coefficients that a seed spreads over the entries of all adapter factors.

$$(U_m)_{ik},\ (V_m)_{kj} = \sum_b \theta_{b,\,c_b(e)}, \qquad
  c_b(e) = \Big\lfloor \frac{D_b\, h_b(e)}{2^{32}} \Big\rfloor$$

Notation: θ_b coefficients of chunk b, [D_b]; e number of an entry, counted from 0 over all modules in the order of the
header, in each component by component, first the d_out entries of its column of U, then the d_in entries of its row of
V; h_b(e) upper 32 bits of the hash of e, the seed and b (SplitMix64).

Every chunk reaches all entries. A receiver of the first chunks therefore has an adapter in a smaller subspace.

All indices result from integer arithmetic modulo 2^64, and IEEE 754 rounds sums correctly. All machines therefore
decode the same entries.

Uni-LoRA also divides each coefficient by the square root of the number of its entries. The adapters that can be reached
are the same, but the best learning rate then depends on D.

Source: Li et al. 2025, "Uni-LoRA", for one vector of coefficients that all adapter entries share, and Chen et al. 2015
(HashedNets) for sharing by a hash; Steele et al. 2014 for SplitMix64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airlora.errors import CodecError
from airlora.ranks import ModuleShape

__all__ = ["MAX_BASIS_SIZE", "MAX_SEED", "SeededBasis"]

MAX_BASIS_SIZE = 1 << 28
"""Largest number of coefficients."""

MAX_SEED = 2**32 - 1
"""Largest seed of a basis."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST_FACTOR, _SECOND_FACTOR = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SeededBasis:
    """Basis of the components that coefficients are spread over.

    Args:
        sizes: Number D_b of coefficients of every chunk, in the order in which they are sent, 2^28 in all at most.
        rank: Number of components of every module, 1 or more.
        seed: Seed of the hash, 0 to 2^32 - 1.

    Raises:
        CodecError: A value is not allowed.

    Examples:
        >>> shapes = {"first": ModuleShape(d_in=3, d_out=2), "second": ModuleShape(d_in=2, d_out=2)}
        >>> basis = SeededBasis(sizes=(4,), rank=1)
        >>> [indices.tolist() for indices in basis.indices(shapes)]
        [[[[2, 2, 1, 2, 3]]], [[[0, 3, 1, 1]]]]
    """

    sizes: tuple[int, ...]
    rank: int
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("chunks of coefficients", len(self.sizes), 1, MAX_BASIS_SIZE),
            *(("coefficients of a chunk", size, 1, MAX_BASIS_SIZE) for size in self.sizes),
            ("coefficients", self.size, 1, MAX_BASIS_SIZE),
            ("rank of the seeded basis", self.rank, 1, MAX_BASIS_SIZE),
            ("seed of the basis", self.seed, 0, MAX_SEED),
        ):
            if type(value) is not int or not low <= value <= high:
                raise CodecError.of(name, value, f"a whole number, {low} to {high}")

    @property
    def size(self) -> int:
        """Number D of all coefficients."""
        return sum(self.sizes)

    @property
    def chunks(self) -> dict[str, int]:
        """Number of coefficients in every chunk, by the name of the chunk."""
        return {f"coefficients {chunk}": size for chunk, size in enumerate(self.sizes)}

    def split(self, coefficients: Array) -> dict[str, Array]:
        """Return the coefficients of every chunk, by the name of the chunk.

        Args:
            coefficients: Coefficients θ, float32 [D].
        """
        ends = np.cumsum([*self.chunks.values()])[:-1]
        return dict(zip(self.chunks, np.split(coefficients, ends), strict=True))

    def indices(self, shapes: Mapping[str, ModuleShape]) -> Iterator[NDArray[np.uint32]]:
        """Yield the coefficients of each entry, for one module after the other.

        Args:
            shapes: Shape of every module, in the order of the header.

        Yields:
            Indices among all D coefficients, one of every chunk, uint32 [num_chunks, rank, d_out + d_in].
        """
        for shape, first in self._places(shapes):
            width = shape.d_out + shape.d_in
            found = np.empty((len(self.sizes), self.rank, width), dtype=np.uint32)
            for chunk, component in np.ndindex(*found.shape[:2]):
                found[chunk, component] = self._hashed(chunk, first + component * width, width)
            yield found

    def components(self, coefficients: Array, shapes: Mapping[str, ModuleShape]) -> Iterator[tuple[str, Array, Array]]:
        """Yield name, U [d_out, rank] and V [rank, d_in] of each module.

        Args:
            coefficients: Coefficients θ, float32 [D].
            shapes: Shape of every module, in the order of the header.

        Raises:
            CodecError: The number of coefficients is not D.
        """
        if coefficients.shape != (self.size,):
            raise CodecError.of("shape of the coefficients", coefficients.shape, str((self.size,)))
        values = coefficients.astype(np.float32)
        for (name, shape), (_, first) in zip(shapes.items(), self._places(shapes), strict=True):
            width = shape.d_out + shape.d_in
            entries = np.zeros((self.rank, width), dtype=np.float32)
            for component, chunk in np.ndindex(self.rank, len(self.sizes)):
                entries[component] += values[self._hashed(chunk, first + component * width, width)]
            yield name, np.ascontiguousarray(entries[:, : shape.d_out].T), entries[:, shape.d_out :].copy()

    def _places(self, shapes: Mapping[str, ModuleShape]) -> Iterator[tuple[ModuleShape, int]]:
        """Yield the shape of every module and the number of its first entry."""
        first = 0
        for shape in shapes.values():
            yield shape, first
            first += self.rank * (shape.d_out + shape.d_in)

    def _hashed(self, chunk: int, first: int, count: int) -> NDArray[np.uint32]:
        """Return the coefficients of a chunk at `count` entries from `first` on, as indices among all D.

        The memory is that of some arrays of `count` numbers: a stream must not make it grow by its number of chunks.
        """
        # Wraps modulo 2^64, as in SplitMix64; seeded with the hash of seed and chunk, so that they do not overlap.
        entries = np.arange(first, first + count, dtype=np.uint64)
        start = _mix(np.array([(chunk << 32) + self.seed], dtype=np.uint64) + _GOLDEN)
        upper = _mix(start + (entries + np.uint64(1)) * _GOLDEN) >> np.uint64(32)
        size = np.uint64(self.sizes[chunk])
        return (np.uint64(sum(self.sizes[:chunk])) + ((upper * size) >> np.uint64(32))).astype(np.uint32)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the output of SplitMix64 for each state."""
    state = (state ^ (state >> np.uint64(30))) * _FIRST_FACTOR
    state = (state ^ (state >> np.uint64(27))) * _SECOND_FACTOR
    return state ^ (state >> np.uint64(31))
