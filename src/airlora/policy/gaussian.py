"""The diagonal Gaussian that PPO's continuous vector is drawn from (IV-A2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["gaussian_entropy", "gaussian_log_prob", "gaussian_sample"]


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    r"""Return the log-density of whole vectors.

    $$\ln \pi(a) = -\sum_m \left[ \tfrac{1}{2} \left(\tfrac{a_m - \mu_m}{\sigma_m}\right)^2 + \ln \sigma_m
      + \tfrac{1}{2} \ln 2\pi \right]$$

    Notation: a action; mu mean; ln sigma log_std.

    Args:
        action: Float [..., D].
        mean: Float [..., D].
        log_std: Float [D].

    Returns:
        Float [...], nats.
    """
    standardised = (action - mean) * torch.exp(-log_std)
    return -(0.5 * standardised.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    r"""Return the entropy in nats, a scalar: $\sum_m \ln \sigma_m + \tfrac{D}{2} \ln 2 \pi e$."""
    return log_std.sum() + 0.5 * log_std.numel() * math.log(2.0 * math.pi * math.e)


def gaussian_sample(mean: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
    """Return one draw per row of `mean`; the generator lives on the CPU, so a seed means the same on any device."""
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + torch.exp(log_std) * noise
