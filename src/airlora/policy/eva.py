"""Policy "eva": the rank allocation of Explained Variance Adaptation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from airlora.allocation import fill_greedily
from airlora.observation import IntArray, Observation
from airlora.policy.base import PolicyProblem
from airlora.policy.greedy import GreedyPolicy

__all__ = ["EvaPolicy"]


class EvaPolicy(GreedyPolicy):
    """Fills the link's budget by explained variance, best component first and each counted alike.

    EVA gives ranks away by the explained variance ratio alone: unlike `greedy`, a large module's component is not
    worth less for the numbers that it takes.  EVA's budget is a count of components, a link's is a count of numbers:
    one that no longer fits is passed over, as in every policy that fills.

    It is EVA's allocation without EVA's initialisation: components are sent as they were trained.

    Args:
        problem: What is decided about.
        importance: Explained variance ratio of every component, [num_modules, r_max], finite and >= 0.

    Raises:
        PolicyError: The shape is another, or a value is negative or not finite.

    Source: Paischer et al. 2024, arXiv:2410.07170, "One Initialization to Rule them All: Fine-tuning via Explained
    Variance Adaptation".
    """

    name: ClassVar[str] = "eva"

    def __init__(self, problem: PolicyProblem, importance: npt.ArrayLike) -> None:
        super().__init__(problem, importance)
        # Filling divides a gain by its component's size; this takes the division back.
        self._gains = self._gains * np.asarray(problem.params_per_rank)[:, None]

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that take components by explained variance while `observation.budget_params` lasts."""
        return fill_greedily(self._gains, self.problem.params_per_rank, observation.budget_params)
