"""Exact allocation of a budget by dynamic programming in the max-plus algebra.

A `Curve` belongs to a group of modules. It holds the largest value of the group, and the ranks that reach it, for every
budget of whole units. If the values of two groups add up, the curve of both is the max-plus convolution of their
curves. An increasing function of a value changes the curve's values but no ranks. The optimum of every nested sum of
increasing functions is therefore exact, whatever the tables at the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from airlora.observation import IntArray

__all__ = ["Curve", "Floats", "combine", "leaf_curve"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Largest value of a group of modules for every budget of u units, from 0 to the units of its largest ranks.

    Args:
        values: Largest value within u units, float [max_units + 1], non-decreasing.
        choices: At a leaf the best ranks, int64 [max_units + 1, num_modules]. Otherwise the units of both halves,
            int64 [max_units + 1, 2].
        halves: Curves of both halves of the group. Empty at a leaf.
    """

    values: Floats
    choices: IntArray
    halves: tuple[Curve, ...] = ()

    def apply(self, function: Callable[[Floats], Floats]) -> Curve:
        """Return the curve of an increasing function of the value."""
        return replace(self, values=function(self.values))

    def ranks_at(self, units: int) -> IntArray:
        """Return ranks that reach `values[units]` with at most that many units, int64 [num_modules]."""
        if not self.halves:
            ranks: IntArray = self.choices[units]
            return ranks
        shares = zip(self.halves, self.choices[units].tolist(), strict=True)
        return np.concatenate([half.ranks_at(share) for half, share in shares])


def leaf_curve(table: Floats, units_per_rank: Sequence[int]) -> Curve:
    """Return the curve of modules whose joint value is given by a table.

    Args:
        table: Value of every combination of ranks, float [r_max + 1] for one module, [r_max + 1, r_max + 1] for two.
        units_per_rank: Units of one component of each module, one entry per axis of the table, >= 1.

    Examples:
        >>> curve = leaf_curve(np.array([[0.0, 0.1], [0.2, 5.0]]), [2, 3])
        >>> curve.values.tolist()
        [0.0, 0.0, 0.2, 0.2, 0.2, 5.0]
        >>> curve.ranks_at(4)
        array([1, 0])
    """
    ranks = np.indices(table.shape).reshape(table.ndim, -1).T.astype(np.int64)
    units = ranks @ np.asarray(units_per_rank, dtype=np.int64)
    entries = table.ravel()
    values = np.full(int(units.max()) + 1, -np.inf)
    np.maximum.at(values, units, entries)
    first = np.full(len(values), -1, dtype=np.int64)
    reached = np.flatnonzero(entries == values[units])[::-1]  # the last write wins, so that the first entry is kept
    first[units[reached]] = reached
    # Where no entry with exactly u units is better, the best entry with fewer units is kept.
    best = np.maximum.accumulate(values)
    new = np.concatenate([[True], values[1:] > best[:-1]])
    source = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    return Curve(best, ranks[first[source]])


def combine(curves: Sequence[Curve]) -> Curve:
    r"""Return the curve of all groups together, whose values add up.

    $$V(u) = \max_{v} V_1(u - v) + V_2(v)$$

    The groups are divided into halves recursively, so that reading ranks back has depth log2(number of groups).

    Args:
        curves: One or more curves, in the order of their modules.

    Examples:
        >>> combine([leaf_curve(np.array([0.0, 3.0]), [2]), leaf_curve(np.array([0.0, 2.0, 2.5]), [1])]).values.tolist()
        [0.0, 2.0, 3.0, 5.0, 5.5]
    """
    if len(curves) == 1:
        return curves[0]
    middle = len(curves) // 2
    return _join(combine(curves[:middle]), combine(curves[middle:]))


def _join(left: Curve, right: Curve) -> Curve:
    swap = len(left.values) < len(right.values)
    long, short = (right, left) if swap else (left, right)
    size = len(long.values)
    values = np.full(size + len(short.values) - 1, -np.inf)
    share = np.zeros(len(values), dtype=np.int64)
    # The loop over the shorter curve avoids a matrix of all pairs.
    for units, value in enumerate(short.values.tolist()):
        row = long.values + value
        window = values[units : units + size]
        better = row > window
        np.copyto(window, row, where=better)
        share[units : units + size][better] = units
    rest = np.arange(len(values)) - share
    pair = (share, rest) if swap else (rest, share)
    return Curve(values, np.stack(pair, axis=1), (left, right))
