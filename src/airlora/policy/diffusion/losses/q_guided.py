"""Loss "q_guided": follow a critic's gradient through x_0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss, LossContext
from airlora.policy.diffusion.losses.critics import Critic, LearnedCritic, UtilityCritic
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.settings import DiffusionSettings

__all__ = ["QGuidedLoss"]


@LOSSES.register("q_guided")
class QGuidedLoss(DiffusionLoss):
    r"""Imitation of what was executed, pulled towards what a critic values.

    $$L = \mathbb{E}\lVert \hat\epsilon - \epsilon \rVert^2
        - \eta\, \frac{\mathbb{E}\, Q(\hat x_0, c)}{\mathbb{E}\,|Q(x_0, c)|}$$

    x0_hat is the clean sample that the network's output stands for at the drawn step, not the end of a whole chain: one
    call instead of T_diff.

    Notation: eta settings.critic_weight; c the condition; Q `LearnedCritic` or `UtilityCritic`.

    Source: Wang et al. 2023 (arXiv:2208.06193) Eq. 3 for the loss, Kang et al. 2023 (arXiv:2305.20081) for x0_hat.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:
        self.weight = settings.critic_weight
        self.uses_utility = settings.critic == "utility"
        kinds: dict[str, type[Critic]] = {"learned": LearnedCritic, "utility": UtilityCritic}
        self._critic = kinds[settings.critic](settings, sample_size, condition_size, seed)

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:  # noqa: ARG002
        """Bring the critic up to date."""
        return self._critic.update(context)

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss on a batch."""
        error, x0_hat = model.error_and_x0(batch.x0, batch.condition, generator)
        value = self._critic(x0_hat.clamp(-1.0, 1.0), batch)
        with torch.no_grad():
            size = self._critic(batch.x0, batch).abs().mean().clamp(min=1e-6)
        return error.mean() - self.weight * value.mean() / size

    def state_dict(self) -> dict[str, Any]:
        """Return the critic's state."""
        return self._critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`."""
        self._critic.load_state_dict(state)
