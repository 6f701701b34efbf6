"""Schedule "scaled_linear": the root of beta rises evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.schedules import SCHEDULES

__all__ = ["scaled_linear"]


@SCHEDULES.register("scaled_linear")
def scaled_linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return betas whose roots are evenly spaced, float64 [num_train_timesteps].

    Source: Rombach et al. 2022 (arXiv:2112.10752), as in diffusers.

    >>> scaled_linear(3, 0.01, 0.09)
    tensor([0.0100, 0.0400, 0.0900], dtype=torch.float64)
    """
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64).square()
