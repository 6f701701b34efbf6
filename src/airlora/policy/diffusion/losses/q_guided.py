"""Loss "q_guided": denoising error plus the gradient of a critic with respect to x_0."""

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
    r"""Denoising error of executed decisions, minus the normalised value that a critic gives to the estimate of x_0.

    $$L = \mathbb{E}\lVert \hat\epsilon - \epsilon \rVert^2
        - \eta\, \frac{\mathbb{E}\, Q(\hat x_0, c)}{\mathbb{E}\,|Q(x_0, c)|}$$

    x0_hat is the estimate of x_0 at the drawn diffusion step, not the end of a denoising chain.  It takes one network
    call instead of T_diff.

    Notation: eta settings.critic_weight; c condition; Q `LearnedCritic` or `UtilityCritic`.

    Source: Wang et al. 2023 (arXiv:2208.06193) Eq. 3 for the loss, Kang et al. 2023 (arXiv:2305.20081) for x0_hat.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:
        self.weight = settings.critic_weight
        self.uses_utility = settings.critic == "utility"
        kinds: dict[str, type[Critic]] = {"learned": LearnedCritic, "utility": UtilityCritic}
        self._critic = kinds[settings.critic](settings, sample_size, condition_size, seed)

    def prepare(self, model: DiffusionModel, context: LossContext) -> dict[str, float]:  # noqa: ARG002
        """Update the critic from the measured decisions; return its metrics."""
        return self._critic.update(context)

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch."""
        error, x0_hat = model.error_and_x0(batch.x0, batch.condition, generator)
        value = self._critic(x0_hat.clamp(-1.0, 1.0), batch)
        with torch.no_grad():
            scale = self._critic(batch.x0, batch).abs().mean().clamp(min=1e-6)
        return error.mean() - self.weight * value.mean() / scale

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the critic."""
        return self._critic.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the state returned by `state_dict`."""
        self._critic.load_state_dict(state)
