"""Fill a parameter budget with components, highest gain per parameter first."""

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
    r"""Return the ranks that add components by gain per parameter until the budget is full.

    $$\max_r \sum_m \sum_{k \le r_m} g_{mk} \quad\text{s.t.}\quad \sum_m r_m c_m \le B$$

    Notation: g gains; c params_per_rank; B budget_params.

    The result is optimal if all c_m are equal. Otherwise its total gain is below the optimum by less than the gain of
    one component. A component that does not fit is skipped, because a smaller one after it may still fit.

    Args:
        gains: Gain of each component, for example its reduction of the loss in nats, float [num_modules, r_max]. Rows
            must not rise.
        params_per_rank: Parameters in one component of each module, >= 1.
        budget_params: Largest number of parameters of the pattern.
        min_gain_per_param: Gain per parameter that a component must exceed. Components at or below it are left out,
            even if they fit.

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
    """Return the optimal ranks for the problem of `fill_greedily`, also where the sizes of components differ.

    The problem is a knapsack with one item per component, solved by branch and bound (HiGHS) in some tens of
    milliseconds for 36 modules. Arguments and errors are those of `fill_greedily`.

    Args:
        gains: Gain of each component, float [num_modules, r_max]. Rows must not rise.
        params_per_rank: Parameters in one component of each module, >= 1.
        budget_params: Largest number of parameters of the pattern.
        min_gain_per_param: Gain per parameter that a component must exceed.

    >>> fill_exactly(np.array([[3.0], [4.0], [4.0]]), [10, 15, 15], 30)
    array([0, 1, 1])
    """
    costs = _verify(gains, params_per_rank)
    net_gains = (gains - min_gain_per_param * costs[:, None]).ravel()
    items = np.flatnonzero(net_gains > 0)
    ranks = np.zeros(len(costs), dtype=np.int64)
    if not len(items) or budget_params < costs.min():
        return ranks
    sizes = np.repeat(costs, gains.shape[1])[items]
    result = milp(
        -net_gains[items] / net_gains[items].max(),
        constraints=LinearConstraint(sizes[None, :].astype(np.float64), ub=float(budget_params)),
        integrality=np.ones(len(items), dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    if result.x is None:
        raise PolicyError(f"the exact solver stopped without a plan: {result.message}")
    taken = items[result.x > 0.5]
    # Rows of gains do not rise: the same number of components from the start of a module has at least the same gain.
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
    """Return wanted ranks reduced to a budget by dropping the components with the lowest gain per parameter.

    Components of a module are dropped from its end. The rest of the budget is filled with wanted components that still
    fit, or with any components if `min_gain_per_param` is given.

    Args:
        ranks: Wanted ranks, int64 [num_modules].
        gains: Gain of each component, float [num_modules, r_max]. Rows must not rise.
        params_per_rank: Parameters in one component of each module, >= 1.
        budget_params: Largest number of parameters of the pattern.
        min_gain_per_param: Gain per parameter that a component must exceed to fill the rest of the budget. None means
            that only wanted components fill it.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        PolicyError: Gains are not finite or rise along a row, or the shapes differ.

    >>> fit_to_budget(np.array([2, 2]), np.array([[5.0, 4.0], [3.0, 2.0]]), [10, 10], 20)
    array([2, 0])
    """
    costs = _verify(gains, params_per_rank)
    components = np.arange(gains.shape[1])
    wanted = np.where(components < ranks[:, None], gains, -1.0)
    kept = ranks.copy()
    if int(ranks @ costs) > budget_params:
        # The threshold is below 0, so that wanted components with a gain of 0 are kept where they fit.
        kept = _fill(np.zeros_like(ranks), wanted, costs, budget_params, -0.5 / float(costs.max()))
    if min_gain_per_param is None:
        return kept
    return _fill(kept, gains, costs, budget_params - int(kept @ costs), min_gain_per_param)


def _verify(gains: Gains, params_per_rank: Sequence[int] | IntArray) -> IntArray:
    """Return `params_per_rank` as an array after checking the gains."""
    costs = np.asarray(params_per_rank, dtype=np.int64)
    if gains.ndim != 2 or len(gains) != len(costs):
        raise PolicyError.of("shape of gains", gains.shape, f"({len(costs)}, r_max)")
    if not np.isfinite(gains).all():
        raise PolicyError("gains: allowed are finite numbers")
    if (np.diff(gains, axis=1) > 0).any():
        raise PolicyError("gains: allowed are rows that do not rise; apply `concave_envelope` first")
    return costs


def _fill(ranks: IntArray, gains: Gains, costs: IntArray, left: int, min_gain_per_param: float) -> IntArray:
    """Return the ranks with components added by gain per parameter while they fit into `left` parameters."""
    ranks = ranks.copy()
    ratios = gains / costs[:, None]
    heap = [(-ratios[module, ranks[module]], module) for module in range(len(costs)) if ranks[module] < gains.shape[1]]
    heapq.heapify(heap)
    while heap:
        negative_ratio, module = heapq.heappop(heap)
        if -negative_ratio <= min_gain_per_param:
            break
        if costs[module] > left:
            continue
        left -= int(costs[module])
        ranks[module] += 1
        if ranks[module] < gains.shape[1]:
            heapq.heappush(heap, (-ratios[module, ranks[module]], module))
    return ranks


def concave_envelope(values: Gains) -> Gains:
    """Return the closest rows that do not rise, by isotonic regression: neighbours that rise become their mean.

    Components of a module are sent in order, so that a rising group has the mean gain of its members.

    Args:
        values: Gain of each component, float [num_modules, r_max].

    >>> concave_envelope(np.array([[1.0, 3.0, 0.5]]))
    array([[2. , 2. , 0.5]])
    """
    rows = [isotonic_regression(row, increasing=False).x for row in np.asarray(values, dtype=np.float64)]
    return np.asarray(rows, dtype=np.float64).reshape(values.shape)
