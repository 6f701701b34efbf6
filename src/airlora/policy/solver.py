"""Filling a budget with components, best worth per number first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

from airlora.errors import PolicyError
from airlora.observation import IntArray

__all__ = ["Gains", "concave_envelope", "fill_greedily"]

Gains = npt.NDArray[np.float64]


def fill_greedily(
    gains: Gains, params_per_rank: Sequence[int] | IntArray, budget_params: int, *, min_gain_per_param: float = 0.0
) -> IntArray:
    r"""Return the ranks that take components by gain per number until the budget is full.

    $$\max_r \sum_m \sum_{k \le r_m} g_{mk} \quad\text{s.t.}\quad \sum_m r_m c_m \le B$$

    Notation: g gains; c params_per_rank; B budget_params.

    For gains that do not rise within a module this is exact when all c_m are equal, and else lacks less than the worth
    of one component: a component that no longer fits is passed over, smaller ones behind it may still fit.

    Args:
        gains: Worth of component k + 1 of every module, [num_modules, r_max], not rising along a row.
        params_per_rank: Numbers in a component of each module, >= 1.
        budget_params: Numbers that may be sent.
        min_gain_per_param: Components worth this or less per number are left out even when they would fit.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        PolicyError: Gains are not finite or rise along a row, or the shapes differ.

    >>> fill_greedily(np.array([[3.0, 1.0], [2.0, 2.0]]), [10, 10], 30)
    array([1, 2])
    """
    costs = np.asarray(params_per_rank, dtype=np.int64)
    if gains.ndim != 2 or len(gains) != len(costs):
        raise PolicyError.of("shape of gains", gains.shape, f"({len(costs)}, r_max)")
    if not np.isfinite(gains).all():
        raise PolicyError("gains: allowed are finite numbers")
    if (np.diff(gains, axis=1) > 0).any():
        raise PolicyError("gains: allowed are rows that do not rise; take `concave_envelope` of them first")
    worth = gains / costs[:, None]
    ranks = np.zeros(len(costs), dtype=np.int64)
    left = budget_params
    heap = [(-worth[module, 0], module) for module in range(len(costs))] if gains.shape[1] else []
    heapq.heapify(heap)
    while heap:
        negative_worth, module = heapq.heappop(heap)
        if -negative_worth <= min_gain_per_param:
            break
        if costs[module] > left:
            continue
        left -= int(costs[module])
        ranks[module] += 1
        if ranks[module] < gains.shape[1]:
            heapq.heappush(heap, (-worth[module, ranks[module]], module))
    return ranks


def concave_envelope(values: Gains) -> Gains:
    """Return each row made non-rising, by pooling neighbours that rise into their mean (isotonic regression).

    Components have to be sent in order: a group that rises is worth its mean.

    Args:
        values: Worth per component, [num_modules, r_max].

    >>> concave_envelope(np.array([[1.0, 3.0, 0.5]]))
    array([[2. , 2. , 0.5]])
    """
    rows = [isotonic_regression(row, increasing=False).x for row in np.asarray(values, dtype=np.float64)]
    return np.asarray(rows, dtype=np.float64).reshape(values.shape)
