"""Policy "eva": the rank allocation of Explained Variance Adaptation."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from airlora.policy.base import PolicyProblem
from airlora.policy.greedy import GreedyPolicy
from airlora.policy.specs import PolicyInputs, PolicySpec

__all__ = ["EvaPolicy"]


class EvaPolicy(GreedyPolicy):
    """Fill the link's budget with components, largest explained variance ratio first, whatever their size.

    `greedy` divides the importance of a component by its number of parameters; EVA does not. EVA's own budget is a
    number of components, but a link's budget is a number of parameters. A component that no longer fits is skipped, as
    in all policies that fill a budget.

    This is EVA's allocation without EVA's initialisation: the components themselves are those of the trained adapter.

    Args:
        problem: Decision problem of the policy.
        importance: Explained variance ratio of every component, float [num_modules, r_max], finite and >= 0.

    Raises:
        PolicyError: The shape is wrong, or a value is negative or not finite.

    Source: Paischer et al. 2024, arXiv:2410.07170, "One Initialization to Rule them All: Fine-tuning via Explained
    Variance Adaptation".
    """

    name: ClassVar[str] = "eva"

    def __init__(self, problem: PolicyProblem, importance: npt.ArrayLike) -> None:
        super().__init__(problem, importance)
        # `fill_greedily` divides every gain by the size of its component.
        self._gains = self._gains * np.asarray(problem.params_per_rank)[:, None]

    @classmethod
    def from_inputs(cls, problem: PolicyProblem, inputs: PolicyInputs) -> Self:
        """Return the policy with the measured explained variance ratios."""
        return cls(problem, np.asarray(inputs.explained_variance))


SPECS = (
    PolicySpec(
        "eva",
        EvaPolicy,
        "components by explained variance of the inputs; measures no loss",
        needs="explained_variance",
        benchmarks=("frozen",),
        order=80,
        colour="#882255",
    ),
)
