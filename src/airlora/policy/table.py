"""Policy "table": rank patterns that another method made for several budgets, such as AdaLoRA's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem, SavedByArguments
from airlora.ranks import RankPattern

__all__ = ["TablePolicy"]


class TablePolicy(SavedByArguments):
    """The largest of several rank patterns that the link carries before its deadline, or rank 0 if none fits.

    Args:
        problem: Decision problem of the policy.
        patterns: One or more rank patterns over the modules of the problem.

    Raises:
        PolicyError: There is no pattern, or a pattern has other modules or a rank above r_max.
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
        """Ranks of the patterns."""
        return {"ranks": [row.tolist() for row in self._rows]}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these ranks."""
        return cls(problem, [RankPattern.from_ranks(problem.module_names, ranks) for ranks in arguments["ranks"]])

    def decide(self, observation: Observation) -> IntArray:
        """Return the largest pattern within `observation.budget_params`."""
        fitting = [row for row in self._rows if self.problem.num_params(row) <= observation.budget_params]
        if not fitting:
            return np.zeros(self.problem.num_modules, dtype=np.int64)
        return max(fitting, key=self.problem.num_params).copy()
