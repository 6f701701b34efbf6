"""Networks of PPO: a two-layer MLP, and the actor and critic made of it (IV-A2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["ActorCritic", "two_layer_mlp"]


class ActorCritic(nn.Module):
    """An actor with a Gaussian over continuous vectors, and a critic with a value.

    The actor has one output per entry of a_out. A softmax per module would need O(6L (r_max + 1)) outputs. The standard
    deviations of the Gaussian do not depend on the state.

    Args:
        state_size: Length of the state vector s.
        action_size: Length of a_out.
        hidden_size: Width of both hidden layers, the same in the actor and the critic.
        initial_mean: Initial mean of every entry of a_out, in unit coordinates.
        initial_std: Initial standard deviation of every entry of a_out, > 0.
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


def two_layer_mlp(
    in_size: int, hidden_size: int, out_size: int, *, out_gain: float, out_bias: float = 0.0
) -> nn.Sequential:
    """Return an MLP with two hidden tanh layers of equal width (Table II: d_MLP).

    Weights are orthogonal, and the biases of both hidden layers are zero.

    Args:
        in_size: Length of the input.
        hidden_size: Width of both hidden layers.
        out_size: Length of the output.
        out_gain: Gain of the last layer's weights. A policy with gain .01 starts near its bias; 1 is usual for a value.
        out_bias: Initial value of every bias of the last layer.

    Source: Andrychowicz et al. 2021 (arXiv:2006.05990), choices of initialisation; CleanRL `ppo_continuous_action.py`.
    """
    return nn.Sequential(
        _orthogonal(nn.Linear(in_size, hidden_size), math.sqrt(2.0)),
        nn.Tanh(),
        _orthogonal(nn.Linear(hidden_size, hidden_size), math.sqrt(2.0)),
        nn.Tanh(),
        _orthogonal(nn.Linear(hidden_size, out_size), out_gain, out_bias),
    )


def _orthogonal(layer: nn.Linear, gain: float, bias: float = 0.0) -> nn.Linear:
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.constant_(layer.bias, bias)
    return layer
