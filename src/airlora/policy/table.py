"""Policy "table": patterns that something else made for a few budgets, such as AdaLoRA's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem
from airlora.ranks import RankPattern

__all__ = ["TablePolicy"]


class TablePolicy:
    """Of some patterns, the one with most numbers that the link carries before its deadline; none fits: rank 0.

    Args:
        problem: What is decided about.
        patterns: Rank patterns over the problem's modules.

    Raises:
        PolicyError: There is no pattern, or one has other modules or a rank above r_max.
    """

    name: ClassVar[str] = "table"

    def __init__(self, problem: PolicyProblem, patterns: Sequence[RankPattern]) -> None:
        if not patterns:
            raise PolicyError("a table policy needs one pattern or more")
        for pattern in patterns:
            if pattern.names != problem.module_names:
                raise PolicyError("a pattern of the table has other modules than the problem, or another order")
            if max(pattern.ranks) > problem.r_max:
                raise PolicyError.of("largest rank in the table", max(pattern.ranks), f"0 to r_max = {problem.r_max}")
        self.problem = problem
        self._rows = [np.asarray(pattern.ranks, dtype=np.int64) for pattern in patterns]

    @property
    def arguments(self) -> dict[str, Any]:
        """The patterns' ranks."""
        return {"ranks": [row.tolist() for row in self._rows]}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`."""
        return cls(problem, [RankPattern.from_ranks(problem.module_names, ranks) for ranks in arguments["ranks"]])

    def decide(self, observation: Observation) -> IntArray:
        """Return the largest pattern within `observation.budget_params`."""
        fitting = [row for row in self._rows if self.problem.num_params(row) <= observation.budget_params]
        if not fitting:
            return np.zeros(self.problem.num_modules, dtype=np.int64)
        return max(fitting, key=self.problem.num_params).copy()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all is in the arguments."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
