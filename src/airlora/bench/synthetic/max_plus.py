"""The most that parts of a model are worth within a number of units: dynamic programming in the max-plus algebra.

A `Curve` belongs to some modules and says, for every budget of whole units, what they are worth at best and by which
ranks.  Two parts whose worths add up make one part whose curve is the max-plus convolution of theirs; an increasing
function of a worth acts on the values alone, since it changes no choice.  So the optimum of every sum of increasing
functions of sums comes out exactly, whatever the tables at the leaves are.
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
    """What some modules are worth at best for at most u units, u = 0 to the units of their largest ranks.

    Args:
        values: Best worth within u units, float [max_units + 1], never falling.
        choices: At a leaf the best ranks, int64 [max_units + 1, num_modules]; else the units of either part,
            int64 [max_units + 1, 2].
        parts: None at a leaf, else the two parts.
    """

    values: Floats
    choices: IntArray
    parts: tuple[Curve, ...] = ()

    def apply(self, function: Callable[[Floats], Floats]) -> Curve:
        """Return the curve of an increasing function of the worth."""
        return replace(self, values=function(self.values))

    def ranks_at(self, units: int) -> IntArray:
        """Return the ranks that reach `values[units]`, int64 [num_modules]; they may take fewer units."""
        if not self.parts:
            ranks: IntArray = self.choices[units]
            return ranks
        shares = zip(self.parts, self.choices[units].tolist(), strict=True)
        return np.concatenate([part.ranks_at(share) for part, share in shares])


def leaf_curve(table: Floats, units_per_rank: Sequence[int]) -> Curve:
    """Return the curve of modules whose joint worth is a table, by looking at every entry.

    Args:
        table: Worth at every combination of ranks, [r_max + 1] for one module, [r_max + 1, r_max + 1] for two, ...
        units_per_rank: Units of one component, one per axis of the table, >= 1.

    >>> curve = leaf_curve(np.array([[0.0, 0.1], [0.2, 5.0]]), [2, 3])
    >>> curve.values.tolist()
    [0.0, 0.0, 0.2, 0.2, 0.2, 5.0]
    >>> curve.ranks_at(4)
    array([1, 0])
    """
    ranks = np.indices(table.shape).reshape(table.ndim, -1).T.astype(np.int64)
    units = ranks @ np.asarray(units_per_rank, dtype=np.int64)
    worth = table.ravel()
    values = np.full(int(units.max()) + 1, -np.inf)
    np.maximum.at(values, units, worth)
    first = np.full(len(values), -1, dtype=np.int64)
    reached = np.flatnonzero(worth == values[units])[::-1]  # the last write wins: of equals the first entry
    first[units[reached]] = reached
    # At most u units: where nothing better takes exactly u, the best of fewer stands.
    best = np.maximum.accumulate(values)
    new = np.concatenate([[True], values[1:] > best[:-1]])
    source = np.maximum.accumulate(np.where(new, np.arange(len(values)), 0))
    return Curve(best, ranks[first[source]])


def combine(curves: Sequence[Curve]) -> Curve:
    r"""Return the curve of all parts together, whose worths add up.

    $$V(u) = \max_{v} V_1(u - v) + V_2(v)$$

    The parts are halved again and again, so that a trace back is only log2(number of parts) deep.

    Args:
        curves: One or more, in the order of their modules.

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
    # One row of the convolution at a time: a loop over the shorter part, without a matrix of all pairs.
    for units, worth in enumerate(short.values.tolist()):
        row = long.values + worth
        window = values[units : units + size]
        better = row > window
        np.copyto(window, row, where=better)
        share[units : units + size][better] = units
    rest = np.arange(len(values)) - share
    pair = (share, rest) if swap else (rest, share)
    return Curve(values, np.stack(pair, axis=1), (left, right))
