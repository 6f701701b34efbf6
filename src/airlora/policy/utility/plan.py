"""Plans: the ranks within a budget that maximise the utility of a model."""

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
"""Largest number of moves of a local search; a few dozen are usual."""

CANDIDATES_PER_BLOCK = 256
"""Number of candidate pairs of changes that are evaluated at once, in descending order of their bound."""


def plan_ranks(
    model: UtilityModel,
    params_per_rank: Sequence[int],
    budget_params: int,
    text: npt.ArrayLike,
    *,
    price_per_param: float = 0.0,
    start: IntArray | None = None,
) -> IntArray:
    r"""Return the ranks of the largest predicted loss reduction minus price within a budget, int64 [num_modules].

    $$\max_r D(r, x) - p \sum_m r_m c_m \quad\text{s.t.}\quad \sum_m r_m c_m \le B$$

    Notation: D `UtilityModel.loss_reduction`; c params_per_rank; p price_per_param; B budget_params.

    Components are added by gain per parameter, and `improve_plan` improves the result by local search.  For models
    without couplings, the greedy result alone is less than one component's gain below the optimum.

    Args:
        model: Utility model of the ranks.
        params_per_rank: Parameters in one component of each module.
        budget_params: Largest number of parameters of the plan.
        text: Text state, scaled as in the state vector, [2].
        price_per_param: Price of one parameter, nats.
        start: Additional start of the local search, int64 [num_modules], such as the plan of a similar budget.  A start
            beyond the budget is ignored.
    """
    costs = np.asarray(params_per_rank, dtype=np.int64)
    greedy = fill_greedily(model.gains(text), costs, budget_params, min_gain_per_param=price_per_param)
    starts = [greedy]
    if not model.is_separable:
        # A module that needs another has no gain alone.  Gains around the greedy plan include the couplings.
        gains = model.gains(text, around=greedy)
        starts.append(fill_greedily(gains, costs, budget_params, min_gain_per_param=price_per_param))
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
    """Return the plan after a local search that changes the ranks of one or two modules per move.

    Every move is the best one among all changes of two modules.  Changes without a coupling are found by sorting by
    price.  Among coupled changes, an upper bound of the gain excludes most candidates.

    Args:
        model: Utility model of the ranks.
        params_per_rank: Parameters in one component of each module.
        budget_params: Largest number of parameters of the plan.
        text: Text state, scaled as in the state vector, [2].
        price_per_param: Price of one parameter, nats.
        ranks: Start of the search, within the budget, int64 [num_modules].
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
        change_gain = table[module, target] - table[module, plan[module]] - price_per_param * price
        moves = [_best_change(change_gain, price, left), _best_free_pair(module, change_gain, price, free, left)]
        if len(coupled):
            pairs = _CoupledPairs(
                coupled,
                gain=change_gain.reshape(num_modules, num_ranks)[coupled],
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
"""Gain of a move in nats, and the indices of its changes."""


def _best_change(gain: Floats, price: IntArray, left: int) -> _Move:
    best = int(np.argmax(np.where(price <= left, gain, -np.inf)))
    return (float(gain[best]) if price[best] <= left else -np.inf), (best,)


def _best_free_pair(module: IntArray, gain: Floats, price: IntArray, free: IntArray, left: int) -> _Move:
    """Return the best pair of changes of two modules, one of which has no coupling.

    The changes are sorted by price.  For every position, `best` is the best change up to there and `other` the best one
    of another module.  Each free change takes the better of the two that changes another module, at the last affordable
    position.
    """
    order = np.argsort(price, kind="stable")
    best, other = np.empty(len(order), dtype=np.int64), np.empty(len(order), dtype=np.int64)
    first = second = -1
    for place, change in enumerate(order.tolist()):
        if first < 0 or gain[change] > gain[first]:
            if first >= 0 and module[change] != module[first]:
                second = first
            first = change
        elif module[change] != module[first] and (second < 0 or gain[change] > gain[second]):
            second = change
        best[place], other[place] = first, second
    last = np.searchsorted(price[order], left - price[free], side="right") - 1
    partner = np.where(module[best[last]] == module[free], other[last], best[last])
    total = np.where((last >= 0) & (partner >= 0), gain[free] + gain[partner], -np.inf)
    if not len(total):
        return -np.inf, ()
    top = int(np.argmax(total))
    return float(total[top]), (int(free[top]), int(partner[top]))


@dataclass(frozen=True)
class _CoupledPairs:
    """Pairs of changes among K coupled modules with R = r_max + 1 ranks each.

    Args:
        modules: Indices of the coupled modules, [K].
        gain: Gain of changing one module to a rank, alone, nats, [K, R].
        shift: Change of the module's basis phi, [K, R].
        coupling: Couplings of the modules, [K, K].  The joint gain of two changes is the sum of their gains plus the
            coupling times both shifts.
        allowed: Largest affordable rank of a second module (last axis) after the change of a first one to a rank,
            [K, R, K]; -1 if there is none.
    """

    modules: IntArray
    gain: Floats
    shift: Floats
    coupling: Floats
    allowed: IntArray

    def best(self, threshold: float) -> _Move:
        """Return the best pair of changes with a gain above `threshold`, or (-inf, ()) if there is none."""
        num_modules, num_ranks = self.gain.shape
        bound = self._bound()
        bound[np.arange(num_modules)[:, None] >= np.arange(num_modules)[None, :], :] = -np.inf
        best_gain = -np.inf
        move: tuple[int, ...] = ()
        # Candidates in descending order of their bound: the search ends when the best gain exceeds the next bound.
        candidates = np.flatnonzero(bound.ravel() > threshold)
        candidates = candidates[np.argsort(-bound.ravel()[candidates], kind="stable")]
        start = 0
        while start < len(candidates) and bound.flat[candidates[start]] > max(best_gain, threshold):
            block = candidates[start : start + CANDIDATES_PER_BLOCK]
            start += len(block)
            first, second, rank = np.unravel_index(block, bound.shape)
            joint = (
                self.gain[first, rank][:, None]
                + self.gain[second]
                + (self.coupling[first, second] * self.shift[first, rank])[:, None] * self.shift[second]
            )
            joint[np.arange(num_ranks) > self.allowed[first, rank, second][:, None]] = -np.inf
            row, other = divmod(int(np.argmax(joint)), num_ranks)
            if joint[row, other] > max(best_gain, threshold):
                best_gain = float(joint[row, other])
                one, two = int(self.modules[first[row]]), int(self.modules[second[row]])
                move = (one * num_ranks + int(rank[row]), two * num_ranks + other)
        return best_gain, move

    def _bound(self) -> Floats:
        """Return an upper bound of the joint gain of a module's change to a rank and any change of another, [K, K, R].

        The price of a change rises with its rank.  The best affordable change is therefore a running maximum.
        """
        affordable = np.maximum.accumulate(self.gain, axis=1)
        affordable = np.concatenate([np.full((len(affordable), 1), -np.inf), affordable], axis=1)
        partner = affordable[np.arange(len(affordable)), self.allowed + 1]
        pull = self.coupling[:, None, :] * self.shift[:, :, None]
        together = np.maximum(pull * self.shift.max(axis=1), pull * self.shift.min(axis=1))
        bound: Floats = np.swapaxes(self.gain[:, :, None] + partner + together, 1, 2).copy()
        return bound


def _allowed_ranks(plan: IntArray, costs: IntArray, num_ranks: int, left: int) -> IntArray:
    price = (np.arange(num_ranks) - plan[:, None]) * costs[:, None]
    allowed: IntArray = np.clip(plan + (left - price)[:, :, None] // costs, -1, num_ranks - 1)
    return allowed


def _value(model: UtilityModel, costs: IntArray, price: float, text: npt.ArrayLike, ranks: IntArray) -> float:
    texts = np.asarray(text, dtype=np.float64)[None]
    return float(model.loss_reduction(ranks[None], texts)[0]) - price * float(ranks @ costs)
