"""PPO's objective and loss (Eq. 12)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clipped_objective", "ppo_loss"]


def clipped_objective(ratio: Tensor, advantage: Tensor, *, clip_coef: float) -> Tensor:
    r"""Return the clipped surrogate J_CLIP of every step, to be *maximised* (Eq. 12).

    $$J^{CLIP}_t = \min\left(\rho_t \hat A_t,\ \mathrm{clip}(\rho_t, 1 - \epsilon, 1 + \epsilon) \hat A_t\right)$$

    Notation: rho ratio; A^ advantage; epsilon clip_coef.

    Args:
        ratio: pi(a|s) / pi_old(a|s) of the whole vector a, float [N], > 0.
        advantage: Float [N].
        clip_coef: How far the ratio may leave 1 before its gradient ends, > 0.

    Returns:
        Float [N].

    Source: AirLLM Eq. 12; Schulman et al. 2017 (arXiv:1707.06347) Eq. 7.

    >>> clipped_objective(torch.tensor([1.5, 1.5]), torch.tensor([2.0, -2.0]), clip_coef=0.2)
    tensor([ 2.4000, -3.0000])
    """
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef) * advantage)


def ppo_loss(objective: Tensor, value_error: Tensor, entropy: Tensor, *, vf_coef: float, ent_coef: float) -> Tensor:
    r"""Return the loss to be *minimised*, a scalar.

    $$L = -\mathbb{E}[J^{CLIP}] + c_V\, \mathbb{E}[(V(s) - \hat R)^2] / 2 - c_H\, H[\pi]$$

    The paper adds J_CLIP and the value loss and minimises the sum, which would lower the probability of good actions:
    the sign of J_CLIP has to be turned (erratum 4).

    Notation: J_CLIP objective; V(s) - R^ value_error; H entropy; c_V vf_coef; c_H ent_coef.

    Args:
        objective: Float [N].
        value_error: Predicted value less the return, float [N].
        entropy: Scalar, nats.
        vf_coef: >= 0.
        ent_coef: >= 0.

    Source: AirLLM Eq. 12 with the sign turned; Schulman et al. 2017 (arXiv:1707.06347) Eq. 9.

    >>> ppo_loss(torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor(1.0), vf_coef=0.5, ent_coef=0.1)
    tensor(-2.1000)
    """
    return -objective.mean() + vf_coef * 0.5 * value_error.square().mean() - ent_coef * entropy
