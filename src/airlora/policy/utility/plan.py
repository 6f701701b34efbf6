"""The best ranks for a budget by a utility model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from airlora.allocation import fill_greedily
from airlora.observation import IntArray
from airlora.policy.utility.model import Floats, UtilityModel

__all__ = ["improve_plan", "plan_ranks"]

MAX_MOVES = 200
"""Of one local search; each is an improvement, and some tens are usual."""

CANDIDATES_AT_ONCE = 256
"""Changes beside another module's that are looked at together, most promising first."""


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

    Every change of two modules to any ranks is looked at: by sorting where they are not coupled, and where they are
    those that a bound does not rule out.

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
    module = np.repeat(np.arange(num_modules), num_ranks)
    target = np.tile(np.arange(num_ranks), num_modules)
    is_coupled = (model.coupling != 0.0).any(axis=1)
    coupled, free = np.flatnonzero(is_coupled), np.flatnonzero(~is_coupled[module])
    own = model.tables(text)
    tolerance = 1e-9 * max(float(np.abs(own).max()), 1e-300)
    for _ in range(MAX_MOVES):
        phi = model.basis[np.arange(num_modules), plan]
        table = own + model.basis * (model.coupling @ phi)[:, None]
        left = budget_params - int(plan @ costs)
        price = (target - plan[module]) * costs[module]
        worth = table[module, target] - table[module, plan[module]] - price_per_param * price
        moves = [_best_change(worth, price, left), _best_free_pair(module, worth, price, free, left)]
        if len(coupled):
            pairs = _CoupledPairs(
                coupled,
                worth=worth.reshape(num_modules, num_ranks)[coupled],
                shift=(model.basis - phi[:, None])[coupled],
                coupling=model.coupling[np.ix_(coupled, coupled)],
                allowed=_allowed_ranks(plan[coupled], costs[coupled], num_ranks, left),
            )
            moves.append(pairs.best(max(tolerance, *(gain for gain, _ in moves))))
        gain, changes = max(moves, key=lambda move: move[0])
        if gain <= tolerance:
            break
        for change in changes:
            plan[module[change]] = target[change]
    return plan


_Move = tuple[float, tuple[int, ...]]
"""What a move gains, and the changes that it is made of."""


def _best_change(worth: Floats, price: IntArray, left: int) -> _Move:
    best = int(np.argmax(np.where(price <= left, worth, -np.inf)))
    return (float(worth[best]) if price[best] <= left else -np.inf), (best,)


def _best_free_pair(module: IntArray, worth: Floats, price: IntArray, free: IntArray, left: int) -> _Move:
    """Return the best pair of changes of two modules of which one is coupled to nothing.

    In the order of price, the best change so far and the best of another module are known at every place; a free change
    takes the better of the two that is not its own at the last place that it can pay.
    """
    order = np.argsort(price, kind="stable")
    best, other = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    first = second = -1
    for place, change in enumerate(order.tolist()):
        if first < 0 or worth[change] > worth[first]:
            if first >= 0 and module[change] != module[first]:
                second = first
            first = change
        elif module[change] != module[first] and (second < 0 or worth[change] > worth[second]):
            second = change
        best[place], other[place] = first, second
    last = np.searchsorted(price[order], left - price[free], side="right") - 1
    partner = np.where(module[best[last]] == module[free], other[last], best[last])
    gain = np.where((last >= 0) & (partner >= 0), worth[free] + worth[partner], -np.inf)
    if not len(gain):
        return -np.inf, ()
    top = int(np.argmax(gain))
    return float(gain[top]), (int(free[top]), int(partner[top]))


@dataclass(frozen=True)
class _CoupledPairs:
    """Changes of two modules at once, of K that are coupled; R = r_max + 1 ranks each.

    Args:
        modules: Which ones, [K].
        worth: What a change of each to each rank gains alone, [K, R].
        shift: How far it moves the module's basis, [K, R].
        coupling: Times the shifts of both it is what two changes gain together beyond that, [K, K].
        allowed: Largest rank of the one (last axis) that can be paid beside a change of the other, [K, R, K]; -1: none.
    """

    modules: IntArray
    worth: Floats
    shift: Floats
    coupling: Floats
    allowed: IntArray

    def best(self, least: float) -> _Move:
        """Return the best pair of changes if it gains more than `least`, which spares looking at most; else nothing."""
        num_modules, num_ranks = self.worth.shape
        bound = self._bound()
        bound[np.arange(num_modules)[:, None] >= np.arange(num_modules)[None, :], :] = -np.inf
        gain = -np.inf
        move: tuple[int, ...] = ()
        # The most promising ones first: what they gain rules out most of the others.
        candidates = np.flatnonzero(bound.ravel() > least)
        candidates = candidates[np.argsort(-bound.ravel()[candidates], kind="stable")]
        start = 0
        while start < len(candidates) and bound.flat[candidates[start]] > max(gain, least):
            some = candidates[start : start + CANDIDATES_AT_ONCE]
            start += len(some)
            first, second, rank = np.unravel_index(some, bound.shape)
            joint = (
                self.worth[first, rank][:, None]
                + self.worth[second]
                + (self.coupling[first, second] * self.shift[first, rank])[:, None] * self.shift[second]
            )
            joint[np.arange(num_ranks) > self.allowed[first, rank, second][:, None]] = -np.inf
            row, other = divmod(int(np.argmax(joint)), num_ranks)
            if joint[row, other] > max(gain, least):
                gain = float(joint[row, other])
                one, two = int(self.modules[first[row]]), int(self.modules[second[row]])
                move = (one * num_ranks + int(rank[row]), two * num_ranks + other)
        return gain, move

    def _bound(self) -> Floats:
        """Return no less than a change of one module to a rank gains with any change of another, [K, K, R]."""
        # Ranks in order of price: the best change that can be paid is the best of all up to the last that can.
        affordable = np.maximum.accumulate(self.worth, axis=1)
        affordable = np.concatenate([np.full((len(affordable), 1), -np.inf), affordable], axis=1)
        partner = affordable[np.arange(len(affordable)), self.allowed + 1]
        pull = self.coupling[:, None, :] * self.shift[:, :, None]
        together = np.maximum(pull * self.shift.max(axis=1), pull * self.shift.min(axis=1))
        bound: Floats = np.swapaxes(self.worth[:, :, None] + partner + together, 1, 2).copy()
        return bound


def _allowed_ranks(plan: IntArray, costs: IntArray, num_ranks: int, left: int) -> IntArray:
    """Return `_CoupledPairs.allowed`."""
    price = (np.arange(num_ranks) - plan[:, None]) * costs[:, None]
    allowed: IntArray = np.clip(plan + (left - price)[:, :, None] // costs, -1, num_ranks - 1)
    return allowed


def _value(model: UtilityModel, costs: IntArray, price: float, text: npt.ArrayLike, ranks: IntArray) -> float:
    texts = np.asarray(text, dtype=np.float64)[None]
    return float(model.drop(ranks[None], texts)[0]) - price * float(ranks @ costs)
