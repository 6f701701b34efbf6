"""Backbone "unet": the 1-D U-Net of the paper, along the axis of the adapted modules (Eq. 15)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from airlora.policy.diffusion.backbones import BACKBONES, Backbone
from airlora.policy.diffusion.time_embedding import time_embedding
from airlora.policy.settings import DiffusionSettings

__all__ = ["UNet1D", "num_levels"]

NUM_GROUPS = 4
"""Number of groups of every group norm.  Channels are a multiple of 8, so a group has at least two."""


def num_levels(sample_size: int, depth: int) -> int:
    """Return the number of resolutions of a U-Net over `sample_size` modules, at most `depth`.

    Every level halves the axis, rounding up.  The deepest possible level has one module.

    Examples:
        >>> num_levels(36, 6), num_levels(6, 6), num_levels(1, 6)
        (6, 4, 1)
    """
    return min(depth, 1 + (sample_size - 1).bit_length())


@BACKBONES.register("unet")
class UNet1D(Backbone):
    r"""U-Net along the axis of the adapted modules, in their order in the model (Eq. 15).

    $$\hat\epsilon = f_\psi(\mathrm{concat}[x_\tau, e_\tau, a^{out}])$$

    The input has two channels along the D modules.  The first channel is x_tau.  The second is a linear map of the
    condition to D entries, which can align a condition per module, such as a^out, with the modules.  The bias of that
    map distinguishes the modules.  An embedding of e_tau and the condition scales and shifts the channels of every
    block (FiLM).

    Resolution i has C_i = C_1 g^(i-1) channels.  C_1 is the setting `unet_channels`.  The growth g is
    `unet_channel_growth`; the paper has 2.

    Every level halves the axis, rounding up.  Upsampling doubles the axis and truncates it to the length of the skip
    connection, so every D works without padding.  `num_levels` limits the depth.  The last layer is initialised to
    zero, so an untrained network outputs zeros.

    Source: AirLLM section IV-B, Table II (depth 6, kernel 3); blocks as in Ho et al. 2020 (arXiv:2006.11239) appendix
    B, along one axis and with FiLM as in Janner et al. 2022 (arXiv:2205.09991) and Chi et al. 2023 (arXiv:2303.04137).
    """

    def __init__(self, sample_size: int, condition_size: int, settings: DiffusionSettings) -> None:
        super().__init__(sample_size, condition_size, settings)
        kernel_size, hidden_size, padding = (
            settings.unet_kernel_size,
            settings.hidden_size,
            settings.unet_kernel_size // 2,
        )
        levels = num_levels(sample_size, settings.unet_depth)
        widths = [settings.unet_channels * settings.unet_channel_growth**level for level in range(levels)]
        steps = list(pairwise(widths))
        self.time_embeddings: Tensor
        every_step = torch.arange(settings.num_train_timesteps)
        table = time_embedding(every_step, settings.time_embedding_size)
        self.register_buffer("time_embeddings", table, persistent=False)
        self.align = nn.Linear(condition_size, sample_size)
        self.embed = nn.Sequential(
            nn.Linear(settings.time_embedding_size + condition_size, hidden_size),
            nn.SiLU(),
            nn.Linear(hidden_size, hidden_size),
            nn.SiLU(),
        )
        self.enter = nn.Conv1d(2, widths[0], kernel_size, padding=padding)
        self.down = nn.ModuleList(_FilmBlock(width, width, kernel_size, hidden_size) for width in widths)
        self.halve = nn.ModuleList(
            nn.Conv1d(width, below, kernel_size, stride=2, padding=padding) for width, below in steps
        )
        # From the lowest resolution up: the upsampled channels and those of the skip connection.
        self.up = nn.ModuleList(
            _FilmBlock(below + width, width, kernel_size, hidden_size) for width, below in reversed(steps)
        )
        self.leave = nn.Conv1d(widths[0], 1, kernel_size, padding=padding)
        for parameter in self.leave.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x_tau: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        """Return the predictions, float [N, D]; arguments as in `Backbone.forward`."""
        embedding = self.embed(torch.cat([self.time_embeddings[timesteps], condition], dim=-1))
        hidden = self.down[0](self.enter(torch.stack([x_tau, self.align(condition)], dim=1)), embedding)
        skipped = []
        for halve, block in zip(self.halve, self.down[1:], strict=True):
            skipped.append(hidden)
            hidden = block(halve(hidden), embedding)
        for block in self.up:
            skip = skipped.pop()
            doubled = hidden.repeat_interleave(2, dim=-1)[..., : skip.shape[-1]]
            hidden = block(torch.cat([doubled, skip], dim=1), embedding)
        prediction: Tensor = self.leave(hidden).squeeze(1)
        return prediction


class _FilmBlock(nn.Module):
    """Residual block of two convolutions with a scale and a shift per channel (FiLM) in between."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, embedding_size: int) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.first = nn.Sequential(
            nn.GroupNorm(NUM_GROUPS, in_channels),
            nn.SiLU(),
            nn.Conv1d(in_channels, channels, kernel_size, padding=padding),
            nn.GroupNorm(NUM_GROUPS, channels),
        )
        self.film = nn.Linear(embedding_size, 2 * channels)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv1d(channels, channels, kernel_size, padding=padding))
        self.shortcut = nn.Identity() if in_channels == channels else nn.Conv1d(in_channels, channels, 1)

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[..., None].chunk(2, dim=1)
        summed: Tensor = self.shortcut(hidden) + self.second(self.first(hidden) * (1.0 + scale) + shift)
        return summed
