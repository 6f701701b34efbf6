"""Loss "advantage_weighted": denoising error weighted by the advantage of each decision."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.settings import DiffusionSettings

__all__ = ["MAX_WEIGHT", "AdvantageWeightedLoss", "advantage_weights"]

MAX_WEIGHT = 20.0
"""Upper limit of the exponential weights before they are normalised."""


def advantage_weights(advantage: Tensor, temperature: float) -> Tensor:
    r"""Return the weight of every sample, float [N], with mean 1.

    $$w_i \propto \min\left(e^{A_i / T},\ 20\right)$$

    Notation: A advantage; T temperature.

    Args:
        advantage: Advantages in standard deviations, float [N].
        temperature: Temperature > 0.  A small one selects the best samples, a large one weights all samples equally.

    Source: Peng et al. 2019 (arXiv:1910.00177) Algorithm 1, which also clips the weights at 20.
    """
    weights = torch.exp(advantage / temperature).clamp(max=MAX_WEIGHT)
    return weights / weights.mean()


@LOSSES.register("advantage_weighted")
class AdvantageWeightedLoss(DiffusionLoss):
    r"""Denoising error of executed decisions, weighted by their advantage.

    $$L = \mathbb{E}\left[w(A)\, \lVert \hat\epsilon - \epsilon \rVert^2\right]$$

    The gradient depends on the reward, unlike that of Eq. 19 in the paper (erratum 3).  The minimum is the noise
    estimate of the density pi_old(a) w(A(a)), in which good decisions are more likely.  Repeated stages improve the
    policy (reward-weighted regression).

    Source: Peng et al. 2019 (arXiv:1910.00177) Eq. 14, with the denoising error instead of the log-likelihood.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self.temperature = settings.temperature

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the weighted denoising error of a batch."""
        weights = advantage_weights(batch.advantage, self.temperature)
        return (weights * model.squared_error(batch.x0, batch.condition, generator)).mean()
