"""Policy "random": the paper's random baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem
from airlora.policy.seeding import numpy_state, restore_numpy

__all__ = ["RandomPolicy", "fill_randomly", "spread_randomly"]


def fill_randomly(
    params_per_rank: tuple[int, ...], r_max: int, budget_params: int, generator: np.random.Generator
) -> IntArray:
    """Return ranks that take components in random order while they fit.

    Args:
        params_per_rank: Numbers in a component of each module.
        r_max: Largest rank.
        budget_params: Numbers that may be taken.
        generator: Of the order.
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
    """Return wanted ranks as far as they fit, module after module in random order.

    Patterns differ more than those of `fill_randomly`, which come close to one rank everywhere, and so say more about
    each module.

    Args:
        wanted: Int64 [num_modules].
        params_per_rank: Numbers in a component of each module.
        budget_params: Numbers that may be taken.
        generator: Of the order.
    """
    ranks = np.zeros(len(params_per_rank), dtype=np.int64)
    left = budget_params
    for module in generator.permutation(len(ranks)):
        ranks[module] = min(int(wanted[module]), left // params_per_rank[module])
        left -= int(ranks[module]) * params_per_rank[module]
    return ranks


class RandomPolicy:
    """Every rank drawn alike, or components drawn until the budget is full.

    Args:
        problem: What is decided about.
        seed: Of the draws; the generator is the policy's own and goes on from decision to decision.
        fit_to_budget: Fill the link's budget with random components instead.
    """

    name: ClassVar[str] = "random"

    def __init__(self, problem: PolicyProblem, *, seed: int, fit_to_budget: bool = False) -> None:
        self.problem = problem
        self._seed = seed
        self._fit_to_budget = fit_to_budget
        self._generator = np.random.default_rng(seed)

    @property
    def arguments(self) -> dict[str, Any]:
        """Seed and whether the budget is filled."""
        return {"seed": self._seed, "fit_to_budget": self._fit_to_budget}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`, its generator at the start."""
        return cls(problem, seed=arguments["seed"], fit_to_budget=arguments["fit_to_budget"])

    def decide(self, observation: Observation) -> IntArray:
        """Return freshly drawn ranks."""
        problem = self.problem
        if self._fit_to_budget:
            return fill_randomly(problem.params_per_rank, problem.r_max, observation.budget_params, self._generator)
        return self._generator.integers(problem.r_max + 1, size=problem.num_modules)

    def state_dict(self) -> dict[str, Any]:
        """Return where the generator stands."""
        return {"generator": numpy_state(self._generator)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        restore_numpy(self._generator, state["generator"])
