"""Filling a budget with components, best worth per number first."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, isotonic_regression, milp

from airlora.errors import PolicyError
from airlora.observation import IntArray

__all__ = ["Gains", "concave_envelope", "fill_exactly", "fill_greedily", "fit_to_budget"]

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
    costs = _verify(gains, params_per_rank)
    ranks = np.zeros(len(costs), dtype=np.int64)
    return _fill(ranks, gains, costs, budget_params, min_gain_per_param)


def fill_exactly(
    gains: Gains, params_per_rank: Sequence[int] | IntArray, budget_params: int, *, min_gain_per_param: float = 0.0
) -> IntArray:
    """Return the ranks of `fill_greedily`'s problem at its exact optimum, also where costs differ.

    A knapsack with one item per component, solved by branch and bound (HiGHS); some tens of milliseconds for 36
    modules.  Greedy filling lacks less than one component, which matters only where the budget holds a few.

    Args:
        gains: As `fill_greedily`, as the others and what is raised.

    >>> fill_exactly(np.array([[3.0], [4.0], [4.0]]), [10, 15, 15], 30)
    array([0, 1, 1])
    """
    costs = _verify(gains, params_per_rank)
    worth = (gains - min_gain_per_param * costs[:, None]).ravel()
    items = np.flatnonzero(worth > 0)
    ranks = np.zeros(len(costs), dtype=np.int64)
    if not len(items) or budget_params < costs.min():
        return ranks
    prices = np.repeat(costs, gains.shape[1])[items]
    result = milp(
        -worth[items] / worth[items].max(),
        constraints=LinearConstraint(prices[None, :].astype(np.float64), ub=float(budget_params)),
        integrality=np.ones(len(items), dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    if result.x is None:
        raise PolicyError(f"the exact solver stopped without a plan: {result.message}")
    taken = items[result.x > 0.5]
    # Gains do not rise along a row, so as many components from the start of a module are worth at least as much.
    np.add.at(ranks, taken // gains.shape[1], 1)
    return ranks


def fit_to_budget(
    ranks: IntArray,
    gains: Gains,
    params_per_rank: Sequence[int] | IntArray,
    budget_params: int,
    *,
    min_gain_per_param: float | None = None,
) -> IntArray:
    """Return wanted ranks without the components of least worth per number, as many as it takes to fit.

    The last components of each module go first.  What room is left is filled again, best worth per number first, from
    what was wanted, or from everything.

    Args:
        ranks: Wanted, int64 [num_modules].
        gains: As `fill_greedily`.
        params_per_rank: Numbers in a component of each module.
        budget_params: Numbers that may be sent.
        min_gain_per_param: Fill from all components that are worth more than this per number, too; none: only from
            those that were wanted.

    Raises:
        PolicyError: As `fill_greedily`.

    >>> fit_to_budget(np.array([2, 2]), np.array([[5.0, 4.0], [3.0, 2.0]]), [10, 10], 20)
    array([2, 0])
    """
    costs = _verify(gains, params_per_rank)
    components = np.arange(gains.shape[1])
    wanted = np.where(components < ranks[:, None], gains, -1.0)
    kept = ranks.copy()
    if int(ranks @ costs) > budget_params:
        # Tiny gains keep their order: a wanted component is never worth nothing.
        kept = _fill(np.zeros_like(ranks), wanted, costs, budget_params, -0.5 / float(costs.max()))
    if min_gain_per_param is None:
        return kept
    return _fill(kept, gains, costs, budget_params - int(kept @ costs), min_gain_per_param)


def _verify(gains: Gains, params_per_rank: Sequence[int] | IntArray) -> IntArray:
    """Return the costs as an array; raise `PolicyError` unless the gains are finite rows that do not rise."""
    costs = np.asarray(params_per_rank, dtype=np.int64)
    if gains.ndim != 2 or len(gains) != len(costs):
        raise PolicyError.of("shape of gains", gains.shape, f"({len(costs)}, r_max)")
    if not np.isfinite(gains).all():
        raise PolicyError("gains: allowed are finite numbers")
    if (np.diff(gains, axis=1) > 0).any():
        raise PolicyError("gains: allowed are rows that do not rise; take `concave_envelope` of them first")
    return costs


def _fill(ranks: IntArray, gains: Gains, costs: IntArray, left: int, min_gain_per_param: float) -> IntArray:
    """Return the ranks with components added by worth per number while they fit into what is left."""
    ranks = ranks.copy()
    worth = gains / costs[:, None]
    heap = [(-worth[module, ranks[module]], module) for module in range(len(costs)) if ranks[module] < gains.shape[1]]
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
