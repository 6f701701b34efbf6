"""Classifier-free guidance: one network predicts with and without its condition (section IV-B)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["drop_condition", "guide", "with_presence"]


def with_presence(condition: Tensor, present: Tensor) -> Tensor:
    """Return the condition with a presence flag appended; rows without a condition are all zeros.

    The flag distinguishes an absent condition from a condition of zeros.  The weights of the flag in the network's
    first layer take the role of the learned null condition.

    Args:
        condition: Conditions, float [N, C].
        present: Whether each sample has a condition, bool [N].

    Returns:
        Conditions and flags, float [N, C + 1].

    Examples:
        >>> with_presence(torch.ones(2, 2), torch.tensor([True, False]))
        tensor([[1., 1., 1.],
                [0., 0., 0.]])
    """
    flag = present[:, None].to(condition.dtype)
    return torch.cat([condition * flag, flag], dim=-1)


def drop_condition(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Return a random mask of the training samples that keep their condition, bool [count] on the CPU.

    Args:
        count: Number of training samples.
        probability: Probability that a sample loses its condition, 0 to 1.
        generator: Torch generator on the CPU that draws the mask.

    Source: Ho and Salimans 2021 (arXiv:2207.12598), Algorithm 1.
    """
    return torch.rand(count, generator=generator) >= probability


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    r"""Return the guided prediction; a scale above 1 extrapolates beyond the conditional prediction.

    $$\tilde\epsilon = \epsilon_u + w\,(\epsilon_c - \epsilon_u)$$

    The equation holds for every prediction type.  At a given x_tau each type is an affine function of epsilon, and the
    two weights sum to 1.

    Notation: epsilon_u unconditional; epsilon_c conditional; w guidance_scale.

    Args:
        unconditional: Network output without the condition, float, any shape.
        conditional: Network output with the condition, float, same shape.
        guidance_scale: w, >= 0; 1 is the conditional prediction and 0 the unconditional one.

    Source: Ho and Salimans 2021 (arXiv:2207.12598) Eq. 6; the paper's scale is w - 1.

    Examples:
        >>> guide(torch.tensor(1.0), torch.tensor(2.0), 1.5)
        tensor(2.5000)
    """
    return unconditional + guidance_scale * (conditional - unconditional)
