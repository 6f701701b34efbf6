"""The best ranks for a budget by a utility model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from airlora.observation import IntArray
from airlora.policy.solver import fill_greedily
from airlora.policy.utility.model import Floats, UtilityModel

__all__ = ["improve_plan", "plan_ranks"]

MAX_MOVES = 200
"""Of one local search; each is an improvement, and some tens are usual."""


def plan_ranks(
    model: UtilityModel,
    params_per_rank: Sequence[int],
    budget_params: int,
    text: npt.ArrayLike,
    *,
    price_per_param: float = 0.0,
    start: IntArray | None = None,
) -> IntArray:
    r"""Return the ranks of most worth less price within the budget.

    $$\max_r D(r, x) - p \sum_m r_m c_m \quad\text{s.t.}\quad \sum_m r_m c_m \le B$$

    Notation: D `UtilityModel.drop`; c params_per_rank; p price_per_param; B budget_params.

    Components are filled in by worth per number, and `improve_plan` searches on from there.  For concave curves
    without couplings that is a knapsack filled to within a component, improved by exchanges.

    Args:
        model: What ranks are worth.
        params_per_rank: Numbers in a component of each module.
        budget_params: Numbers that may be sent.
        text: Lexical entropy and OOV rate as the state's vector has them.
        price_per_param: What a number costs, nats.
        start: A second start for the search, such as the plan of a neighbouring budget; left out if it does not fit.

    Returns:
        Ranks, int64 [num_modules].
    """
    costs = np.asarray(params_per_rank, dtype=np.int64)
    greedy = fill_greedily(model.gains(text), costs, budget_params, min_gain_per_param=price_per_param)
    starts = [greedy]
    if not model.is_separable:
        # Alone, a module that needs another looks worthless; next to the others of a plan it does not.
        again = model.gains(text, around=greedy)
        starts.append(fill_greedily(again, costs, budget_params, min_gain_per_param=price_per_param))
    if start is not None and int(start @ costs) <= budget_params:
        starts.append(start)
    plans = [improve_plan(model, costs, budget_params, text, price_per_param, ranks) for ranks in starts]
    values = [_value(model, costs, price_per_param, text, ranks) for ranks in plans]
    return plans[int(np.argmax(values))]


def improve_plan(
    model: UtilityModel,
    params_per_rank: npt.ArrayLike,
    budget_params: int,
    text: npt.ArrayLike,
    price_per_param: float,
    ranks: IntArray,
) -> IntArray:
    """Return the plan after the best change of one or two modules' ranks, again and again while one helps.

    Every change of two modules to any ranks is tried, (num_modules * r_max)^2 / 2 of them, couplings included.

    Args:
        model: What ranks are worth.
        params_per_rank: Numbers in a component of each module.
        budget_params: Numbers that may be sent.
        text: Text state.
        price_per_param: What a number costs, nats.
        ranks: Where to start; within the budget.
    """
    costs = np.asarray(params_per_rank, dtype=np.int64)
    plan = ranks.copy()
    num_modules, num_ranks = model.curves.shape
    modules = np.repeat(np.arange(num_modules), num_ranks)
    targets = np.tile(np.arange(num_ranks), num_modules)
    own = model.tables(text)
    tolerance = 1e-9 * max(float(np.abs(own).max()), 1e-300)
    for _ in range(MAX_MOVES):
        phi = model.basis[np.arange(num_modules), plan]
        table = own + model.basis * (model.coupling @ phi)[:, None]
        left = budget_params - int(plan @ costs)
        price = (targets - plan[modules]) * costs[modules]
        worth = table[modules, targets] - table[modules, plan[modules]] - price_per_param * price
        kept = np.ones(len(modules), dtype=bool)
        if model.is_separable:
            # Only changes that can be part of an improvement: the rest makes the square below large for nothing.
            # With couplings any can: a module that needs another is worth nothing until the other is there.
            kept = _undominated(worth.reshape(num_modules, -1), price.reshape(num_modules, -1)).ravel()
        m, k, w, c = modules[kept], targets[kept], worth[kept], price[kept]
        shift = model.basis[m, k] - phi[m]
        joint = w[:, None] + w[None, :]
        if not model.is_separable:
            joint = joint + model.coupling[m[:, None], m[None, :]] * shift[:, None] * shift[None, :]
        joint[(m[:, None] == m[None, :]) | (c[:, None] + c[None, :] > left)] = -np.inf
        # A change of one module stands on the diagonal, as a pair with itself.
        np.fill_diagonal(joint, np.where(c <= left, w, -np.inf))
        best = int(np.argmax(joint))
        first, second = divmod(best, len(m))
        if joint[first, second] <= tolerance:
            break
        plan[m[first]], plan[m[second]] = k[first], k[second]
    return plan


def _undominated(worth: Floats, price: IntArray) -> npt.NDArray[np.bool_]:
    """Return which changes of each module no cheaper change of it is at least as worthy as; staying put is kept."""
    order = np.argsort(price, axis=1, kind="stable")
    sorted_worth = np.take_along_axis(worth, order, axis=1)
    before = np.maximum.accumulate(sorted_worth, axis=1)
    better = np.ones_like(sorted_worth, dtype=bool)
    better[:, 1:] = sorted_worth[:, 1:] > before[:, :-1]
    kept = np.zeros_like(better)
    np.put_along_axis(kept, order, better, axis=1)
    kept |= price == 0
    return kept


def _value(model: UtilityModel, costs: IntArray, price: float, text: npt.ArrayLike, ranks: IntArray) -> float:
    texts = np.asarray(text, dtype=np.float64)[None]
    return float(model.drop(ranks[None], texts)[0]) - price * float(ranks @ costs)
