"""Schedule "linear": beta rises evenly."""

from __future__ import annotations

import torch
from torch import Tensor

from airlora.policy.diffusion.schedules import SCHEDULES

__all__ = ["linear"]


@SCHEDULES.register("linear")
def linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return betas evenly spaced from `beta_start` to `beta_end`, float64 [num_train_timesteps].

    Source: Ho et al. 2020 (arXiv:2006.11239), section 4.

    >>> linear(3, 0.1, 0.3)
    tensor([0.1000, 0.2000, 0.3000], dtype=torch.float64)
    """
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)
