"""The two-layer MLP of PPO's actor and critic (Table II: d_MLP)."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["two_layer_mlp"]


def two_layer_mlp(
    in_size: int, hidden_size: int, out_size: int, *, out_gain: float, out_bias: float = 0.0
) -> nn.Sequential:
    """Return in -> hidden -> hidden -> out with tanh, orthogonal weights and, before the last layer, zero biases.

    Args:
        in_size: Length of the input.
        hidden_size: Width of both hidden layers.
        out_size: Length of the output.
        out_gain: Gain of the last layer's weights; .01 starts a policy near its bias, 1 is usual for a value.
        out_bias: Every bias of the last layer.

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
