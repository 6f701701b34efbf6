r"""Fit ranks to a budget of parameters.

Each function solves, or approximates, one problem: choose the rank of every module so that the adapter has at most
$B$ parameters.

| function | result |
|---|---|
| `project_ranks` | the wanted ranks, reduced until they fit: in proportion, or by least gain per parameter |
| `fit_to_budget` | the same reduction by gain, and optionally the free budget filled with further components |
| `fill_greedily` | ranks from zero, by gain per parameter |
| `fill_exactly` | the optimum of the same problem, by integer programming |

Notation: r_m rank of module m; p_m parameters of one component of module m; B budget; g_mk gain of component k of
module m, the amount by which it lowers the loss. The components of a module are kept and removed in order: a module of
rank r has the components 1 to r.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, isotonic_regression, milp

from airlora.errors import AirloraError, ChannelError, PolicyError, RankPatternError
from airlora.observation import IntArray

__all__ = ["Gains", "concave_envelope", "fill_exactly", "fill_greedily", "fit_to_budget", "project_ranks"]

Gains = npt.NDArray[np.float64]


def project_ranks(
    ranks: npt.ArrayLike, params_per_rank: npt.ArrayLike, budget: int, *, gains: npt.ArrayLike | None = None
) -> IntArray:
    r"""Return the wanted ranks, reduced until the adapter fits into a budget of parameters.

    The result r satisfies $\sum_m r_m p_m \le B$ and $r_m \le$ `ranks[m]`. Ranks that fit are returned unchanged. The
    result is maximal: no removed component fits into the free budget.

    Without `gains`, every module keeps about the same share of its rank. Module m gets $\lfloor \alpha r_m \rfloor$
    components with $\alpha = B / \sum_m r_m p_m$. The free budget goes to the modules in order of their remainders.

    With `gains`, the last component of some module is removed until the ranks fit. Each removal takes the component
    of least gain per parameter. The free budget is then filled again in the opposite order.

    Args:
        ranks: Wanted rank of each module, whole numbers >= 0, [num_modules].
        params_per_rank: Parameters of one component of each module, whole numbers >= 1, [num_modules].
        budget: Largest number of parameters, >= 0.
        gains: Gain of component k of module m, finite, [num_modules, r_max]. r_max is at least the largest wanted
            rank.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        RankPatternError: Ranks, sizes or gains are malformed, or their shapes do not match.
        ChannelError: The budget is negative or not a whole number.

    Examples:
        >>> project_ranks([4, 2], [10, 10], 30)
        array([2, 1])
        >>> project_ranks([2, 2], [10, 10], 20, gains=[[5.0, 4.0], [3.0, 2.0]])
        array([2, 0])
    """
    wanted = _verify_whole("ranks", ranks, 0)
    costs = _verify_whole("params_per_rank", params_per_rank, 1)
    if len(wanted) != len(costs):
        raise RankPatternError(f"{len(wanted)} ranks for {len(costs)} modules: one rank per module is needed")
    if not isinstance(budget, Integral) or isinstance(budget, bool) or budget < 0:
        raise ChannelError.of("budget", budget, "a whole number, 0 or more")
    if gains is None:
        kept = _scale(wanted, costs, int(budget))
    else:
        checked = _verify_gains(gains, len(costs), max(wanted, default=0), RankPatternError)
        kept = _remove_least(wanted, _ratios(checked, costs), costs, int(budget))
    return np.array(kept, dtype=np.int64)


def fit_to_budget(
    ranks: IntArray,
    gains: Gains,
    params_per_rank: Sequence[int] | IntArray,
    budget_params: int,
    *,
    min_gain_per_param: float | None = None,
) -> IntArray:
    """Return the wanted ranks without the components of least gain per parameter that exceed the budget.

    The ranks are those of `project_ranks` with `gains`. With `min_gain_per_param`, components that were not wanted
    fill the rest of the budget.

    Args:
        ranks: Wanted rank of each module, int64 [num_modules].
        gains: Gain of component k + 1 of each module, finite, [num_modules, r_max], not increasing along a row.
        params_per_rank: Parameters of one component of each module, >= 1, [num_modules].
        budget_params: Largest number of parameters.
        min_gain_per_param: Gain per parameter above which a component that was not wanted fills the free budget. None
            adds no component.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        PolicyError: The gains are not finite or increase along a row, or the shapes do not match.

    Examples:
        >>> fit_to_budget(np.array([2, 2]), np.array([[5.0, 4.0], [3.0, 2.0]]), [10, 10], 20)
        array([2, 0])
    """
    ratios, costs = _verify_curves(gains, params_per_rank)
    kept = _remove_least(ranks.tolist(), ratios, costs, int(budget_params))
    if min_gain_per_param is not None:
        kept = _add_best(kept, ratios, costs, int(budget_params), [gains.shape[1]] * len(costs), min_gain_per_param)
    return np.array(kept, dtype=np.int64)


def fill_greedily(
    gains: Gains, params_per_rank: Sequence[int] | IntArray, budget_params: int, *, min_gain_per_param: float = 0.0
) -> IntArray:
    r"""Return the ranks that take components by gain per parameter until the budget is full.

    $$\max_r \sum_m \sum_{k \le r_m} g_{mk} \quad\text{s.t.}\quad \sum_m r_m p_m \le B$$

    The result is optimal if all modules have components of one size. Otherwise its total gain is below the optimum by
    less than the largest gain of one component. Components that do not fit are skipped, so that smaller ones can still
    use the budget.

    Args:
        gains: Gain of component k + 1 of each module, finite, [num_modules, r_max], not increasing along a row.
        params_per_rank: Parameters of one component of each module, >= 1, [num_modules].
        budget_params: Largest number of parameters.
        min_gain_per_param: Gain per parameter that a component must exceed.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        PolicyError: The gains are not finite or increase along a row, or the shapes do not match.

    Examples:
        >>> fill_greedily(np.array([[3.0, 1.0], [2.0, 2.0]]), [10, 10], 30)
        array([1, 2])
    """
    ratios, costs = _verify_curves(gains, params_per_rank)
    most = [gains.shape[1]] * len(costs)
    ranks = _add_best([0] * len(costs), ratios, costs, int(budget_params), most, min_gain_per_param)
    return np.array(ranks, dtype=np.int64)


def fill_exactly(
    gains: Gains, params_per_rank: Sequence[int] | IntArray, budget_params: int, *, min_gain_per_param: float = 0.0
) -> IntArray:
    """Return the optimal ranks of the problem of `fill_greedily`, also for components of different sizes.

    The problem is a knapsack with one item per component, solved by branch and bound (HiGHS). It takes some tens of
    milliseconds for 36 modules.

    Args:
        gains: Gain of component k + 1 of each module, finite, [num_modules, r_max], not increasing along a row.
        params_per_rank: Parameters of one component of each module, >= 1, [num_modules].
        budget_params: Largest number of parameters.
        min_gain_per_param: Gain per parameter that is subtracted from the gain of each component.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        PolicyError: The gains are not finite or increase along a row, the shapes do not match, or the solver fails.

    Examples:
        >>> fill_exactly(np.array([[3.0], [4.0], [4.0]]), [10, 15, 15], 30)
        array([0, 1, 1])
    """
    _, costs = _verify_curves(gains, params_per_rank)
    sizes = np.asarray(costs, dtype=np.int64)
    net = (gains - min_gain_per_param * sizes[:, None]).ravel()
    items = np.flatnonzero(net > 0)
    ranks = np.zeros(len(sizes), dtype=np.int64)
    if not len(items) or budget_params < sizes.min():
        return ranks
    item_sizes = np.repeat(sizes, gains.shape[1])[items]
    result = milp(
        -net[items] / net[items].max(),
        constraints=LinearConstraint(item_sizes[None, :].astype(np.float64), ub=float(budget_params)),
        integrality=np.ones(len(items), dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 1e-6},
    )
    if result.x is None:
        raise PolicyError(f"the integer program of fill_exactly has no solution: {result.message}")
    # Gains do not increase along a row: the first components of a module gain at least as much as any others.
    np.add.at(ranks, items[result.x > 0.5] // gains.shape[1], 1)
    return ranks


def concave_envelope(values: Gains) -> Gains:
    """Return each row made non-increasing: neighbours that increase are replaced by their mean (isotonic regression).

    Args:
        values: Gain of component k + 1 of each module, [num_modules, r_max].

    Examples:
        >>> concave_envelope(np.array([[1.0, 3.0, 0.5]]))
        array([[2. , 2. , 0.5]])
    """
    rows = [isotonic_regression(row, increasing=False).x for row in np.asarray(values, dtype=np.float64)]
    return np.asarray(rows, dtype=np.float64).reshape(values.shape)


def _scale(wanted: list[int], costs: list[int], budget: int) -> list[int]:
    """Reduce ranks in proportion. Python integers are exact: a product of floats could exceed the budget."""
    total = _num_params(wanted, costs)
    if total <= budget:
        return wanted
    kept = [budget * rank // total for rank in wanted]
    left = budget - _num_params(kept, costs)
    waiting = sorted(range(len(wanted)), key=lambda m: budget * wanted[m] % total, reverse=True)
    while waiting := [m for m in waiting if kept[m] < wanted[m] and costs[m] <= left]:
        for m in waiting:
            if costs[m] <= left:
                kept[m] += 1
                left -= costs[m]
    return kept


def _remove_least(wanted: list[int], ratios: list[list[float]], costs: list[int], budget: int) -> list[int]:
    """Remove last components of least gain per parameter until the ranks fit, then restore those that still fit."""
    kept, total = list(wanted), _num_params(wanted, costs)
    # Of two equal gains, the one of the later module is removed first.
    heap = [(ratios[m][rank - 1], -m) for m, rank in enumerate(wanted) if rank > 0]
    heapq.heapify(heap)
    while total > budget and heap:
        m = -heapq.heappop(heap)[1]
        kept[m] -= 1
        total -= costs[m]
        if kept[m] > 0:
            heapq.heappush(heap, (ratios[m][kept[m] - 1], -m))
    return _add_best(kept, ratios, costs, budget, wanted)


def _add_best(
    ranks: list[int],
    ratios: list[list[float]],
    costs: list[int],
    budget: int,
    most: list[int],
    min_ratio: float = -np.inf,
) -> list[int]:
    """Add components by gain per parameter while they fit, up to the ranks `most`."""
    kept, left = list(ranks), budget - _num_params(ranks, costs)
    heap = [(-ratios[m][rank], m) for m, rank in enumerate(kept) if rank < most[m]]
    heapq.heapify(heap)
    while heap:
        negative_ratio, m = heapq.heappop(heap)
        if -negative_ratio <= min_ratio:
            break
        if costs[m] > left:
            continue
        kept[m] += 1
        left -= costs[m]
        if kept[m] < most[m]:
            heapq.heappush(heap, (-ratios[m][kept[m]], m))
    return kept


def _num_params(ranks: list[int], costs: list[int]) -> int:
    return sum(rank * cost for rank, cost in zip(ranks, costs, strict=True))


def _ratios(gains: Gains, costs: list[int]) -> list[list[float]]:
    ratios: list[list[float]] = (gains / np.asarray(costs, dtype=np.float64)[:, None]).tolist()
    return ratios


def _verify_whole(name: str, value: npt.ArrayLike, least: int) -> list[int]:
    array = np.asarray(value)
    if array.ndim != 1:
        raise RankPatternError.of(f"shape of {name}", array.shape, "one dimension, one number per module")
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise RankPatternError.of(f"type of {name}", str(array.dtype), "whole numbers")
    if (array < least).any():
        raise RankPatternError.of(name, int(array.min()), f"whole numbers, {least} or more")
    whole: list[int] = array.astype(np.int64).tolist()
    return whole


def _verify_gains(gains: npt.ArrayLike, num_modules: int, least: int, error: type[AirloraError]) -> Gains:
    array = np.asarray(gains, dtype=np.float64)
    if array.ndim != 2 or len(array) != num_modules or array.shape[1] < least:
        raise error.of("shape of gains", array.shape, f"{num_modules} modules by {least} or more components")
    if not np.isfinite(array).all():
        raise error(f"gains: {int((~np.isfinite(array)).sum())} of {array.size} are not finite")
    return array


def _verify_curves(gains: Gains, params_per_rank: Sequence[int] | IntArray) -> tuple[list[list[float]], list[int]]:
    """Return gains per parameter and component sizes of gains that do not increase along a row."""
    costs: list[int] = np.asarray(params_per_rank, dtype=np.int64).tolist()
    checked = _verify_gains(gains, len(costs), 0, PolicyError)
    if (np.diff(checked, axis=1) > 0).any():
        raise PolicyError("gains: rows must not increase; apply `concave_envelope` first")
    return _ratios(checked, costs), costs
