"""Advantage of decisions: the reward above a baseline, normalised for each link and text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from airlora.observation import NUM_CONTEXT

__all__ = ["contextual_advantage"]

RIDGE = 1e-3
"""Ridge of the regressions, for features of size 1.  It keeps them defined where a context never changes."""

MIN_SPREAD_RATIO = 0.1
"""Smallest spread of a context, as a share of the mean spread.  Differences below it are noise."""


def contextual_advantage(vectors: Tensor, rewards: Tensor, values: Tensor | None = None) -> Tensor:
    r"""Return the advantage of every sample, in standard deviations of the reward in its context.

    $$A_i = \frac{R_i - b(c_i)}{\sigma(c_i)}$$

    Mean and spread of the reward depend on the context c = (SNR, bandwidth, entropy, OOV rate).  On a poor link all
    rewards are low and differ widely.  A common baseline and scale would favour good or noisy links instead of good
    decisions.  The baseline b is the critic's value.  Without a critic it is a ridge regression of the reward on c,
    with all quadratic terms.  sigma is the same regression of |R - b|, times the ratio of standard deviation to mean
    absolute deviation of a Gaussian.

    Args:
        vectors: State vectors, float [N, 4 + num_modules]; the first four entries are c.
        rewards: Rewards R, float [N].
        values: Values V(s) of a critic, float [N].  None uses the regression as the baseline.

    Returns:
        Advantages, float32 [N].
    """
    features = _quadratic(vectors[:, :NUM_CONTEXT].double())
    reward = rewards.double()
    residual = reward - (_fitted(features, reward) if values is None else values.double())
    deviation = residual.abs()
    floor = MIN_SPREAD_RATIO * float(deviation.mean())
    spread = math.sqrt(math.pi / 2.0) * _fitted(features, deviation).clamp(min=floor)
    # Equal rewards have no spread, and all advantages are 0.
    return torch.where(spread > 0.0, residual / spread, torch.zeros_like(residual)).float()


def _quadratic(context: Tensor) -> Tensor:
    """Return a constant 1, all entries and all products of two entries, [N, 15]."""
    first, second = torch.triu_indices(NUM_CONTEXT, NUM_CONTEXT)
    return torch.cat([torch.ones_like(context[:, :1]), context, context[:, first] * context[:, second]], dim=1)


def _fitted(features: Tensor, target: Tensor) -> Tensor:
    """Return the in-sample predictions of a ridge regression of the target, [N]."""
    count, size = features.shape
    gram = features.T @ features / count + RIDGE * torch.eye(size, dtype=features.dtype, device=features.device)
    mean = target.mean()
    weights: Tensor = torch.linalg.solve(gram, features.T @ (target - mean) / count)
    return mean + features @ weights
