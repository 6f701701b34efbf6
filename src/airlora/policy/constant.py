"""Policy "constant": one rank for all modules, as in plain LoRA."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem, SavedByArguments
from airlora.policy.settings import PolicySettings
from airlora.policy.specs import PolicyInputs, PolicySpec

__all__ = ["ConstantPolicy"]


class ConstantPolicy(SavedByArguments):
    """The same rank in every module, for every link.

    Args:
        problem: Decision problem of the policy.
        rank: Rank of every module, 0 to r_max.
        fit_to_budget: Whether to lower the rank to the largest one that the link carries before its deadline.

    Raises:
        PolicyError: The rank is outside 0 to r_max.
    """

    name: ClassVar[str] = "constant"

    def __init__(self, problem: PolicyProblem, rank: int, *, fit_to_budget: bool = False) -> None:
        if not 0 <= rank <= problem.r_max:
            raise PolicyError.of("rank", rank, f"0 to r_max = {problem.r_max}")
        self.problem = problem
        self._rank = rank
        self._fit_to_budget = fit_to_budget

    @classmethod
    def from_inputs(cls, problem: PolicyProblem, inputs: PolicyInputs) -> Self:
        """Return the policy with the rank `policy.constant_rank`."""
        return cls(problem, inputs.section(PolicySettings).constant_rank)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"rank": self._rank, "fit_to_budget": self._fit_to_budget}

    def decide(self, observation: Observation) -> IntArray:
        """Return the rank of every module."""
        rank = self._rank
        if self._fit_to_budget:
            rank = min(rank, observation.budget_params // sum(self.problem.params_per_rank))
        return np.full(self.problem.num_modules, rank, dtype=np.int64)


SPECS = (
    # The synthetic benchmark measures regret relative to the best constant rank.
    PolicySpec(
        "constant",
        ConstantPolicy,
        "one rank for all modules",
        benchmarks=("frozen",),
        order=90,
        colour="#555555",
        marker="v",
    ),
)
