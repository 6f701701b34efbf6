"""Policy "random": the paper's random baseline, and random rank patterns within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem, SavedByArguments
from airlora.policy.seeding import numpy_state, restore_numpy
from airlora.policy.specs import PolicySpec

__all__ = ["RandomPolicy", "fill_randomly", "spread_randomly"]


def fill_randomly(
    params_per_rank: tuple[int, ...], r_max: int, budget_params: int, generator: np.random.Generator
) -> IntArray:
    """Return ranks that fill a budget with components in random order. A component that does not fit is skipped.

    Args:
        params_per_rank: Parameters in one component of each module.
        r_max: Largest rank of a module.
        budget_params: Largest number of parameters of the pattern.
        generator: NumPy generator that draws the order.

    Returns:
        Ranks, int64 [num_modules].
    """
    ranks = np.zeros(len(params_per_rank), dtype=np.int64)
    left = budget_params
    for module in generator.permutation(np.repeat(np.arange(len(params_per_rank)), r_max)):
        if params_per_rank[module] <= left:
            ranks[module] += 1
            left -= params_per_rank[module]
    return ranks


def spread_randomly(
    wanted: IntArray, params_per_rank: tuple[int, ...], budget_params: int, generator: np.random.Generator
) -> IntArray:
    """Return wanted ranks as far as they fit into a budget, module after module in random order.

    The patterns of `fill_randomly` are close to one rank for all modules. These patterns differ more from each other,
    so that measuring their losses tells more about each module.

    Args:
        wanted: Wanted ranks, int64 [num_modules].
        params_per_rank: Parameters in one component of each module.
        budget_params: Largest number of parameters of the pattern.
        generator: NumPy generator that draws the order of the modules.

    Returns:
        Ranks, int64 [num_modules].
    """
    ranks = np.zeros(len(params_per_rank), dtype=np.int64)
    left = budget_params
    for module in generator.permutation(len(ranks)):
        ranks[module] = min(int(wanted[module]), left // params_per_rank[module])
        left -= int(ranks[module]) * params_per_rank[module]
    return ranks


class RandomPolicy(SavedByArguments):
    """Ranks drawn uniformly from 0 to r_max, or random components up to the link's budget.

    Args:
        problem: Decision problem of the policy.
        seed: Seed of the policy's own NumPy generator, which continues from decision to decision.
        fit_to_budget: Whether to fill the link's budget with random components.
    """

    name: ClassVar[str] = "random"

    def __init__(self, problem: PolicyProblem, *, seed: int, fit_to_budget: bool = False) -> None:
        self.problem = problem
        self._seed = seed
        self._fit_to_budget = fit_to_budget
        self._generator = np.random.default_rng(seed)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"seed": self._seed, "fit_to_budget": self._fit_to_budget}

    def decide(self, observation: Observation) -> IntArray:
        """Return newly drawn ranks."""
        problem = self.problem
        if self._fit_to_budget:
            return fill_randomly(problem.params_per_rank, problem.r_max, observation.budget_params, self._generator)
        return self._generator.integers(problem.r_max + 1, size=problem.num_modules)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator."""
        return {"generator": numpy_state(self._generator)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the value of `state_dict`."""
        restore_numpy(self._generator, state["generator"])


SPECS = (PolicySpec("random", RandomPolicy, "random ranks", order=95, colour="#AAAAAA"),)
