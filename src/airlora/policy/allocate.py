"""Policy "allocate": fit loss curves to everything measured, then fill the budget greedily."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch

from airlora.config import AllocateSettings
from airlora.observation import NUM_CONTEXT, IntArray, Observation
from airlora.policy.base import Decision, PolicyProblem, Stage
from airlora.policy.buffer import Buffer
from airlora.policy.curves import CurveFit, fit_curves
from airlora.policy.random import fill_randomly
from airlora.policy.seeding import numpy_state, restore_numpy
from airlora.policy.solver import Gains, fill_greedily

__all__ = ["AllocatePolicy"]

TEXT = slice(2, NUM_CONTEXT)
"""Where the state's vector holds lexical entropy and OOV rate."""

DROP_SHARE = 0.25
"""Components of a plan that are left out, at random, when its neighbourhood is measured."""

BUDGET_SHARES = (0.25, 1.25)
"""Random patterns fill this range of the link's budget: a curve needs points on both sides of where it is used."""


class AllocatePolicy:
    r"""A planner: per-module concave curves, filled by gain per number.

    Decisions take components while they fit and while each lowers the objective of Eq. 9, $U + \lambda \eta$: one
    that is worth less than its share of the price is not sent. Until something was measured all components are equal.

    While exploring, half of the patterns (`settings.exploration`) are random fills of about the budget, the others the
    present plan with a quarter of its components exchanged for random ones.

    Args:
        problem: What is decided about; `cost_weight` is lambda.
        settings: See `AllocateSettings`.
        seed: Of the exploration.
    """

    name: ClassVar[str] = "allocate"

    def __init__(self, problem: PolicyProblem, settings: AllocateSettings, *, seed: int) -> None:
        self.problem = problem
        self.settings = settings
        self._seed = seed
        self._generator = np.random.default_rng(seed)
        self._gains: Gains = np.tile(np.asarray(problem.params_per_rank, dtype=np.float64)[:, None], problem.r_max)
        self._is_fitted = False

    @property
    def gains(self) -> Gains:
        """How far each component lowers the loss, nats, [num_modules, r_max], as fitted so far."""
        return self._gains.copy()

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings and seed."""
        return {"settings": self.settings.model_dump(), "seed": self._seed}

    @classmethod
    def from_arguments(cls, problem: PolicyProblem, arguments: Mapping[str, Any], device: str = "cpu") -> Self:  # noqa: ARG003
        """Return the policy with these `arguments`, nothing measured yet."""
        return cls(problem, AllocateSettings(**arguments["settings"]), seed=arguments["seed"])

    def decide(self, observation: Observation) -> IntArray:
        """Return the ranks that fill the budget as far as components are worth their price."""
        budget = observation.budget_params
        price = self.problem.cost_weight / max(1, budget) if self._is_fitted else 0.0
        return fill_greedily(self._gains, self.problem.params_per_rank, budget, min_gain_per_param=price)

    def explore(self, observation: Observation) -> Decision:
        """Return a pattern to measure: random, or near the present plan."""
        problem, generator = self.problem, self._generator
        if not self._is_fitted or generator.random() < self.settings.exploration:
            budget = int(observation.budget_params * generator.uniform(*BUDGET_SHARES))
            return Decision(fill_randomly(problem.params_per_rank, problem.r_max, budget, generator))
        plan = self.decide(observation)
        kept = generator.binomial(plan, 1.0 - DROP_SHARE).astype(np.int64)
        left = max(0, observation.budget_params - problem.num_params(kept))
        extra = fill_randomly(problem.params_per_rank, problem.r_max, left, generator)
        return Decision(np.minimum(kept + extra, problem.r_max))

    def stages(self, buffer: Buffer, rollout: int) -> Sequence[Stage]:  # noqa: ARG002 (old measurements are as good)
        """Return the one stage "fit", which fits the curves to the whole buffer."""
        return [("fit", lambda: self._fit(buffer))]

    def state_dict(self) -> dict[str, Any]:
        """Return the curves and where the generator stands."""
        return {
            "gains": torch.from_numpy(self._gains.copy()),
            "is_fitted": self._is_fitted,
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._gains = state["gains"].numpy().copy()
        self._is_fitted = state["is_fitted"]
        restore_numpy(self._generator, state["generator"])

    def _fit(self, buffer: Buffer) -> dict[str, float]:
        batch = buffer.newest()
        fit: CurveFit = fit_curves(
            batch.ranks.numpy(),
            batch.losses.double().numpy(),
            batch.vectors[:, TEXT].double().numpy(),
            r_max=self.problem.r_max,
            ridge=self.settings.ridge,
        )
        self._gains, self._is_fitted = fit.gains, True
        return {
            "residual_std": fit.residual_std,
            "num_measurements": float(fit.num_measurements),
            "useful_modules": float((fit.gains[:, 0] > 0).sum()),
        }
