"""The diffusion step as waves, e_tau of Eq. 15."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MAX_PERIOD", "time_embedding"]

MAX_PERIOD = 10_000.0
"""The longest wave, in diffusion steps, over 2 pi."""


def time_embedding(timesteps: Tensor, size: int) -> Tensor:
    r"""Return sines and cosines of the step at `size / 2` frequencies.

    $$e_\tau = [\cos(\tau \omega_i), \sin(\tau \omega_i)]_i, \qquad \omega_i = 10{,}000^{-i / (size / 2)}$$

    Args:
        timesteps: Int64 [N].
        size: Length of the embedding, >= 2; an odd length ends in a 0.

    Returns:
        Float32 [N, size].

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, as in Ho et al. 2020.

    >>> time_embedding(torch.tensor([0]), 4)
    tensor([[1., 1., 0., 0.]])
    """
    half = size // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(MAX_PERIOD) * exponents)
    waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.nn.functional.pad(waves, (0, size - 2 * half))
