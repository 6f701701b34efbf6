"""Noise schedules: beta of every diffusion step.  The setting `diffusion.beta_schedule` chooses one by name."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from airlora.policy.registry import Registry

__all__ = ["MAX_BETA", "SCHEDULES", "BetaSchedule", "cosine", "linear", "scaled_linear"]

BetaSchedule = Callable[[int, float, float], Tensor]
"""Function (num_train_timesteps, beta_start, beta_end) -> betas, float64 [num_train_timesteps], in (0, 1)."""

SCHEDULES: Registry[BetaSchedule] = Registry("diffusion.beta_schedule")


@SCHEDULES.register("linear")
def linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return betas evenly spaced from `beta_start` to `beta_end`, float64 [num_train_timesteps].

    Source: Ho et al. 2020 (arXiv:2006.11239), section 4.

    Examples:
        >>> linear(3, 0.1, 0.3)
        tensor([0.1000, 0.2000, 0.3000], dtype=torch.float64)
    """
    return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float64)


@SCHEDULES.register("scaled_linear")
def scaled_linear(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    """Return betas with evenly spaced square roots, float64 [num_train_timesteps].

    Source: Rombach et al. 2022 (arXiv:2112.10752), as in diffusers.

    Examples:
        >>> scaled_linear(3, 0.01, 0.09)
        tensor([0.0100, 0.0400, 0.0900], dtype=torch.float64)
    """
    return torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float64).square()


MAX_BETA = 0.999
"""Largest beta of the cosine schedule; beta = 1 would erase the signal at the last step."""

_OFFSET = 0.008


@SCHEDULES.register("cosine")
def cosine(num_train_timesteps: int, beta_start: float, beta_end: float) -> Tensor:  # noqa: ARG001
    r"""Return the betas of a squared-cosine schedule, float64 [num_train_timesteps].

    $$\beta_\tau = 1 - \frac{f(\tau + 1)}{f(\tau)}, \qquad
      f(\tau) = \cos^2\left(\frac{\tau / T + .008}{1.008} \cdot \frac{\pi}{2}\right)$$

    Notation: T num_train_timesteps.  `beta_start` and `beta_end` are ignored.

    Source: Nichol and Dhariwal 2021 (arXiv:2102.09672) Eq. 17.
    """
    shares = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    signal = torch.cos((shares + _OFFSET) / (1.0 + _OFFSET) * math.pi / 2.0).square()
    return (1.0 - signal[1:] / signal[:-1]).clamp(max=MAX_BETA)
