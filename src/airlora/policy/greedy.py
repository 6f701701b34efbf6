"""Policy "greedy": components by their gradients' importance, no loss measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from airlora.allocation import concave_envelope, fill_greedily
from airlora.errors import PolicyError
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem

__all__ = ["GreedyPolicy"]


class GreedyPolicy:
    """Fills the link's budget by importance per number.

    Importance need not fall within a module, but components are sent in order: rising neighbours are pooled.

    Args:
        problem: What is decided about.
        importance: Of every component, [num_modules, r_max], finite and >= 0; the squared gradient of its gate.

    Raises:
        PolicyError: The shape is another, or a value is negative or not finite.
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
        """The importance, as nested lists."""
        return {"importance": self._importance.tolist()}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`."""
        return cls(problem, arguments["importance"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that fill `observation.budget_params`."""
        return fill_greedily(self._gains, self.problem.params_per_rank, observation.budget_params)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: all is in the arguments."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take nothing."""
