"""Classifier-free guidance: the same network with and without its condition (IV-B)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_condition", "guide", "with_presence"]


def with_presence(condition: Tensor, present: Tensor) -> Tensor:
    """Return the condition and a flag that says whether it is there; zeros where it is not.

    The flag tells an absent condition from one that happens to be zero.  Its weights in the network's first layer are
    the learned null condition.

    Args:
        condition: Float [N, C].
        present: Bool [N].

    Returns:
        Float [N, C + 1].

    >>> with_presence(torch.ones(2, 2), torch.tensor([True, False]))
    tensor([[1., 1., 1.],
            [0., 0., 0.]])
    """
    flag = present[:, None].to(condition.dtype)
    return torch.cat([condition * flag, flag], dim=-1)


def drop_condition(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return for each of `count` training samples whether its condition stays, bool [count] on the CPU.

    Source: Ho and Salimans 2021 (arXiv:2207.12598), Algorithm 1.
    """
    return torch.rand(count, generator=generator) >= probability


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    r"""Return the guided prediction, past the conditional one for a scale above 1.

    $$\tilde\epsilon = \epsilon_u + w\,(\epsilon_c - \epsilon_u)$$

    It may be applied to any prediction type: each is an affine function of epsilon at a given x_tau, and the weights
    sum to 1.

    Notation: epsilon_u unconditional; epsilon_c conditional; w guidance_scale.

    Source: Ho and Salimans 2021 (arXiv:2207.12598) Eq. 6, whose scale is w - 1.

    >>> guide(torch.tensor(1.0), torch.tensor(2.0), 1.5)
    tensor(2.5000)
    """
    return unconditional + guidance_scale * (conditional - unconditional)
