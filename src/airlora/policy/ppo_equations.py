"""Equations of PPO: advantages (Eq. 11), clipped objective and loss (Eq. 12), diagonal Gaussian of the actor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["clipped_objective", "gae", "gaussian_entropy", "gaussian_log_prob", "gaussian_sample", "ppo_loss"]


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
    r"""Return the generalised advantage estimate of every step (Eq. 11).

    $$\hat A_t = \sum_{l \ge 0} (\gamma \zeta)^l \delta_{t+l}, \qquad
      \delta_t = R_t + \gamma V(s_{t+1}) - V(s_t)$$

    Notation: R rewards; V(s_t) values; V(s_{t+1}) next_values; gamma gamma; zeta gae_lambda.

    The V(s_{t+1}) of a terminated step counts as 0, because nothing follows it. The V(s_{t+1}) of a truncated step
    counts. The sum stops at a terminated or truncated step and at the last step given.

    Args:
        rewards: Rewards in the order of time, float [T].
        values: Value of the state before each step, float [T].
        next_values: Value of the state after each step, float [T]. At the end of an episode this is the state that
            ended it, not the first state of the next episode.
        terminated: Whether the episode ended in a final state, bool [T].
        truncated: Whether the episode was stopped before a final state, bool [T].
        gamma: Discount factor, 0 to 1.
        gae_lambda: Weight of later steps, from 0 (one-step) to 1 (Monte Carlo).

    Returns:
        Advantages, float [T].

    Source: AirLLM Eq. 11; Schulman et al. 2016 (arXiv:1506.02438) Eq. 16.

    Examples:
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


def clipped_objective(ratio: Tensor, advantage: Tensor, *, clip_coef: float) -> Tensor:
    r"""Return the clipped surrogate J_CLIP of every step, to be *maximised* (Eq. 12).

    $$J^{CLIP}_t = \min\left(\rho_t \hat A_t,\ \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) \hat A_t\right)$$

    Notation: rho ratio; A^ advantage; epsilon clip_coef.

    Args:
        ratio: pi(a|s) / pi_old(a|s) of the whole vector a, float [N], > 0.
        advantage: Advantage of every step, float [N].
        clip_coef: Largest distance of the ratio from 1 at which it still has a gradient, > 0.

    Returns:
        Objective of every step, float [N].

    Source: AirLLM Eq. 12; Schulman et al. 2017 (arXiv:1707.06347) Eq. 7.

    Examples:
        >>> clipped_objective(torch.tensor([1.5, 1.5]), torch.tensor([2.0, -2.0]), clip_coef=0.2)
        tensor([ 2.4000, -3.0000])
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef) * advantage)


def ppo_loss(objective: Tensor, value_error: Tensor, entropy: Tensor, *, vf_coef: float, ent_coef: float) -> Tensor:
    r"""Return the loss to be *minimised*, a scalar (Eq. 12).

    $$L = -\mathbb{E}[J^{CLIP}] + c_V\, \mathbb{E}[(V(s) - \hat R)^2] / 2 - c_H\, H[\pi]$$

    Notation: J_CLIP objective; V(s) - R^ value_error; H entropy; c_V vf_coef; c_H ent_coef.

    The paper adds J_CLIP and the value loss and minimises the sum, which would lower the probability of good actions.
    The sign of J_CLIP is therefore reversed here (erratum 4).

    Args:
        objective: J_CLIP of every step, float [N].
        value_error: Predicted value minus the return, float [N].
        entropy: Entropy of the policy, scalar, nats.
        vf_coef: Weight of the value loss, >= 0.
        ent_coef: Weight of the entropy, >= 0.

    Source: AirLLM Eq. 12 with the sign reversed; Schulman et al. 2017 (arXiv:1707.06347) Eq. 9.

    Examples:
        >>> ppo_loss(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor(1.0), vf_coef=0.5, ent_coef=0.1)
        tensor(-2.1000)
    """
    return -objective.mean() + vf_coef * 0.5 * value_error.square().mean() - ent_coef * entropy


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    r"""Return the log-density of whole vectors under a diagonal Gaussian.

    $$\ln \pi(a) = -\sum_m \left[ \tfrac{1}{2} \left(\tfrac{a_m - \mu_m}{\sigma_m}\right)^2 + \ln \sigma_m
      + \tfrac{1}{2} \ln 2\pi \right]$$

    Notation: a action; mu mean; ln sigma log_std.

    Args:
        action: Vectors, float [..., D].
        mean: Means of the Gaussian, float [..., D].
        log_std: Logarithms of the standard deviations, float [D].

    Returns:
        Log-density of every vector, float [...], nats.
    """
    standardised = (action - mean) * torch.exp(-log_std)
    return -(0.5 * standardised.square() + log_std + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def gaussian_entropy(log_std: Tensor) -> Tensor:
    r"""Return the entropy of a diagonal Gaussian, a scalar, nats: $\sum_m \ln \sigma_m + \tfrac{D}{2} \ln 2 \pi e$."""
    return log_std.sum() + 0.5 * log_std.numel() * math.log(2.0 * math.pi * math.e)


def gaussian_sample(mean: Tensor, log_std: Tensor, generator: torch.Generator) -> Tensor:
    """Return one draw per row of `mean`.

    The generator lives on the CPU, so that a seed gives the same draws on every device.
    """
    noise = torch.randn(mean.shape, generator=generator).to(mean.device)
    return mean + torch.exp(log_std) * noise
