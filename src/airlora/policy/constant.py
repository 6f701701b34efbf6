"""Policy "constant": the same rank everywhere, as plain LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem

__all__ = ["ConstantPolicy"]


class ConstantPolicy:
    """The same rank in every module, whatever the link.

    Args:
        problem: What is decided about.
        rank: The rank, 0 to r_max.
        fit_to_budget: Take the largest rank up to `rank` that the link carries before its deadline.

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

    @property
    def arguments(self) -> dict[str, Any]:
        """Rank and whether it follows the budget."""
        return {"rank": self._rank, "fit_to_budget": self._fit_to_budget}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`."""
        return cls(problem, arguments["rank"], fit_to_budget=arguments["fit_to_budget"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the rank for every module."""
        rank = self._rank
        if self._fit_to_budget:
            rank = min(rank, observation.budget_params // sum(self.problem.params_per_rank))
        return np.full(self.problem.num_modules, rank, dtype=np.int64)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
