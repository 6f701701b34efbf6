"""Loss "literal": Eq. 19 of the paper as printed."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.settings import DiffusionSettings

__all__ = ["LiteralLoss"]


@LOSSES.register("literal")
class LiteralLoss(DiffusionLoss):
    r"""Loss of the paper as printed (Eq. 19), for comparison.

    $$L = \mathbb{E} \lVert \hat\epsilon - \epsilon \rVert^2 - \kappa\, \mathbb{E}[R]$$

    The reward R is measured after a~ was rounded down.  It does not depend on psi, so its gradient is 0.  The remaining
    term trains the model to reproduce its own samples x_0 = a~ (erratum 3).  `advantage_weighted` learns from the
    reward.

    Notation: kappa settings.kappa; R batch.reward.  The squared error is averaged over the D entries, so its scale does
    not depend on the number of modules.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self.kappa = settings.kappa

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch (Eq. 19)."""
        return model.squared_error(batch.x0, batch.condition, generator).mean() - self.kappa * batch.reward.mean()
