"""Sinusoidal embedding of the diffusion step, e_tau of Eq. 15."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MAX_PERIOD", "time_embedding"]

MAX_PERIOD = 10_000.0
"""Longest period of the embedding, in diffusion steps, divided by 2 pi."""


def time_embedding(timesteps: Tensor, size: int) -> Tensor:
    r"""Return the sinusoidal embedding of diffusion steps at `size // 2` frequencies.

    $$e_\tau = [\cos(\tau \omega_i), \sin(\tau \omega_i)]_i, \qquad \omega_i = 10{,}000^{-i / (size / 2)}$$

    Args:
        timesteps: Diffusion steps tau, int64 [N].
        size: Length of the embedding, >= 2.  An odd length is padded with a 0.

    Returns:
        Embeddings, float32 [N, size]: all cosines, then all sines.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, as in Ho et al. 2020.

    Examples:
        >>> time_embedding(torch.tensor([0]), 4)
        tensor([[1., 1., 0., 0.]])
    """
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * exponents)
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.nn.functional.pad(waves, (0, size - 2 * half))
