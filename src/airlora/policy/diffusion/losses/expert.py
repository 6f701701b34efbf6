"""Loss "expert": imitate the plans that are best by the utility model."""

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
"""Budgets that are planned for reach beyond those that were met by this factor: a new link is seldom a known one."""


REPLAN_GROWTH = 1.3
"""Plans are made anew when the utility model has seen so many times as many losses: they are most of the work
where modules interact."""


@LOSSES.register("expert")
class ExpertLoss(DiffusionLoss):
    r"""Expert iteration: the planner is the expert, the diffusion model its fast, stochastic form.

    $$L = \mathbb{E}_{plans} \lVert \hat\epsilon - \epsilon \rVert^2
        + \kappa\, \mathbb{E}_{executed}\left[w(A)\, \lVert \hat\epsilon - \epsilon \rVert^2\right]$$

    Plans are made anew as the utility model learns, half of them for links and texts that were met, half for other
    budgets.  The second term is Eq. 19's reward in the form of `advantage_weighted`: what was measured to
    go well pulls too, whatever the utility model thinks of it.

    Source: Anthony et al. 2017 (arXiv:1705.08439), with a planner in the place of tree search.
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
        """Plan again if the utility model has seen much more."""
        advisor, device = context.advisor, context.batch.x0.device
        self._x0, self._conditions = self._x0.to(device), self._conditions.to(device)
        if advisor.num_fitted > self._planned_at * REPLAN_GROWTH:
            budgets = np.asarray([observation.budget_params for observation in context.observations], dtype=np.float64)
            low, high = np.log(max(1.0, budgets.min() / BUDGET_MARGIN)), np.log(max(2.0, budgets.max() * BUDGET_MARGIN))
            met = []
            for index in range(self.settings.num_plans):
                observation = context.observations[int(self._generator.integers(len(context.observations)))]
                if index % 2:
                    budget = int(np.exp(self._generator.uniform(low, high)))
                    observation = replace(observation, budget_params=budget)
                met.append(observation)
            plans = np.stack([advisor.plan(observation) for observation in met])
            self._x0 = torch.from_numpy(ranks_to_unit(plans, advisor.problem.r_max)).to(device)
            self._conditions = context.encode(met).to(device)
            self._planned_at = advisor.num_fitted
        return {"num_plans": float(len(self._x0))}

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the denoising error on as many plans as the batch is long, and the weighted one on the batch."""
        rows = torch.randint(len(self._x0), (len(batch),), generator=generator).to(self._x0.device)
        loss = model.squared_error(self._x0[rows], self._conditions[rows], generator).mean()
        if self.settings.kappa == 0.0:
            return loss
        weights = advantage_weights(batch.advantage, self.settings.temperature)
        executed = (weights * model.squared_error(batch.x0, batch.condition, generator)).mean()
        return loss + self.settings.kappa * executed

    def state_dict(self) -> dict[str, Any]:
        """Return the plans, what they were made from, and where the generator stands."""
        return {
            "x0": self._x0.cpu(),
            "conditions": self._conditions.cpu(),
            "planned_at": self._planned_at,
            "generator": numpy_state(self._generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._x0, self._conditions = state["x0"].clone(), state["conditions"].clone()
        self._planned_at = state["planned_at"]
        restore_numpy(self._generator, state["generator"])
