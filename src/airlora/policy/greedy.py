"""Policy "greedy": components in the order of their importance per parameter. It measures no loss."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from airlora.allocation import concave_envelope, fill_greedily
from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem, SavedByArguments
from airlora.policy.specs import PolicySpec

__all__ = ["GreedyPolicy"]


class GreedyPolicy(SavedByArguments):
    """Fill the link's budget with components, largest importance per parameter first.

    The components of a module are sent in order. Where importance rises within a module, neighbouring components
    therefore count with their mean.

    Args:
        problem: Decision problem of the policy.
        importance: Importance of every component, float [num_modules, r_max], finite and >= 0; for example the squared
            gradient of the component's gate.

    Raises:
        PolicyError: The shape is wrong, or a value is negative or not finite.
    """

    name: ClassVar[str] = "greedy"

    def __init__(self, problem: PolicyProblem, importance: npt.ArrayLike) -> None:
        values = np.asarray(importance, dtype=np.float64)
        if values.shape != (problem.num_modules, problem.r_max):
            raise PolicyError.of("shape of importance", values.shape, f"({problem.num_modules}, {problem.r_max})")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise PolicyError("importance: allowed are finite numbers, 0 or more")
        self.problem = problem
        self._importance = values
        self._gains = concave_envelope(values)

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {"importance": self._importance.tolist()}

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that fill `observation.budget_params`."""
        return fill_greedily(self._gains, self.problem.params_per_rank, observation.budget_params)


SPECS = (
    PolicySpec(
        "greedy",
        GreedyPolicy,
        "components by squared gradient per parameter; measures no loss",
        needs="importance",
        benchmarks=("frozen",),
        order=70,
        colour="#56B4E9",
        marker="D",
    ),
)
