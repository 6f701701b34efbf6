"""Loss "literal": Eq. 19 as written."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.losses import LOSSES, DiffusionBatch, DiffusionLoss
from airlora.policy.diffusion.model import DiffusionModel
from airlora.policy.settings import DiffusionSettings

__all__ = ["LiteralLoss"]


@LOSSES.register("literal")
class LiteralLoss(DiffusionLoss):
    r"""The paper's loss (Eq. 19).

    $$L = \mathbb{E} \lVert \hat\epsilon - \epsilon \rVert^2 - \kappa\, \mathbb{E}[R]$$

    The reward is a number measured after a~ was floored: it is constant in psi and moves no weight.  Since x_0 = a~ are
    the model's own samples, what is left is to copy itself (erratum 3).  It is here to compare with the paper;
    `advantage_weighted` learns.

    Notation: kappa settings.kappa; R batch.reward.  The squared error is averaged over the D entries, so that its scale
    does not depend on the model's size.
    """

    def __init__(self, settings: DiffusionSettings, sample_size: int, condition_size: int, seed: int) -> None:  # noqa: ARG002
        self.kappa = settings.kappa

    def __call__(self, model: DiffusionModel, batch: DiffusionBatch, generator: torch.Generator) -> Tensor:
        """Return Eq. 19 on a batch."""
        return model.squared_error(batch.x0, batch.condition, generator).mean() - self.kappa * batch.reward.mean()
