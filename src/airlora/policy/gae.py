"""Generalised advantage estimation (Eq. 11)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gae"]


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:
    r"""Return the advantage of every step (Eq. 11).

    $$\hat A_t = \sum_{l \ge 0} (\gamma \zeta)^l \delta_{t+l}, \qquad
      \delta_t = R_t + \gamma V(s_{t+1}) - V(s_t)$$

    Nothing follows a terminated step: its V(s_{t+1}) counts as 0.  Something would have followed a truncated one: its
    V(s_{t+1}) counts, but the sum stops there, because the next step belongs to another episode.  The sum also stops at
    the last step given.

    Notation: R rewards; V(s_t) values; V(s_{t+1}) next_values; gamma gamma; zeta gae_lambda.

    Args:
        rewards: Float [T], in the order of time.
        values: Float [T].
        next_values: Float [T], of the state that followed each step, also where an episode ended.
        terminated: Bool [T].
        truncated: Bool [T].
        gamma: Discount, 0 to 1.
        gae_lambda: 0 (one-step) to 1 (Monte Carlo).

    Returns:
        Float [T].

    Source: AirLLM Eq. 11; Schulman et al. 2016 (arXiv:1506.02438) Eq. 16.

    >>> never = torch.zeros(2, dtype=torch.bool)
    >>> gae(torch.ones(2), torch.zeros(2), torch.zeros(2), never, never, gamma=0.5, gae_lambda=1.0)
    tensor([1.5000, 1.0000])
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    continues = gamma * gae_lambda * ~(terminated | truncated)
    advantages = torch.zeros_like(deltas)
    following = torch.zeros_like(deltas[0])
    for step in reversed(range(len(deltas))):
        following = deltas[step] + continues[step] * following
        advantages[step] = following
    return advantages
