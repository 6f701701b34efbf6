"""Loss "advantage_weighted": imitate the decisions that went better than expected."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.settings import DiffusionSettings

__all__ = ["MAX_WEIGHT", "AdvantageWeightedLoss", "advantage_weights"]

MAX_WEIGHT = 20.0
"""No sample counts more than this many times an average one."""


def advantage_weights(advantage: Tensor, temperature: float) -> Tensor:
    r"""Return the weight of every sample, mean 1.

    $$w_i \propto \min\left(e^{A_i / T},\ 20\right)$$

    Notation: A advantage; T temperature.

    Args:
        advantage: In standard deviations, float [N].
        temperature: > 0; small: only the best count; large: all count alike.

    Source: Peng et al. 2019 (arXiv:1910.00177) Algorithm 1, whose weights are clipped at 20 too.
    """
    weights = torch.exp(advantage / temperature).clamp(max=MAX_WEIGHT)
    return weights / weights.mean()


@LOSSES.register("advantage_weighted")
class AdvantageWeightedLoss(DiffusionLoss):
    r"""The reward weights the samples, which is how it reaches psi (erratum 3).

    $$L = \mathbb{E}\left[w(A)\, \lVert \hat\epsilon - \epsilon \rVert^2\right]$$

    Its minimum is the noise estimate of the density pi_old(a) w(A(a)): the model's own samples, tilted towards those
    that went well.  Repeated, this is policy improvement (reward-weighted regression).

    Source: Peng et al. 2019 (arXiv:1910.00177) Eq. 14, with the denoising error in the place of the log-likelihood.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self.temperature = settings.temperature

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the weighted denoising error on a batch."""
        weights = advantage_weights(batch.advantage, self.temperature)
        return (weights * model.squared_error(batch.x0, batch.condition, generator)).mean()
