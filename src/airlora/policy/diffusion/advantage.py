"""How much better than expected a decision went, for the link and the text it was made for."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from airlora.observation import NUM_CONTEXT

__all__ = ["contextual_advantage"]

RIDGE = 1e-3
"""Keeps the regressions defined where a context never changes, relative to features of size 1."""

SPREAD_FLOOR = 0.1
"""No context's spread counts as less than this share of the mean spread: there, differences are noise."""


def contextual_advantage(vectors: Tensor, rewards: Tensor, values: Tensor | None = None) -> Tensor:
    r"""Return the advantage of every sample in standard deviations of its own context.

    $$A_i = \frac{R_i - b(c_i)}{\sigma(c_i)}$$

    A reward says little without its context c = (SNR, bandwidth, entropy, OOV rate): on a poor link every decision goes
    badly, and differences are large.  A common baseline and scale would weight the good links and the loud ones
    instead of the good decisions.  b is the critic's value where there is a critic, and else the least-squares fit of
    the reward to c, quadratic with all products; sigma is the fit of |R - b| to the same, times the ratio of standard
    to mean absolute deviation of a Gaussian.

    Args:
        vectors: States, float [N, 4 + num_modules]; the first four entries are c.
        rewards: R, float [N].
        values: V(s) of the critic, float [N]; none: the fit.

    Returns:
        Float32 [N].
    """
    features = _quadratic(vectors[:, :NUM_CONTEXT].double())
    reward = rewards.double()
    residual = reward - (_fitted(features, reward) if values is None else values.double())
    deviation = residual.abs()
    floor = SPREAD_FLOOR * float(deviation.mean())
    spread = math.sqrt(math.pi / 2.0) * _fitted(features, deviation).clamp(min=floor)
    # All rewards alike: nothing was better than anything.
    return torch.where(spread > 0.0, residual / spread, torch.zeros_like(residual)).float()


def _quadratic(context: Tensor) -> Tensor:
    """Return 1, every entry and every product of two, [N, 15]."""
    first, second = torch.triu_indices(NUM_CONTEXT, NUM_CONTEXT)
    return torch.cat([torch.ones_like(context[:, :1]), context, context[:, first] * context[:, second]], dim=1)


def _fitted(features: Tensor, target: Tensor) -> Tensor:
    """Return the ridge regression's prediction of the target at the samples it was fitted to."""
    count, size = features.shape
    gram = features.T @ features / count + RIDGE * torch.eye(size, dtype=features.dtype, device=features.device)
    mean = target.mean()
    weights: Tensor = torch.linalg.solve(gram, features.T @ (target - mean) / count)
    return mean + features @ weights
