"""Loss "expert": imitation of the plans that are optimal under the utility model (expert iteration)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss, LossContext
from airlora.policy.diffusion.losses.advantage_weighted import advantage_weights
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.scaling import ranks_to_unit
from airlora.policy.seeding import numpy_state, restore_numpy
from airlora.policy.settings import DiffusionSettings

__all__ = ["ExpertLoss"]

BUDGET_MARGIN = 1.5
"""Factor by which the planned budgets extend beyond the range of the observed budgets."""

REPLAN_GROWTH = 1.3
"""Growth of the number of measured losses after which plans are computed again.  Planning dominates the run time for
models with couplings."""


@LOSSES.register("expert")
class ExpertLoss(DiffusionLoss):
    r"""Denoising error of the planner's plans, plus the advantage-weighted error of executed decisions.

    $$L = \mathbb{E}_{plans} \lVert \hat\epsilon - \epsilon \rVert^2
        + \kappa\, \mathbb{E}_{executed}\left[w(A)\, \lVert \hat\epsilon - \epsilon \rVert^2\right]$$

    The utility planner is the expert; the diffusion model learns a fast, stochastic approximation of it.  Plans are
    computed again as the utility model learns.  Half of the plans are for observed links and texts, the other half for
    observed texts with random budgets.  The second term replaces the reward of Eq. 19, see `advantage_weighted`.  It
    rewards decisions that were measured to be good even if the utility model disagrees.

    Notation: kappa settings.kappa; w `advantage_weights`.

    Source: Anthony et al. 2017 (arXiv:1705.08439), with a planner instead of tree search.
    """

    uses_utility = True
    explores_by_plans = True

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:
        self.settings = settings
        self._x0 = torch.zeros(0, sample_size)
        self._conditions = torch.zeros(0, condition_size)
        self._planned_at = 0
        self._generator = np.random.default_rng(seed)

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:  # noqa: ARG002
        """Compute new plans if the number of measured losses has grown by `REPLAN_GROWTH`; return metrics."""
        planner, device = context.planner, context.batch.x0.device
        self._x0, self._conditions = self._x0.to(device), self._conditions.to(device)
        if planner.num_fitted > self._planned_at * REPLAN_GROWTH:
            budgets = np.asarray([observation.budget_params for observation in context.observations], dtype=np.float64)
            low, high = np.log(max(1.0, budgets.min() / BUDGET_MARGIN)), np.log(max(2.0, budgets.max() * BUDGET_MARGIN))
            planned = []
            for index in range(self.settings.num_plans):
                observation = context.observations[int(self._generator.integers(len(context.observations)))]
                if index % 2:
                    budget = int(np.exp(self._generator.uniform(low, high)))
                    observation = replace(observation, budget_params=budget)
                planned.append(observation)
            plans = np.stack([planner.plan(observation) for observation in planned])
            self._x0 = torch.from_numpy(ranks_to_unit(plans, planner.problem.r_max)).to(device)
            self._conditions = context.encode(planned).to(device)
            self._planned_at = planner.num_fitted
        return {"num_plans": float(len(self._x0))}

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the denoising error of random plans, as many as `batch` has, plus the weighted error of the batch."""
        rows = torch.randint(len(self._x0), (len(batch),), generator=generator).to(self._x0.device)
        loss = model.squared_error(self._x0[rows], self._conditions[rows], generator).mean()
        if self.settings.kappa == 0.0:
            return loss
        weights = advantage_weights(batch.advantage, self.settings.temperature)
        executed = (weights * model.squared_error(batch.x0, batch.condition, generator)).mean()
        return loss + self.settings.kappa * executed

    def state_dict(self) -> dict[str, Any]:
        """Return the plans, their conditions, the number of losses at planning time, and the generator's state."""
        return {
            "x0": self._x0.cpu(),
            "conditions": self._conditions.cpu(),
            "planned_at": self._planned_at,
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self._x0, self._conditions = state["x0"].clone(), state["conditions"].clone()
        self._planned_at = state["planned_at"]
        restore_numpy(self._generator, state["generator"])
