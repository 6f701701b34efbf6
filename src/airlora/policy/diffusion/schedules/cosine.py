r"""Schedule "cosine": \bar\alpha falls as a squared cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from airlora.policy.diffusion.schedules import SCHEDULES

__all__ = ["MAX_BETA", "cosine"]

MAX_BETA = 0.999
"""Keeps the last step from erasing the signal entirely."""

_OFFSET = 0.008


@SCHEDULES.register("cosine")
def cosine(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:  # noqa: ARG001
    r"""Return the betas of a squared-cosine schedule, float64 [num_train_timesteps].

    $$\beta_\tau = 1 - \frac{f(\tau + 1)}{f(\tau)}, \qquad
      f(\tau) = \cos^2\left(\frac{\tau / T + .008}{1.008} \cdot \frac{\pi}{2}\right)$$

    Notation: T num_train_timesteps.  `beta_start` and `beta_end` have no say here.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672) Eq. 17.
    """
    shares = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    signal = torch.cos((shares + _OFFSET) / (1.0 + _OFFSET) * math.pi / 2.0).square()
    return (1.0 - signal[1:] / signal[:-1]).clamp(max=MAX_BETA)
