"""Cutting a wanted rank pattern down to what the link carries in time (Eq. 7 as a constraint, not a price).

| mode | a pattern beyond the deadline |
|---|---|
| `price` | stays; it only costs more (the paper) |
| `project` | is cut by `project_ranks` before anything is sent |
| `penalty` | stays, and the reward loses extra |
"""

from __future__ import annotations

import heapq
from typing import Literal

import numpy as np
import numpy.typing as npt

from airlora.channel.limits import verify_count
from airlora.errors import RankPatternError
from airlora.observation import IntArray

__all__ = ["DeadlineMode", "project_ranks"]

DeadlineMode = Literal["price", "project", "penalty"]


def project_ranks(
    ranks: npt.ArrayLike, params_per_rank: npt.ArrayLike, budget: int, *, gains: npt.ArrayLike | None = None
) -> IntArray:
    r"""Return the part of a wanted pattern that fits into a budget of numbers.

    The result r fits, $\sum_m r_m p_m \le B$; is nowhere above the wanted ranks; is the wanted pattern itself where
    that fits; and is maximal: no further component of the wanted pattern fits beside it.

    Without `gains` every module keeps about the same share of its rank: $\lfloor \alpha r_m \rfloor$ with
    $\alpha = B / \sum_m r_m p_m$, then one component after the other by largest remainder. With `gains` the top
    components go first, the least gain per number before all others, and what room is left over is filled in the
    opposite order.

    Notation: p_m params_per_rank[m]; B budget.

    Args:
        ranks: Wanted rank per module, whole, >= 0, [num_modules].
        params_per_rank: Numbers in one component of each module, whole, >= 1, [num_modules].
        budget: Numbers that may be sent, >= 0.
        gains: What component k of module m is worth, finite, [num_modules, r_max] with r_max at least the largest
            wanted rank. Only a module's top component can go, so a worthy one keeps those below it.

    Returns:
        Ranks, int64 [num_modules].

    Raises:
        RankPatternError: Ranks, sizes or gains are malformed or do not fit each other.
        ChannelError: The budget is negative or not whole.

    >>> project_ranks([4, 2], [10, 10], 30)
    array([2, 1])
    >>> project_ranks([2, 2], [10, 10], 20, gains=[[5.0, 4.0], [3.0, 2.0]])
    array([2, 0])
    """
    wanted = _verify_whole("ranks", ranks, 0)
    sizes = _verify_whole("params_per_rank", params_per_rank, 1)
    if len(wanted) != len(sizes):
        raise RankPatternError(f"{len(wanted)} ranks for {len(sizes)} modules: one rank per module is needed")
    verify_count("budget", budget)
    worth = None if gains is None else _worth_per_number(gains, wanted, sizes)
    limit = int(budget)
    total = sum(rank * size for rank, size in zip(wanted, sizes, strict=True))
    if total <= limit:
        kept = wanted
    elif worth is None:
        kept = _scale(wanted, sizes, limit, total)
    else:
        kept = _drop_least(wanted, sizes, limit, total, worth)
    return np.array(kept, dtype=np.int64)


def _scale(wanted: list[int], sizes: list[int], budget: int, total: int) -> list[int]:
    # Whole numbers throughout: a product in floats could round the pattern over the budget.
    kept = [budget * rank // total for rank in wanted]
    left = budget - sum(rank * size for rank, size in zip(kept, sizes, strict=True))
    waiting = sorted(range(len(wanted)), key=lambda m: budget * wanted[m] % total, reverse=True)
    # A module that got its remainder goes behind all that did not, so the order holds in every round.
    while waiting := [m for m in waiting if kept[m] < wanted[m] and sizes[m] <= left]:
        for m in waiting:
            if sizes[m] <= left:
                kept[m] += 1
                left -= sizes[m]
    return kept


def _drop_least(wanted: list[int], sizes: list[int], budget: int, total: int, worth: list[list[float]]) -> list[int]:
    kept = list(wanted)
    # Of equals the later module goes first, and comes back last.
    tops = [(worth[m][rank - 1], -m) for m, rank in enumerate(wanted) if rank > 0]
    heapq.heapify(tops)
    while total > budget:
        m = -heapq.heappop(tops)[1]
        kept[m] -= 1
        total -= sizes[m]
        if kept[m] > 0:
            heapq.heappush(tops, (worth[m][kept[m] - 1], -m))
    # Dropping a large component last can leave room for small ones that went before it.
    left = budget - total
    nexts = [(-worth[m][kept[m]], m) for m in range(len(wanted)) if kept[m] < wanted[m]]
    heapq.heapify(nexts)
    while nexts:
        m = heapq.heappop(nexts)[1]
        if sizes[m] > left:
            continue
        kept[m] += 1
        left -= sizes[m]
        if kept[m] < wanted[m]:
            heapq.heappush(nexts, (-worth[m][kept[m]], m))
    return kept


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


def _worth_per_number(gains: npt.ArrayLike, wanted: list[int], sizes: list[int]) -> list[list[float]]:
    array = np.asarray(gains, dtype=np.float64)
    if array.ndim != 2 or len(array) != len(wanted) or array.shape[1] < max(wanted, default=0):
        allowed = f"{len(wanted)} modules by {max(wanted, default=0)} or more components"
        raise RankPatternError.of("shape of gains", array.shape, allowed)
    if not np.isfinite(array).all():
        raise RankPatternError(f"gains: {int((~np.isfinite(array)).sum())} of {array.size} are not finite")
    worth: list[list[float]] = (array / np.asarray(sizes, dtype=np.float64)[:, None]).tolist()
    return worth
