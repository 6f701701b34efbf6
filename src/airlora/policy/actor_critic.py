"""The actor that draws a_out and the critic that judges the state (IV-A2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from airlora.policy.networks import two_layer_mlp

__all__ = ["ActorCritic"]


class ActorCritic(nn.Module):
    """A Gaussian over continuous vectors, and a value.

    The actor makes a vector and no softmax per rank, which spares O(6L (r_max + 1)) outputs.  Its spread does not
    depend on the state.

    Args:
        state_size: Length of s.
        action_size: Length of a_out.
        hidden_size: Width of both hidden layers, actor and critic each.
        initial_mean: Every entry of the mean at the start, in unit coordinates.
        initial_std: Every entry of the spread at the start, > 0.
    """

    def __init__(
        self, state_size: int, action_size: int, hidden_size: int, *, initial_mean: float, initial_std: float
    ) -> None:
        super().__init__()
        self.actor = two_layer_mlp(state_size, hidden_size, action_size, out_gain=0.01, out_bias=initial_mean)
        self.critic = two_layer_mlp(state_size, hidden_size, 1, out_gain=1.0)
        self.log_std = nn.Parameter(torch.full((action_size,), math.log(initial_std)))

    def mean(self, state: Tensor) -> Tensor:
        """Return the mean of a_out, float [N, action_size], for states float [N, state_size]."""
        mean: Tensor = self.actor(state)
        return mean

    def value(self, state: Tensor) -> Tensor:
        """Return V(s), float [N], for states float [N, state_size]."""
        value: Tensor = self.critic(state).squeeze(-1)
        return value
