"""Backbone "residual_mlp": the paper's residual MLP (Eq. 15)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from airlora.policy.diffusion.backbones import BACKBONES, Backbone
from airlora.policy.diffusion.time_embedding import time_embedding
from airlora.policy.settings import DiffusionSettings

__all__ = ["ResidualMLP"]


@BACKBONES.register("residual_mlp")
class ResidualMLP(Backbone):
    r"""A residual MLP over everything it is given (Eq. 15).

    $$\hat\epsilon = f_\psi(\mathrm{concat}[x_\tau, e_\tau, a^{out}])$$

    Blocks are pre-normalised, h + W_2 act(W_1 norm(h)).  The last layer starts at zero, so that training starts from a
    quiet output.
    """

    def __init__(self, sample_size: int, condition_size: int, settings: DiffusionSettings) -> None:
        super().__init__(sample_size, condition_size, settings)
        hidden_size = settings.hidden_size
        self.time_embeddings: Tensor
        every_step = torch.arange(settings.num_train_timesteps)
        table = time_embedding(every_step, settings.time_embedding_size)
        self.register_buffer("time_embeddings", table, persistent=False)
        self.enter = nn.Linear(sample_size + settings.time_embedding_size + condition_size, hidden_size)
        self.blocks = nn.ModuleList(_ResidualBlock(hidden_size) for _ in range(settings.num_blocks))
        self.leave = nn.Linear(hidden_size, sample_size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x_tau: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return f_psi of the concatenation."""
        hidden = self.enter(torch.cat([x_tau, self.time_embeddings[timesteps], condition], dim=-1))
        for block in self.blocks:
            hidden = block(hidden)
        prediction: Tensor = self.leave(hidden)
        return prediction


class _ResidualBlock(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        summed: Tensor = hidden + self.branch(hidden)
        return summed
